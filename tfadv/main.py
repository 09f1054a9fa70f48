"""Attacks an image classifier, makes it robust and proves the difference: flags → Config → pipeline.

python -m tfadv.main --dataset=cifar10 --stage=retrain
python -m tfadv.main --flagfile=flags/quickstart.flags
"""

import logging
import os
import sys

from absl import app, flags
from absl import logging as absl_logging

from tfadv.runtime import signals
from tfadv.config import ATTACKS, DISTRIBUTE, PRECISIONS, SHARDED, STAGES, Config, Run, cluster
from tfadv.datasets import AUGMENTATIONS, SOURCES
from tfadv.errors import UserError
from tfadv.models import MODELS
from tfadv.store.workdir import Workdir

_C, _R = Config(), Run()  # where the defaults come from

_DATASET = flags.DEFINE_string("dataset", _C.dataset, f"One of {', '.join(SOURCES)}.")
_STAGE = flags.DEFINE_string("stage", _R.stage, f"How far to go: one of {', '.join(STAGES)}.")
_MODELS = flags.DEFINE_list("models", list(_R.models), f"Some of {', '.join(MODELS)}.")
_SURROGATE = flags.DEFINE_string("surrogate", _C.surrogate, "Model whose adversarial images all retrain on.")
_EPSILONS = flags.DEFINE_list("epsilons", [str(e) for e in _C.epsilons], "Perturbation sizes, pixels in [0, 1].")
_ATTACKS = flags.DEFINE_list("attacks", list(_R.attacks), f"More attacks to evaluate by: some of {', '.join(ATTACKS)}.")
_EVAL_SIZE = flags.DEFINE_integer("eval_size", _R.eval_size, "Test images for --attacks; 0: all.")
_DATA_DIR = flags.DEFINE_string("data_dir", _R.data_dir, "Home of the TFDS data sets.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything made; runs/<dataset> by default.")
_SEED = flags.DEFINE_integer("seed", _C.seed, "Seed of every random number.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", _C.image_size, "Pixels of a side; 0: the data set's own.")
_TRAIN_SIZE = flags.DEFINE_integer("train_size", _C.train_size, "Training images to keep; 0: all.")
_EPOCHS = flags.DEFINE_integer("epochs", _C.epochs, "Most epochs of the baseline.")
_RETRAIN_EPOCHS = flags.DEFINE_integer(
    "retrain_epochs", _C.retrain_epochs, "Most passes over clean + adversarial images; the control makes equal steps."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _C.batch_size, "Images in a step.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", _C.learning_rate, "Peak learning rate.")
_WEIGHT_DECAY = flags.DEFINE_float("weight_decay", _C.weight_decay, "Decoupled weight decay of kernels.")
_PATIENCE = flags.DEFINE_integer("patience", _C.patience, "Epochs without higher validation accuracy before signals.")
_PRECISION = flags.DEFINE_string("precision", _C.precision, f"Of training, one of {', '.join(PRECISIONS)}.")
_RETRAIN_FROM = flags.DEFINE_string("retrain_from", _C.retrain_from, "Start of retraining: baseline or scratch.")
_AUGMENTATIONS = flags.DEFINE_list("augmentations", list(_C.augmentations), f"Some of {', '.join(AUGMENTATIONS)}.")
_JIT_COMPILE = flags.DEFINE_string("jit_compile", _R.jit_compile, "XLA: auto (on GPU only), true or false.")
_SYNC_BATCHNORM = flags.DEFINE_boolean("sync_batchnorm", _C.sync_batchnorm, "BatchNorm over all devices' images.")
_CHECKPOINT_STEPS = flags.DEFINE_integer(
    "checkpoint_steps", _R.checkpoint_steps, "Save training after so many steps; 0: after each epoch."
)
_DISTRIBUTE = flags.DEFINE_string("distribute", _R.distribute, f"Devices to use: one of {', '.join(DISTRIBUTE)}.")
_VIRTUAL_DEVICES = flags.DEFINE_integer(
    "virtual_devices", _R.virtual_devices, "Cut the CPU into so many devices, to rehearse --distribute=mirrored."
)
_SHARD = flags.DEFINE_string(
    "shard", _R.shard, f"i/n: do only this share of --stage={' or '.join(SHARDED)}; a call without it joins the shares."
)
_VERIFY = flags.DEFINE_boolean("verify", _R.verify, "Check every file of the work folder first.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Take over a work folder of other settings.")


def _config():
    try:
        epsilons = tuple(float(e) for e in _EPSILONS.value)
    except ValueError as error:
        raise UserError(f"--epsilons={','.join(_EPSILONS.value)}: {error}; write numbers such as 0.01,0.02.")
    return Config(
        dataset=_DATASET.value,
        image_size=_IMAGE_SIZE.value,
        train_size=_TRAIN_SIZE.value,
        seed=_SEED.value,
        surrogate=_SURROGATE.value,
        epsilons=epsilons,
        epochs=_EPOCHS.value,
        retrain_epochs=_RETRAIN_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        weight_decay=_WEIGHT_DECAY.value,
        patience=_PATIENCE.value,
        precision=_PRECISION.value,
        sync_batchnorm=_SYNC_BATCHNORM.value,
        retrain_from=_RETRAIN_FROM.value,
        augmentations=tuple(_AUGMENTATIONS.value),
    ).resolved()


def _run():
    return Run(
        stage=_STAGE.value,
        models=tuple(_MODELS.value),
        attacks=tuple(_ATTACKS.value),
        eval_size=_EVAL_SIZE.value,
        data_dir=_DATA_DIR.value,
        workdir=_WORKDIR.value or f"runs/{_DATASET.value}",
        jit_compile=_JIT_COMPILE.value,
        overwrite=_OVERWRITE.value,
        verify=_VERIFY.value,
        checkpoint_steps=_CHECKPOINT_STEPS.value,
        shard=_SHARD.value,
        distribute=_DISTRIBUTE.value,
        virtual_devices=_VIRTUAL_DEVICES.value,
    )


def _closing_line(run, artifacts):
    if run.shard:
        return (
            f"Share {run.shard} of stage {run.stage} is done, {artifacts.parts_made} parts in this call. "
            "When all shares are, the same command without --shard joins them."
        )
    if not artifacts.made:
        return f"{run.workdir} is up to date for stage {run.stage}: nothing to do."
    line = f"Made {len(artifacts.made)} artifacts in {run.workdir}."
    return line if run.stage in ("report", "all") else f"{line} The tables: the same command with --stage=report."


def _verify(workdir):
    """Checks every file of every artifact; raises UserError, after a line for each that is damaged."""
    names = workdir.names()
    damaged = 0
    for name in names:
        try:
            workdir.open(name, "all")
        except UserError as error:
            damaged += 1
            print(error, file=sys.stderr)
    if damaged:
        raise UserError(f"{damaged} of {len(names)} artifacts in {workdir.root} are damaged.")
    logging.getLogger("tfadv").info("%s: %d artifacts, all as they were made", workdir.root, len(names))


def _do(config, run):
    workers, number = cluster() if run.distribute in ("auto", "multiworker") else (1, 0)
    follower = workers > 1 and number > 0
    with Workdir(run.workdir, config, overwrite=run.overwrite, shard=run.share(), follower=follower) as workdir:
        if run.verify:
            _verify(workdir)
        from tfadv import pipeline  # loads TensorFlow; a mistyped flag must not wait for that

        if not follower and not run.shard:
            (workdir.root / "flags.txt").write_text(flags.FLAGS.flags_into_string())
        artifacts = pipeline.execute(config, run, workdir)
        if follower:
            return
        if run.stage in ("report", "all"):
            report = workdir.open("report", "report") / "report.md"
            print("\n".join(line for line in report.read_text().splitlines() if not line.startswith("![")))
        print(_closing_line(run, artifacts))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: every setting is a --flag=value.")
    signals.install()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own start-up lines help nobody
    absl_logging.set_verbosity(absl_logging.ERROR)  # nor TFDS' lines about each file it opens
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("tfadv")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        _do(_config(), _run())
    except UserError as error:
        sys.exit(f"tfadv: {error}")
    except signals.Stopped as stopped:
        print("tfadv: stopped; what was finished stays, and the same command goes on from there.", file=sys.stderr)
        sys.exit(stopped.exit_code)
    except OSError as error:
        sys.exit(f"tfadv: {error.strerror or error} ({error.filename or run.workdir}): nothing made before is lost.")


def _parse(argv):
    try:
        return app.parse_flags_with_usage(argv)
    except (OSError, ValueError, RecursionError) as error:  # a flagfile that is none
        sys.exit(f"tfadv: the flags can't be read: {str(error).splitlines()[0][:200]}")


def run():
    """The console script."""
    for flag in flags.FLAGS.get_flags_for_module(__name__):  # so that --help shows them
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, flags_parser=_parse)


if __name__ == "__main__":
    run()
