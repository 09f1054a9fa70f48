"""What decides a result (`Config`), and what only says where and how far to run (`Run`).

No TensorFlow here: a mistyped flag is answered before anything slow is loaded.
"""

import dataclasses
import json
import math
import os
import re

from tfadv.datasets import AUGMENTATIONS, SOURCES
from tfadv.errors import UserError, check_name
from tfadv.models import MODELS

VARIANTS = ("baseline", "augmented", "retrained")
PRECISIONS = ("float32", "mixed_bfloat16")
DISTRIBUTE = ("auto", "none", "mirrored", "multiworker", "tpu")
# The keys of `tfadv.attacks.ATTACKS`, which needs TensorFlow; a test compares them.
ATTACKS = (
    "fgsm", "onestep", "bim", "pgd", "mifgsm", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "square", "autoattack",
)  # fmt: skip
SHARDED = ("generate", "attack", "evaluate")  # stages that several processes can share
STAGES = ("prepare", "train", "attack", "generate", "augment", "retrain", "evaluate", "report", "all")


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides a result; a work folder belongs to one Config.

    Attributes:
      dataset: a name in `tfadv.datasets.SOURCES`.
      image_size: int, pixels of a side; 0 takes the data set's own default.
      train_size: int, how many training images to keep (stratified); 0 keeps all.
      seed: int >= 0, the one seed of every random number.
      surrogate: name of the model whose adversarial images everyone retrains on.
      epsilons: floats in (0, 1], the perturbation sizes, in units of a [0, 1] pixel.
      epochs: int, the most passes over the training split, for the baseline.
      retrain_epochs: int, the most passes over clean + adversarial images; the
        control (augmentation alone) makes equally many optimizer steps.
      batch_size: int, images in an optimizer step.
      learning_rate: float, the peak after warm-up.
      weight_decay: float, decoupled, on convolution and dense kernels.
      patience: int, epochs without a higher validation accuracy before signals.
      sync_batchnorm: bool, BatchNorm sees the whole batch where several devices share it.
      precision: "float32" or "mixed_bfloat16", of training; attacks and evaluations are always float32.
      retrain_from: "baseline" goes on from the baseline's weights, "scratch" starts anew.
      augmentations: names in `tfadv.datasets.AUGMENTATIONS`, for the control and
        for retraining; flips are dropped where a mirrored image is another class.
    """

    dataset: str = "digits"
    image_size: int = 0
    train_size: int = 0
    seed: int = 0
    surrogate: str = "resnet18"
    epsilons: tuple[float, ...] = (0.01, 0.02, 0.03)
    epochs: int = 10
    retrain_epochs: int = 3
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    patience: int = 3
    precision: str = "float32"
    sync_batchnorm: bool = False
    retrain_from: str = "baseline"
    augmentations: tuple[str, ...] = AUGMENTATIONS

    def __post_init__(self):
        check_name("dataset", self.dataset, SOURCES)
        check_name("model", self.surrogate, MODELS)
        check_name("precision", self.precision, PRECISIONS)
        check_name("retrain_from", self.retrain_from, ("baseline", "scratch"))
        for name in self.augmentations:
            check_name("augmentation", name, AUGMENTATIONS)
        for field, least in (
            ("image_size", 0), ("train_size", 0), ("seed", 0), ("epochs", 1),
            ("retrain_epochs", 1), ("batch_size", 1), ("patience", 1),
        ):  # fmt: skip
            if getattr(self, field) < least:
                raise UserError(f"--{field} is {getattr(self, field)}: it must be at least {least}.")
        if 0 < self.image_size < 8:
            raise UserError(f"--image_size is {self.image_size}: the networks need at least 8 pixels a side.")
        for field, most in (("seed", 2**31 - 1), ("image_size", 4096), ("batch_size", 2**16), ("epochs", 10**6)):
            if getattr(self, field) > most:
                raise UserError(f"--{field} is {getattr(self, field)}: it must be at most {most}.")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning_rate is {self.learning_rate}: it must be above 0 and finite.")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"--weight_decay is {self.weight_decay}: it must be at least 0 and finite.")
        if not self.epsilons:
            raise UserError("--epsilons is empty: give at least one perturbation size, such as 0.03.")
        for eps in self.epsilons:
            if not 0 < eps <= 1:
                raise UserError(f"--epsilons has {eps}: each must be above 0 and at most 1 (pixels are in [0, 1]).")
        if len(set(self.epsilons)) < len(self.epsilons):
            raise UserError(f"--epsilons names a value twice: {', '.join(map(str, self.epsilons))}.")

    def resolved(self):
        """The same Config with the data set's own image size in place of 0 and without forbidden flips."""
        source = SOURCES[self.dataset]
        return dataclasses.replace(
            self,
            image_size=self.image_size or source.image_size,
            augmentations=tuple(a for a in self.augmentations if source.flip or a != "flip"),
        )

    def fields(self):
        """dict of plain JSON values, field by field."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True)
class Run:
    """Where to work and how far to go; nothing here changes a result by more than rounding.

    Attributes:
      stage: one of `STAGES`.
      models: names in `tfadv.models.MODELS`, the ones to train, attack and report.
      attacks: keys of `ATTACKS`, to measure besides the paper's FGSM; with any, the transfer matrix and
        the verdict on masked gradients are made as well.
      eval_size: int, the test images that `attacks` are run on; 0: all.
      data_dir: str, home of the TFDS data sets.
      workdir: str, folder for everything made.
      jit_compile: "auto" (XLA on a GPU, not on a CPU), "true" or "false".
      overwrite: bool, let this Config take over a work folder of another one.
      verify: bool, check every file of the work folder before anything else.
      checkpoint_steps: int, steps between two checkpoints of training; 0: one an epoch.
      shard: "i/n", make only this share of the samples or of an evaluation; "" is all of it.
      distribute: one of `DISTRIBUTE`, see `tfadv.distribution.Devices`.
      virtual_devices: int, cut the CPU into so many devices; 0 leaves it whole.
    """

    stage: str = "all"
    models: tuple[str, ...] = ("resnet18", "resnet50", "resnet101")
    attacks: tuple[str, ...] = ()
    eval_size: int = 0
    data_dir: str = "data"
    workdir: str = "runs/digits"
    jit_compile: str = "auto"
    overwrite: bool = False
    verify: bool = False
    checkpoint_steps: int = 0
    shard: str = ""
    distribute: str = "auto"
    virtual_devices: int = 0

    def __post_init__(self):
        check_name("stage", self.stage, STAGES)
        check_name("jit_compile", self.jit_compile, ("auto", "true", "false"))
        check_name("distribute", self.distribute, DISTRIBUTE)
        if not self.models:
            raise UserError(f"--models is empty: give at least one of {', '.join(MODELS)}.")
        for name in self.models:
            check_name("model", name, MODELS)
        if len(set(self.models)) < len(self.models):
            raise UserError(f"--models names a model twice: {', '.join(self.models)}.")
        for name in self.attacks:
            check_name("attack", name, ATTACKS)
        if len(set(self.attacks)) < len(self.attacks):
            raise UserError(f"--attacks names one twice: {', '.join(self.attacks)}.")
        for field in ("checkpoint_steps", "virtual_devices", "eval_size"):
            if getattr(self, field) < 0:
                raise UserError(f"--{field} is {getattr(self, field)}: it must be at least 0.")
        if self.virtual_devices > 64:
            raise UserError(f"--virtual_devices is {self.virtual_devices}: it must be at most 64.")
        if self.shard and self.stage not in SHARDED:
            raise UserError(f"--shard is for --stage={' and --stage='.join(SHARDED)}, not for {self.stage}.")
        if self.shard and self.overwrite:
            raise UserError("--shard and --overwrite: take the folder over first, in a call without --shard.")
        for field in ("data_dir", "workdir"):
            if "\0" in getattr(self, field) or not getattr(self, field):
                raise UserError(f"--{field} must be the path of a folder.")
        self.share()

    def share(self):
        """(i, n) of `shard`, or None.

        Raises:
          UserError: it is no such share.
        """
        if not self.shard:
            return None
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", self.shard)
        if not match or not int(match[1]) < int(match[2]):
            raise UserError(f"--shard={self.shard}: write i/n with i from 0 to n - 1, such as 0/4.")
        return int(match[1]), int(match[2])


def cluster():
    """(number of workers, this worker's number) from TF_CONFIG; (1, 0) where it is not set.

    Raises:
      UserError: TF_CONFIG is no such description.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 1, 0
    try:
        config = json.loads(text)
        kinds = [kind for kind in ("chief", "worker") if kind in config["cluster"]]
        task = config["task"]
        before = sum(len(config["cluster"][kind]) for kind in kinds[: kinds.index(task["type"])])
        return sum(len(config["cluster"][kind]) for kind in kinds), before + int(task["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"TF_CONFIG can't be read ({error}): it must be JSON such as "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}.'
        )
