"""One compiled model and its training runs."""

import shutil
import sys

import keras
import numpy as np

from tfadv.attacks.gradient import xla
from tfadv.datasets.batches import evaluation_batches, training_batches
from tfadv.models.accelerate import accelerated
from tfadv.training.callbacks import StopOnNonFinite, WarmupCosine
from tfadv.training.sgd import SGD
from tfadv.training.sheet import write_augmentation_sheet

WARMUP_SHARE = 0.1  # of all steps


class Trainer:
    """Trains one model, as often as wanted, with SGD, Nesterov momentum 0.9 and weight decay.

    Tracing and optimising the graph of a deep network takes longer than many an
    epoch on few images, so the compiled model is kept for all its variants.
    """

    def __init__(self, model, *, weight_decay, precision="float32", jit_compile="auto"):
        """Compiles `model` (float32 images in [0, 1] → logits); `precision` as in `accelerated`."""
        self.model = model
        self._compiled = accelerated(model, precision)  # of the same variables
        self._compiled.compile(
            SGD(decay=weight_decay),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=xla(jit_compile),
        )

    def fit(
        self,
        samples,
        validation,
        *,
        epochs,
        batch_size,
        learning_rate,
        patience,
        seed,
        log_dir,
        augmentations=(),
        checkpoints=None,
    ):
        """Trains from the model's present weights and leaves the best ones, by validation accuracy, in the model.

        Args:
          samples: `Samples` to learn from.
          validation: `Samples` that decide which epoch was best and when to stop.
          epochs: int, at most.
          batch_size: int.
          learning_rate: float, the peak, after a warm-up over 10% of the steps; then a cosine down to 0.
          patience: int, epochs without a higher validation accuracy before stopping.
          seed: int, of order and augmentation.
          log_dir: path for TensorBoard; `train` and `validation` appear in it,
            and a sheet of augmented images.
          augmentations: names in `tfadv.datasets.AUGMENTATIONS`.
          checkpoints: function from the run's `EarlyStopping` to its `Checkpoints`,
            or None; the run goes on after the newest one.

        Returns:
          dict: "history" (one list a metric), "best_epoch" (from 1), "steps" (optimizer steps made).

        Raises:
          UserError: the loss is not finite; says in which steps.
        """
        optimizer = self._compiled.optimizer
        optimizer.build(self._compiled.trainable_variables)
        for variable in optimizer.variables:  # momentum and step count of an earlier run
            variable.assign(np.zeros(variable.shape))
        # Not the loss: that of an over-confident network rises while its accuracy still does, too.
        stopping = keras.callbacks.EarlyStopping("val_accuracy", patience=patience, restore_best_weights=True)
        keeper = checkpoints(stopping) if checkpoints else None
        first = keeper.load() if keeper else 0
        batches, steps = training_batches(
            samples, batch_size=batch_size, epochs=epochs, seed=seed, augmentations=augmentations, first_epoch=first
        )
        if first == 0:
            shutil.rmtree(log_dir, ignore_errors=True)  # curves of an earlier try would overlay these
            if augmentations:
                write_augmentation_sheet(log_dir, samples, seed, augmentations)
        callbacks = [
            WarmupCosine(
                learning_rate, warmup=int(WARMUP_SHARE * epochs * steps), total=epochs * steps, first=first * steps
            ),
            StopOnNonFinite(first * steps),
            stopping,
            *([keeper] if keeper else []),
            keras.callbacks.TensorBoard(str(log_dir), write_graph=False),
        ]
        fitted = self._compiled.fit(
            batches,
            initial_epoch=first,
            epochs=epochs,
            steps_per_epoch=steps,  # one dataset holds all epochs
            validation_data=evaluation_batches(validation, batch_size=batch_size),
            callbacks=callbacks,
            verbose=1 if sys.stdout.isatty() else 2,  # a bar in a log file is thousands of lines
            shuffle=False,
        )
        history = keeper.history if keeper else fitted.history
        return {
            "history": {k: [float(v) for v in values] for k, values in history.items()},
            "best_epoch": stopping.best_epoch + 1,
            "steps": int(optimizer.iterations.numpy()),
        }
