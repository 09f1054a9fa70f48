"""All settings of a run, each declared once; flags, checks, the fingerprint and `--help` are derived from them.

No TensorFlow here: a mistyped flag is answered before anything slow is loaded.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import TYPE_CHECKING, Any

from tfadv import choices, specs
from tfadv.choices import COMPARE
from tfadv.datasets import AUGMENTATIONS, DATASETS, FITS, find, normalized, short_name
from tfadv.datasets import check as check_dataset
from tfadv.errors import UserError
from tfadv.models import own
from tfadv.objectives import DEFENSE_OPTIMIZER, EPS_SCHEDULES, OPTIMIZERS
from tfadv.settings import Names, Range, Size, check, flag_lines, setting, settings_of

if TYPE_CHECKING:
    from tfadv.experiments.recipe import Experiment

AFFECTS_RESULTS = False  # artifacts record the values of the settings that they depend on
COMPARED_ATTACKS = "pgd(steps=20),autoattack"  # the default of that stage
# The most test images of that stage without --eval_size, so that it ends: AutoAttack takes seconds for each.
COMPARED_IMAGES, COMPARED_IMAGES_OF = 1000, {"autoattack": 100}
_SHARDED = ("reference_evaluation", "samples", "evaluations")  # what a stage creates in parts, see `Experiment.target`


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run; every field has a flag of its name.

    The field's role says what it decides, see `tfadv.settings.Role`.

    Raises:
      UserError: a setting has a wrong value. The message names the flag and what it accepts.
    """

    experiment: str = setting(
        "",
        "The experiment: which recipes are trained and compared. Empty: paper, or own where --models names a model of "
        "your own, which is then evaluated as it is.",
        group="Experiment",
        role="result",
        accepts=Names("experiment", choices.experiments),
    )
    stage: str = setting(
        "all",
        "The stage to run. Each stage first runs the stages that it needs, and skips what is up to date.",
        group="Experiment",
        role="selection",
        accepts=Names("stage", lambda config: choices.experiment(config).stages),
        required=True,
    )
    models: tuple[str, ...] = setting(
        ("resnet18", "resnet50", "resnet101"),
        "The models to train, attack and report. Also your own: a .keras file; module:function, a function that "
        "returns a Keras model; or the folder of a SavedModel, which can be attacked but not trained.",
        group="Experiment",
        role="selection",
        accepts=Names("model", choices.models),
        required=True,
    )
    defenses: str = setting(
        "",
        "Recipes to train and compare in addition to those of the experiment, with settings of their objective where "
        "these are not the defaults, such as 'nfgsm,nfgsm(share=0.5),trades(beta=3)'.",
        group="Experiment",
        role="selection",
        accepts=Names("recipe", choices.recipes, checked=False),
    )
    defense_models: tuple[str, ...] = setting(
        (),
        "The models that the recipes of --defenses are trained for. Empty: all of --models.",
        group="Experiment",
        role="selection",
        accepts=Names("model", lambda config: config.models),
    )
    weights: str = setting(
        "",
        "Initial weights of built-in models: imagenet, for resnet18, resnet50 and resnet101; or a .keras file of the "
        "same model, whose head is loaded too if the number of classes matches. Empty: random.",
        group="Experiment",
        role="result",
    )
    input_range: str = setting(
        "auto",
        "Least and greatest pixel value that your own model expects, such as 0,255 or -1,1. auto: the range with which "
        "it classifies most validation images correctly. Sizes of perturbations always refer to pixels in [0, 1].",
        group="Experiment",
        role="result",
    )
    plugins: tuple[str, ...] = setting(
        (),
        "Python modules to import first, from the current folder or installed. They register attacks, data "
        "sets, models, objectives, recipes, experiments or report formats.",
        group="Experiment",
        role="execution",
    )
    seed: int = setting(
        0, "Seed of every random number.", group="Experiment", role="result", accepts=Range(0, 2**31 - 1)
    )

    dataset: str = setting(
        "digits",
        "The data set. Also any other image classification data set of TFDS, as name, name/config or name:version; the "
        "folder of a TFDS data set that is already prepared; folder:PATH with a sub-folder of images for each class, "
        "or with such folders inside train, validation and test; or npz:FILE with the arrays x and y.",
        group="Data",
        role="result",
        accepts=Names("dataset", lambda _: DATASETS, checked=False),
        required=True,
    )
    label: str = setting(
        "",
        "The TFDS feature that holds the class, if a data set has several. Empty: the data set's default.",
        group="Data",
        role="result",
    )
    data_dir: str = setting(
        "data",
        "Folder of the TFDS data sets. A missing data set is downloaded into it.",
        group="Data",
        role="execution",
        required=True,
    )
    split: str = setting(
        "stratified",
        "stratified: split all images of the data set into 70% training, 10% validation and 20% test images. "
        "official: keep the data set's own test split, and its validation split or 10% of its training split.",
        group="Data",
        role="result",
        accepts=Names("split", ("stratified", "official")),
        required=True,
    )
    image_size: int | str = setting(
        0,
        "Height and width of the images.",
        group="Data",
        role="result",
        accepts=Size(Range(8, 4096, zero="that of your own model, or of the data set", unit="pixels")),
    )
    fit: str = setting(
        "",
        "How images are brought to that size. keras: scale all as keras.utils.image_dataset_from_directory does, "
        "bilinear without antialiasing, rounded to whole grey levels. crop: the same after a cut to the aspect ratio, "
        "as with its crop_to_aspect_ratio=True. resize: scale all with antialiasing. pad: add black borders to smaller "
        "images, and scale larger ones as resize does. Empty: keras for folder: and npz:, pad for mnist and cifar10, "
        "resize for other data sets of TFDS.",
        group="Data",
        role="result",
        accepts=Names("fit", FITS),
    )
    train_size: int = setting(
        0,
        "Number of training images to keep, stratified by class.",
        group="Data",
        role="result",
        accepts=Range(1, zero="all"),
    )
    augmentations: tuple[str, ...] = setting(
        AUGMENTATIONS,
        "Augmentations of the recipes that augment. Flips are disabled for known data sets of digits and letters.",
        group="Data",
        role="result",
        accepts=Names("augmentation", AUGMENTATIONS),
    )

    epochs: int = setting(
        10,
        "Maximum number of epochs of training on clean images.",
        group="Training",
        role="result",
        accepts=Range(1, 10**6),
    )
    retrain_epochs: int = setting(
        3,
        "Maximum number of epochs of retraining. An epoch has the clean images and their adversarial images at every "
        "eps. The recipes that retraining is compared with take the same number of optimizer steps.",
        group="Training",
        role="result",
        accepts=Range(1, 10**6),
    )
    rounds: int = setting(
        3,
        "Number of rounds of the recipe rounds. Each attacks the model of the previous round. Rounds 1, 2, 4, 8 and so "
        "on and the last one are evaluated.",
        group="Training",
        role="result",
        accepts=Range(1, 500),
    )
    round_size: int = setting(
        0,
        "Training images per round of the recipe rounds, drawn anew for each round, equally many of each class, with "
        "the same share of the validation images. The work folder keeps the model of every round.",
        group="Training",
        role="result",
        accepts=Range(1, zero="all"),
    )
    round_ramp: int = setting(
        0,
        "Number of rounds of the recipe rounds over which eps of the training images grows to its full size. With "
        "fewer --rounds, it stays below. Helps where training against the full size from the start ends in guessing.",
        group="Training",
        role="result",
        accepts=Range(1, 500, zero="the full size in all rounds"),
    )
    budget: int = setting(
        0,
        "Training budget of each recipe of --defenses, in forward and backward passes of single images, for updates "
        "and attacks. All rounds together take one budget.",
        group="Training",
        role="result",
        accepts=Range(1, zero="no budget; --defense_epochs applies, or --retrain_epochs for surrogate and rounds"),
    )
    defense_epochs: int = setting(
        10,
        "Epochs of the recipes of --defenses, each over the training images once.",
        group="Training",
        role="result",
        accepts=Range(1, 10**6),
    )
    defense_eps: float = setting(
        0.0,
        "Perturbation size that the recipes of --defenses train against, unless their setting eps says otherwise, and "
        "under which validation images are attacked.",
        group="Training",
        role="result",
        accepts=Range(0, 1, above=True, zero="the largest of --epsilons", example="0.03 or 8/255"),
    )
    defense_eps_schedule: str = setting(
        "ramp",
        "ramp: 0 for a tenth of the steps, then growing over the next four tenths. fixed: the same in all steps. "
        "uniform: drawn for each image, from 0 to the largest.",
        group="Training",
        role="result",
        accepts=Names("defense_eps_schedule", EPS_SCHEDULES),
        required=True,
    )
    defense_average: float = setting(
        0.0,
        "Decay per step of the moving average of the weights that the recipes of --defenses keep, such as 0.997. "
        "0: the weights themselves.",
        group="Training",
        role="result",
        accepts=Range(0, 0.9999),
    )
    defense_weight_decay: float = setting(
        5e-3,
        "Decoupled weight decay of the recipes of --defenses. The coupled weight decay of published recipes, 5e-4 "
        "with momentum 0.9, corresponds to about 5e-3 here.",
        group="Training",
        role="result",
        accepts=Range(0),
    )
    defense_learning_rate: float = setting(
        0.0,
        "Peak of the learning rate of the recipes of --defenses. They start from trained weights, of which a high "
        "rate keeps little.",
        group="Training",
        role="result",
        accepts=Range(0, above=True, zero="0.001 with adam, and that of --learning_rate with sgd"),
    )
    defense_optimizer: str = setting(
        DEFENSE_OPTIMIZER,
        "Optimizer of the recipes of --defenses that attack in each training step, and of all recipes for your own "
        "models: adam, or sgd with momentum 0.9. The others take sgd.",
        group="Training",
        role="result",
        accepts=Names("defense_optimizer", OPTIMIZERS),
        required=True,
    )
    batch_size: int = setting(
        128, "Images per optimizer step.", group="Training", role="result", accepts=Range(1, 2**16)
    )
    batch_parts: int = setting(
        1,
        "Process each batch in this many equal parts, one after the other, and add up their gradients: takes less "
        "memory. Each part has its own BatchNorm statistics. Attacks and evaluations process one part at a time as "
        "well.",
        group="Training",
        role="result",
        accepts=Range(1, 2**10),
    )
    learning_rate: float = setting(
        0.0,
        "Peak of the learning rate, reached after warm-up.",
        group="Training",
        role="result",
        accepts=Range(
            0, above=True, zero="0.1; 0.01 with --weights; with your own models, 0.001 with adam and 0.01 with sgd"
        ),
    )
    weight_decay: float = setting(
        5e-4,
        "Decoupled weight decay of convolution and dense kernels.",
        group="Training",
        role="result",
        accepts=Range(0),
    )
    patience: int = setting(
        3,
        "Number of epochs without a higher validation accuracy after which training stops early.",
        group="Training",
        role="result",
        accepts=Range(1, 10**6),
    )
    precision: str = setting(
        "float32",
        "Precision of training; for that of attacks, see the setting precision of --attacks. mixed_bfloat16 is much "
        "slower on CPUs without bfloat16 instructions.",
        group="Training",
        role="result",
        accepts=Names("precision", ("float32", "mixed_bfloat16")),
        required=True,
    )
    sync_batchnorm: bool = setting(
        False,
        "Compute BatchNorm over the whole batch if several devices share it.",
        group="Training",
        role="result",
    )
    retrain_from: str = setting(
        "",
        "The starting weights of all recipes that continue from another recipe: scratch (random), or the name of a "
        "recipe. Empty: as each recipe declares.",
        group="Training",
        role="result",
        accepts=Names("retrain_from", choices.starts),
    )
    checkpoint_steps: int = setting(
        0,
        "Optimizer steps between two checkpoints.",
        group="Training",
        role="execution",
        accepts=Range(1, zero="one per epoch"),
    )

    surrogate: tuple[str, ...] = setting(
        (),
        "The model on which the stored adversarial images are computed. If you give several, the recipe ensemble uses "
        "all of them; other recipes use the first. Empty: resnet18, or your own model.",
        group="Attacks",
        role="result",
        accepts=Names("model", choices.models),
    )
    epsilons: tuple[float, ...] = setting(
        (0.01, 0.02, 0.03),
        "Sizes of the perturbation, eps; pixels are in [0, 1].",
        group="Attacks",
        role="result",
        accepts=Range(0, 1, above=True, example="0.03 or 8/255"),
        required=True,
    )
    attacks: str = setting(
        "",
        "Attacks to evaluate in addition to FGSM. Settings follow in parentheses, such as "
        "'pgd(steps=50,restarts=5),autoattack(norm=l2)'. If any attack is given, the transfer matrix and the checks "
        "for gradient masking are computed as well.",
        group="Attacks",
        role="selection",
        accepts=Names("attack", choices.attacks, checked=False),
    )
    eval_size: int = setting(
        0,
        "Number of test images, the first ones, that --attacks are evaluated on. Instead of all, --stage=compare takes "
        "1,000 or, for AutoAttack, 100.",
        group="Attacks",
        role="selection",
        accepts=Range(1, zero="all"),
    )

    workdir: str = setting("", "Folder of all results. Empty: runs/<dataset>.", group="Execution", role="execution")
    in_memory: str = setting(
        "auto",
        "Whether images and stored perturbations are kept in memory. false: in files in the work folder, from which "
        "each batch is read. auto: in a file where an array would take more than a quarter of the free memory. The "
        "results are the same.",
        group="Execution",
        role="execution",
        accepts=Names("in_memory", ("auto", "true", "false")),
        required=True,
    )
    overwrite: bool = setting(
        False,
        "Use a work folder that was made with other settings. Artifacts that do not depend on what changed are kept.",
        group="Execution",
        role="execution",
    )
    verify: bool = setting(
        False,
        "Check all files of the work folder against their checksums before the run.",
        group="Execution",
        role="execution",
    )
    shard: str = setting(
        "",
        "i/n: compute only every n-th part of the stage, starting with part i, while other processes compute the "
        "others. A run without --shard then joins the parts.",
        group="Execution",
        role="execution",
    )
    distribute: str = setting(
        "auto",
        "The devices to use. auto: multiworker if TF_CONFIG names several hosts, else mirrored if there are several "
        "GPUs, else none. tpu has never been run.",
        group="Execution",
        role="execution",
        accepts=Names("distribute", ("auto", "none", "mirrored", "multiworker", "tpu")),
        required=True,
    )
    virtual_devices: int = setting(
        0,
        "Number of devices to split the CPU into, to try --distribute=mirrored without GPUs.",
        group="Execution",
        role="execution",
        accepts=Range(1, 64, zero="one"),
    )
    jit_compile: str = setting(
        "auto",
        "Compile with XLA. auto: only on a GPU.",
        group="Execution",
        role="execution",
        accepts=Names("jit_compile", ("auto", "true", "false")),
        required=True,
    )
    accelerate: str = setting(
        "auto",
        "auto: run models as clones with optimized layers. off: use Keras' own layers.",
        group="Execution",
        role="execution",
        accepts=Names("accelerate", ("auto", "off")),
        required=True,
    )
    rematerialize: bool = setting(
        False,
        "Gradient checkpointing in training: keep few activations and recompute the others in each backward pass. "
        "Takes less memory, and almost one more forward pass.",
        group="Execution",
        role="execution",
    )
    profile: bool = setting(
        False,
        "Record a profile of ten training steps of each model for TensorBoard, in logs/<model>/<recipe>/train.",
        group="Execution",
        role="execution",
    )
    verbosity: str = setting(
        "info",
        "quiet: warnings only. debug: TensorFlow's own messages as well.",
        group="Execution",
        role="execution",
        accepts=Names("verbosity", ("quiet", "info", "debug")),
        required=True,
    )

    def __post_init__(self) -> None:
        check(self)
        self.input_range_given  # noqa: B018
        precisions = {settings.get("precision", "float32") for _, settings in self.attack_specs}
        if self.accelerate == "off" and precisions - {"float32"}:
            raise UserError("an attack in another precision needs --accelerate=auto: optimized clones compute in it.")
        if self.accelerate == "off" and self.rematerialize:
            raise UserError("--rematerialize needs --accelerate=auto: it works on optimized clones.")
        choices.check_models(self)
        check_dataset(self.dataset, self.data_dir, self.label)
        self._check_shard()
        if self.batch_size % self.batch_parts:
            raise UserError(
                f"--batch_size={self.batch_size} can't be processed in {self.batch_parts} equal parts: give a multiple "
                f"of --batch_parts."
            )
        for name in ("data_dir", "workdir"):
            if "\0" in getattr(self, name):
                raise UserError(f"--{name} must be the path of a folder.")

    @property
    def images_at_once(self) -> int:
        """The number of images that are processed at once, on all devices together."""
        return self.batch_size // self.batch_parts

    def _check_shard(self) -> None:
        if not self.shard:
            return
        experiment = self.selected_experiment
        sharded = [stage for stage in experiment.stages if experiment.target(stage) in _SHARDED]
        if self.stage not in sharded:
            raise UserError(f"--shard is for --stage={' and --stage='.join(sharded)}, not for {self.stage}.")
        if self.overwrite:
            raise UserError("--shard and --overwrite can't be combined: use --overwrite without --shard first.")
        self.shard_of()

    def resolved(self) -> Config:
        """Returns the same settings with the defaults that depend on others filled in.

        These are the experiment, the surrogate, the learning rate and the work folder, runs/<dataset>; the image size
        of the user's model or of the data set in place of 0; and the augmentations without flips where a mirrored image
        is another class.
        """
        dataset = find(self.dataset)
        models, surrogate, defense_models = (
            tuple(map(own.normalized, names)) for names in (self.models, self.surrogate, self.defense_models)
        )
        own_models = [name for name in models if own.is_own(name)]
        height, width, _ = next((own.image_shape(name) for name in own_models), (None, None, None))
        of_model = specs.size(f"{height}x{width or height}") if height else 0
        return dataclasses.replace(
            self,
            experiment=choices.experiment_name(self),
            image_size=specs.size(str(self.image_size)) or of_model or dataset.image_size,
            augmentations=tuple(a for a in self.augmentations if dataset.flip or a != "flip"),
            dataset=normalized(self.dataset),
            models=models,
            defense_models=defense_models,
            weights=os.path.expanduser(self.weights),
            learning_rate=self.learning_rate or (0.0 if own_models else 0.01 if self.weights else 0.1),
            surrogate=surrogate or (own_models[0] if own_models else "resnet18",),
            workdir=self.workdir or f"runs/{short_name(self.dataset)}",
        )

    @property
    def selected_experiment(self) -> Experiment:
        """The experiment with the recipes of `defenses` added."""
        return choices.experiment(self)

    @property
    def compared_experiment(self) -> Experiment:
        """The reference, the control and the recipes of `defenses`."""
        return choices.compared_experiment(self)

    @property
    def input_range_given(self) -> tuple[float, float] | None:
        """The pair of `input_range`; None for "auto".

        Raises:
          UserError: it is neither "auto" nor two numbers, the smaller first.
        """
        if self.input_range == "auto":
            return None
        try:
            low, high = map(float, self.input_range.split(","))
        except ValueError:
            low, high = 0.0, 0.0
        if not -math.inf < low < high < math.inf:
            raise UserError(f"--input_range={self.input_range}: write auto, or two numbers such as 0,255.")
        return low, high

    @property
    def attack_specs(self) -> list[tuple[str, dict[str, Any]]]:
        """The attacks as (name, settings given).

        Raises:
          UserError: the text of `attacks` is wrong, or names an attack with the same settings twice.
        """
        text = self.attacks or (COMPARED_ATTACKS if self.stage == COMPARE else "")
        if not text:
            return []
        from tfadv.attacks import ATTACKS  # imports no TensorFlow

        found = specs.split_specs(text, ATTACKS)
        for number, spec in enumerate(found):
            if spec in found[:number]:
                raise UserError(f"--attacks names {spec[0]} twice with the same settings.")
        return found

    def attacked_images(self, attack: str, n: int) -> int:
        """How many of n test images are evaluated under an attack of that name."""
        if not self.eval_size and self.stage == COMPARE:
            return min(COMPARED_IMAGES_OF.get(attack, COMPARED_IMAGES), n)
        return min(self.eval_size or n, n)

    def shard_of(self) -> tuple[int, int] | None:
        """Returns (i, n) of `shard`, or None.

        Raises:
          UserError: it is not i/n with 0 <= i < n.
        """
        if not self.shard:
            return None
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", self.shard)
        if not match or not int(match[1]) < int(match[2]):
            raise UserError(f"--shard={self.shard}: write i/n with i from 0 to n - 1, such as 0/4.")
        return int(match[1]), int(match[2])

    def fingerprint(self) -> dict[str, Any]:
        """Returns the settings that decide results, as JSON values; a work folder belongs to them."""
        values = {name: getattr(self, name) for name, _, declared in settings_of(self) if declared.role == "result"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def flagfile(self) -> str:
        """Returns the settings as a flagfile that gives the same results, without requests for one run only."""
        return flag_lines(dataclasses.replace(self, overwrite=False, verify=False, profile=False))
