"""How a recipe trains a model, from the settings of the command line: `TrainingPlan`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from tfadv import specs
from tfadv.errors import UserError
from tfadv.objectives import DEFENSE_LEARNING_RATE, OBJECTIVES
from tfadv.objectives.base import Objective, as_objective
from tfadv.training import TrainingSettings
from tfadv.training.trainer import attacked_images

if TYPE_CHECKING:
    from tfadv.config import Config
    from tfadv.experiments.recipe import Recipe

# The settings that the training of every recipe depends on.
TRAINING_SETTINGS = (
    "seed", "batch_size", "batch_parts", "precision", "sync_batchnorm", "patience",
)  # fmt: skip


FINE_TUNING_RATE = 0.01  # of SGD, for weights that were trained before


class TrainingPlan:
    """Objective, length and settings of the training of one recipe."""

    def __init__(self, config: Config, recipe: Recipe, own_model: bool = False) -> None:
        """Takes all settings, the recipe that says which of them apply, and whether the model is the user's own."""
        self._config, self._recipe, self._own_model = config, recipe, own_model

    def settings(self) -> dict[str, Any]:
        """What the trained weights depend on, apart from images and first weights; can be written as JSON."""
        config, recipe = self._config, self._recipe
        return {
            "recipe": recipe.name,
            "images": recipe.samples,
            "objective": [recipe.objective, *map(list, recipe.objective_settings)],
            "balance": recipe.balance,
            "augmentations": list(self._augmentations),
            "epochs": 0 if self._budget else getattr(config, recipe.epochs),
            "budget": self._budget,
            "average": self._average,
            **{name: getattr(config, name) for name in TRAINING_SETTINGS},
            "learning_rate": self._learning_rate,
            "optimizer": self.optimizer,
            "weight_decay": self.weight_decay,
            **self._adversarial_settings,
        }

    def training_settings(self, images: int, spent: int, validation: int) -> TrainingSettings:
        """The settings of `Trainer.fit`.

        Args:
          images: number of training samples.
          spent: gradient images that were spent on stored samples; they count towards the budget.
          validation: number of validation images.

        Raises:
          UserError: the budget pays for no step.
        """
        config = self._config
        return TrainingSettings(
            epochs=getattr(config, self._recipe.epochs),
            batch_size=config.batch_size,
            learning_rate=self._learning_rate,
            patience=config.patience,
            seed=config.seed,
            augmentations=self._augmentations,
            checkpoint_steps=config.checkpoint_steps,
            steps=self._steps(images, spent, validation),
            keep_start=self._own_model,
            average=self._average,
            **self._adversarial_settings,
        )

    @functools.cached_property
    def objective(self) -> Objective:
        """The objective with its settings.

        Raises:
          UserError: it does not accept them.
        """
        entry, settings = OBJECTIVES[self._recipe.objective], dict(self._recipe.objective_settings)
        if isinstance(entry, type):
            entry = specs.build_with(self._recipe.objective, settings, OBJECTIVES)
        elif settings:
            raise UserError(f"{self._recipe.name}: the objective {self._recipe.objective} has no settings.")
        return as_objective(entry)

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay."""
        return getattr(self._config, self._recipe.weight_decay)

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of eps at which each training image is seen; 0 is the clean image."""
        if self._recipe.samples == "clean":
            return (0.0,)
        ramp = self._config.round_ramp
        share = min(1.0, self._recipe.round / ramp) if self._recipe.round and ramp else 1.0
        return (0.0, *(share * eps for eps in self._config.epsilons))

    @property
    def _adversarial_settings(self) -> dict[str, Any]:
        """The settings that matter to adversarial objectives only; empty for others."""
        config = self._config
        if not self.objective.is_adversarial:
            return {}
        return {
            "eps": config.defense_eps or max(config.epsilons),
            "eps_schedule": config.defense_eps_schedule,
        }

    @property
    def _average(self) -> float:
        """Decay of the moving average of the weights: the same for all recipes that are compared."""
        return self._config.defense_average if self._recipe.budgeted else 0.0

    @property
    def optimizer(self) -> str:
        """Adam suits weights that were trained by any optimizer; the built-in models have been trained by SGD."""
        defends = self._own_model or (self._recipe.budgeted and self.objective.is_adversarial)
        return self._config.defense_optimizer if defends else "sgd"

    @property
    def _learning_rate(self) -> float:
        """Peak of the learning rate; that of `--learning_rate` is for SGD, unless the model is the user's own."""
        config, adam = self._config, self.optimizer == "adam"
        of_defenses = config.defense_learning_rate if self._recipe.budgeted else 0.0
        given = 0.0 if adam and not self._own_model else config.learning_rate
        return of_defenses or given or (DEFENSE_LEARNING_RATE if adam else FINE_TUNING_RATE)

    @property
    def learning_rate_setting(self) -> str:
        """The flag of the learning rate with its value, for messages."""
        flag = "defense_learning_rate" if self._recipe.budgeted else "learning_rate"  # which wins where both are given
        return f"--{flag} (now {self._learning_rate:g})"

    @property
    def _budget(self) -> float:
        """Gradient images to spend; 0 where the number of epochs is given."""
        config = self._config
        return config.budget / (config.rounds if self._recipe.rounds else 1) if self._recipe.budgeted else 0

    def _steps(self, images: int, spent: int, validation: int) -> int:
        """The optimizer steps that the budget pays for, or 0 where the number of epochs is given.

        Attacks on validation images, before training and after each epoch, are paid from it as well.
        """
        if not self._budget:
            return 0
        batch = min(self._config.batch_size, images)
        per_epoch, per_step = images // batch, batch * self.objective.cost
        per_validation = attacked_images(validation, batch) * self.objective.validation_cost
        left = self._budget - spent - per_validation
        epochs, rest = divmod(left, per_epoch * per_step + per_validation)
        steps = int(epochs * per_epoch + max(0, (rest - per_validation) // per_step))
        if steps < 1:
            raise UserError(f"--budget={self._config.budget} is too small for {self._recipe.name}: give more.")
        return steps

    @property
    def _augmentations(self) -> tuple[str, ...]:
        return self._config.augmentations if self._recipe.augment else ()
