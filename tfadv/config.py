"""All settings of a run, each declared once; flags, checks and `--help` are derived from them.

No TensorFlow here: a mistyped flag is answered before anything slow is loaded.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable
from typing import Any

from tfadv import gate, specs
from tfadv.datasets import AUGMENTATIONS, DATASETS, FITS, find, normalized, short_name
from tfadv.datasets import check as check_dataset
from tfadv.defenses import DEFENSES, FIRST
from tfadv.errors import UserError
from tfadv.models import MODELS, own
from tfadv.settings import Names, Range, Size, check, flag_lines, setting

COMPARED_ATTACKS = "pgd(steps=20),autoattack"  # the default of that stage
# The most test images of that stage without --eval_size, so that it ends: AutoAttack takes seconds for each.
COMPARED_IMAGES, COMPARED_IMAGES_OF = 1000, {"autoattack": 100}
CERTIFIED_IMAGES = 100  # the most that are certified without --eval_size: each takes thousands of forward passes
STAGES = (
    *("prepare", "train", "attack", "generate", "augment", "retrain", "evaluate", "explain", "certify", "report"),
    *("compare", "all", "status"),
)
COMPARE = "compare"  # the stage that compares defenses at one budget
STATUS = "status"  # the stage that says what is done, and does nothing
_SHARDED = ("attack", "generate", "evaluate")  # the stages whose results are made part by part
REPORTED = ("explain", "certify", "report", "compare", "all")  # the stages that end with a report
_PAPER = "augmented,retrained"  # the defenses of built-in models


def _attacks(config: Any) -> Iterable[str]:
    from tfadv.attacks import ATTACKS  # imports no TensorFlow

    return ATTACKS


def _models(config: Any) -> Iterable[str]:
    """The table of models, and those that the user brings along."""
    given = (*getattr(config, "models", ()), getattr(config, "surrogate", ""))
    return [*MODELS, *(name for name in given if own.is_own(name))]


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run; every field has a flag of its name.

    Raises:
      UserError: a setting has a wrong value. The message names the flag and what it accepts.
    """

    stage: str = setting(
        "all",
        "The stage to run. Each stage first runs the stages that it needs, and skips what is up to date.",
        group="Run",
        accepts=Names("stage", STAGES),
        required=True,
    )
    models: tuple[str, ...] = setting(
        ("resnet18", "resnet50", "resnet101"),
        "The models to train, attack and report. Also your own: a .keras file, or module:function, a function that "
        "returns a Keras model. Attacked but not trained: the folder of a SavedModel, a .tflite or .onnx file (see "
        "--twin), a service such as http://127.0.0.1:8501/v1/models/m:predict, or a function from arrays of images to "
        "logits, probabilities or class numbers.",
        group="Run",
        accepts=Names("model", _models),
        required=True,
    )
    defenses: str = setting(
        "",
        "Defenses to train and compare, with settings in parentheses where these are not the defaults, such as "
        "'nfgsm,nfgsm(share=0.5, epochs=30),trades(beta=3)'. Empty: those of the paper, augmented and retrained; for "
        "models of your own, none.",
        group="Run",
        accepts=Names("defense", lambda _: DEFENSES, checked=False),
    )
    weights: str = setting(
        "",
        "Initial weights of built-in models: imagenet, for resnet18, resnet50 and resnet101; or a .keras file of the "
        "same model, whose head is loaded too if the number of classes matches. Empty: random.",
        group="Run",
        rare=True,
    )
    input_range: str = setting(
        "auto",
        "Least and greatest pixel value that your own model expects, such as 0,255 or -1,1. auto: the range with which "
        "it classifies most validation images correctly. Sizes of perturbations always refer to pixels in [0, 1].",
        group="Run",
    )
    twin: str = setting(
        "",
        "The .keras file that a deployed model was made from, for pixels in the same range. Attacks follow its "
        "gradient, and the deployed model decides which images are adversarial. Empty: no gradient, for square, "
        "sparse-rs, hopskipjump and rays.",
        group="Run",
        rare=True,
    )
    plugins: tuple[str, ...] = setting(
        (),
        "Python modules to import first, from the current folder or installed. They register attacks, data "
        "sets, models, defenses or report formats.",
        group="Run",
        rare=True,
    )
    export: str = setting(
        "",
        "litert_int8: also write each model as a .tflite file in int8, with scales from training images, into the "
        "folder exports.",
        group="Run",
        accepts=Names("export", ("litert_int8",)),
        rare=True,
    )
    seed: int = setting(0, "Seed of every random number.", group="Run", accepts=Range(0, 2**31 - 1))

    dataset: str = setting(
        "digits",
        "The data set. Also any other image classification data set of TFDS, as name, name/config or name:version; the "
        "folder of a TFDS data set that is already prepared; folder:PATH with a sub-folder of images for each class, "
        "or with such folders inside train, validation and test; or npz:FILE with the arrays x and y.",
        group="Data",
        accepts=Names("dataset", lambda _: DATASETS, checked=False),
        required=True,
    )
    label: str = setting(
        "",
        "The TFDS feature that holds the class, if a data set has several. Empty: the data set's default.",
        group="Data",
        rare=True,
    )
    data_dir: str = setting(
        "data",
        "Folder of the TFDS data sets. A missing data set is downloaded into it.",
        group="Data",
        required=True,
    )
    split: str = setting(
        "stratified",
        "stratified: split all images of the data set into 70% training, 10% validation and 20% test images. "
        "official: keep the data set's own test split, and its validation split or 10% of its training split. A data "
        "set of test images only measures trained models.",
        group="Data",
        accepts=Names("split", ("stratified", "official")),
        required=True,
        rare=True,
    )
    image_size: int | str = setting(
        0,
        "Height and width of the images.",
        group="Data",
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
        accepts=Names("fit", FITS),
        rare=True,
    )
    train_size: int = setting(
        0,
        "Number of training images to keep, stratified by class.",
        group="Data",
        accepts=Range(1, zero="all"),
    )
    augmentations: tuple[str, ...] = setting(
        AUGMENTATIONS,
        "Augmentations of the defenses. Flips are disabled for known data sets of digits and letters.",
        group="Data",
        accepts=Names("augmentation", AUGMENTATIONS),
        rare=True,
    )

    epochs: int = setting(
        10,
        "Maximum number of epochs of training on clean images.",
        group="Training",
        accepts=Range(1, 10**6),
    )
    retrain_epochs: int = setting(
        3,
        "Maximum number of epochs of retraining. An epoch has the clean images and their adversarial images at every "
        "eps. The defense augmented takes the same number of optimizer steps.",
        group="Training",
        accepts=Range(1, 10**6),
        rare=True,
    )
    budget: int = setting(
        0,
        "Training budget of each defense, in forward and backward passes of single images, for updates and attacks, in "
        "place of a number of epochs. All rounds together take one budget. Not for baseline, augmented and retrained.",
        group="Training",
        accepts=Range(1, zero="no budget"),
        rare=True,
    )
    batch_size: int = setting(128, "Images per optimizer step.", group="Training", accepts=Range(1, 2**16))
    batch_parts: int = setting(
        1,
        "Process each batch in this many equal parts, one after the other, and add up their gradients: takes less "
        "memory. Each part has its own BatchNorm statistics. Attacks and evaluations process one part at a time as "
        "well.",
        group="Training",
        accepts=Range(1, 2**10),
        rare=True,
    )
    learning_rate: float = setting(
        0.0,
        "Peak of the learning rate, reached after warm-up.",
        group="Training",
        accepts=Range(
            0, above=True, zero="0.1; 0.01 with --weights; with your own models, 0.001 with adam and 0.01 with sgd"
        ),
    )
    weight_decay: float = setting(
        5e-4,
        "Decoupled weight decay of convolution and dense kernels.",
        group="Training",
        accepts=Range(0),
        rare=True,
    )
    patience: int = setting(
        3,
        "Number of epochs without a higher validation accuracy after which training stops early.",
        group="Training",
        accepts=Range(1, 10**6),
        rare=True,
    )
    precision: str = setting(
        "float32",
        "Precision of training; for that of attacks, see the setting precision of --attacks. mixed_bfloat16 is much "
        "slower on CPUs without bfloat16 instructions.",
        group="Training",
        accepts=Names("precision", ("float32", "mixed_bfloat16")),
        required=True,
        rare=True,
    )

    surrogate: str = setting(
        "",
        "The model on which stored adversarial images are computed, where a defense trains on them. Empty: resnet18, "
        "or your own model.",
        group="Attacks",
        accepts=Names("model", _models),
        rare=True,
    )
    epsilons: tuple[float, ...] = setting(
        (0.01, 0.02, 0.03),
        "Sizes of the perturbation, eps; pixels are in [0, 1].",
        group="Attacks",
        accepts=Range(0, 1, above=True, example="0.03 or 8/255"),
        required=True,
    )
    attacks: str = setting(
        "",
        "Attacks to evaluate in addition to FGSM. Settings follow in parentheses, sizes of its own after @, in place "
        "of --epsilons: 'pgd(steps=50),autoattack(norm=l2)@0.5'. If any attack is given, the transfer matrix and the "
        "checks for gradient masking are computed as well.",
        group="Attacks",
        accepts=Names("attack", _attacks, checked=False),
    )
    require: str = setting(
        "",
        "Requirements, such as 'accuracy>=0.9; autoattack@8/255>=0.4; worst@8/255>=baseline-0.02; "
        "worst_class(autoattack)@8/255>=0.1'. The exit code is 0 if all are met at 95% confidence, 1 if one is not, "
        "and 2 if more images or a stronger attack must decide.",
        group="Attacks",
        rare=True,
    )
    baseline: str = setting(
        "",
        "The results.json of an earlier run, such as that of the last release, for requirements such as "
        "accuracy>=baseline-0.02. Image by image if its work folder is still around it and has the same test images.",
        group="Attacks",
        rare=True,
    )
    eval_size: int = setting(
        0,
        "Number of test images, the first ones, that --attacks are evaluated on and --stage=certify certifies. Instead "
        "of all, --stage=compare takes 1,000 or, for AutoAttack, 100, and --stage=certify 100.",
        group="Attacks",
        accepts=Range(1, zero="all"),
    )

    copies: int = setting(
        10_000,
        "Noisy copies of each image that --stage=certify classifies. More of them certify larger radii.",
        group="Attacks",
        accepts=Range(10),
        rare=True,
    )

    workdir: str = setting("", "Folder of all results. Empty: runs/<dataset>.", group="Execution")
    overwrite: bool = setting(
        False,
        "Replace models of the work folder that were trained with other settings, and measure functions, services and "
        "files for deployment again. What does not depend on these is kept.",
        group="Execution",
        rare=True,
    )
    shard: str = setting(
        "",
        "i/n: compute only every n-th part of the stage, starting with part i, while other processes compute the "
        "others. A run without --shard then joins the parts.",
        group="Execution",
        rare=True,
    )
    distribute: str = setting(
        "auto",
        "The devices to use. auto: multiworker if TF_CONFIG names several hosts, else mirrored if there are several "
        "GPUs, else none. cpu:N: mirrored on N parts of the CPU, to try it without GPUs.",
        group="Execution",
        accepts=Names("distribute", ("auto", "none", "mirrored", "multiworker", "cpu:N"), checked=False),
        required=True,
        rare=True,
    )
    verbosity: str = setting(
        "info",
        "quiet: warnings only. debug: TensorFlow's own messages as well.",
        group="Execution",
        accepts=Names("verbosity", ("quiet", "info", "debug")),
        required=True,
    )

    def __post_init__(self) -> None:
        check(self)
        self.input_range_given  # noqa: B018
        self.attack_specs, self.defense_specs  # noqa: B018
        self._check_requirements()
        self._check_models()
        check_dataset(self.dataset, self.data_dir, self.label)
        self._check_shard()
        if not re.fullmatch("auto|none|mirrored|multiworker|cpu:[1-9][0-9]?", self.distribute):
            raise UserError(f"--distribute={self.distribute}: give auto, none, mirrored, multiworker or cpu:2.")
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

    def _check_requirements(self) -> None:
        if self.require and (self.stage not in ("evaluate", *REPORTED) or self.shard):
            raise UserError(f"--require is for --stage=evaluate, {', '.join(REPORTED)}, without --shard.")
        gate.check(gate.requirements(self.require), self.epsilons, self._attack_text, self.baseline)

    def _check_shard(self) -> None:
        if not self.shard:
            return
        if self.stage not in _SHARDED:
            raise UserError(f"--shard is for --stage={' and --stage='.join(_SHARDED)}, not for {self.stage}.")
        if self.overwrite:
            raise UserError("--shard and --overwrite can't be combined: use --overwrite without --shard first.")
        self.shard_of()

    def resolved(self) -> Config:
        """Returns the same settings with the defaults that depend on others filled in.

        These are the surrogate, the learning rate and the work folder, runs/<dataset>; the image size
        of the user's model or of the data set in place of 0; and the augmentations without flips where a mirrored image
        is another class.
        """
        dataset = find(self.dataset)
        models = tuple(map(own.normalized, self.models))
        own_models = [name for name in models if own.is_own(name)]
        shapes = (own.image_shape(name) for name in own_models)
        height, width, _ = next((shape for shape in shapes if shape[0]), (None, None, None))
        of_model = specs.size(f"{height}x{width or height}") if height else 0
        return dataclasses.replace(
            self,
            image_size=specs.size(str(self.image_size)) or of_model or dataset.image_size,
            augmentations=tuple(a for a in self.augmentations if dataset.flip or a != "flip"),
            dataset=normalized(self.dataset),
            models=models,
            weights=os.path.expanduser(self.weights),
            twin=os.path.expanduser(self.twin),
            learning_rate=self.learning_rate or (0.0 if own_models else 0.01 if self.weights else 0.1),
            surrogate=own.normalized(self.surrogate) or (own_models[0] if own_models else "resnet18"),
            workdir=self.workdir or f"runs/{short_name(self.dataset)}",
        )

    def _check_models(self) -> None:
        """Checks the models, and the settings that concern them.

        Raises:
          UserError: a model or its weights do not exist, two models have the same label, or a setting does not apply.
        """
        if self.weights not in ("", "imagenet") and not os.path.isfile(os.path.expanduser(self.weights)):
            raise UserError(f"--weights={self.weights}: give imagenet or the path of a .keras file.")
        given = filter(None, (*self.models, self.surrogate))
        names = list(dict.fromkeys(map(own.normalized, given)))
        own_names = [name for name in names if own.is_own(name)]
        if self.twin and not any(map(own.takes_twin, own_names)):
            raise UserError(
                f"--twin={self.twin} is for a .tflite or .onnx file, a service or a function; --models names none."
            )
        if self.twin and not os.path.isfile(os.path.expanduser(self.twin)):
            raise UserError(f"there is no model file {self.twin}, which is to be the twin.")
        for name in own_names:
            own.check(name)
        if not own_names and self.input_range != "auto":
            raise UserError(f"--input_range={self.input_range} is for your own models; --models names none.")
        if own_names == names and self.weights:
            raise UserError(f"--weights={self.weights} is for built-in models; {', '.join(names)} has its own weights.")
        if self.export and (self.stage not in ("evaluate", *REPORTED) or self.shard):
            raise UserError(f"--export is for --stage=evaluate, {', '.join(REPORTED)}, without --shard.")
        if self.export and any(map(own.is_fixed, own_names)):
            raise UserError(f"--export={self.export} is for models that Keras holds: give the .keras files alone.")
        if self.defense_specs or self.stage == COMPARE:
            for name in filter(own.is_fixed, map(own.normalized, self.models)):
                raise UserError(f"{name} can be attacked but not trained: give the .keras file of the model.")
        labels = [own.label(name) if own.is_own(name) else name for name in names]
        for label in labels:
            if labels.count(label) > 1:
                raise UserError(f"two models are called {label!r}: rename one of {', '.join(names)}.")

    @property
    def defense_specs(self) -> list[tuple[str, dict[str, Any]]]:
        """The defenses as (name, settings given), without baseline and original, which are always there.

        Raises:
          UserError: the text of `defenses` is wrong, or names a defense that others start from with settings.
        """
        text = self.defenses or ("" if self.stage == COMPARE or any(map(own.is_own, self.models)) else _PAPER)
        found = specs.split_specs(text, DEFENSES)
        for name, settings in found:
            if name in FIRST and settings:
                raise UserError(f"{name} has no settings of its own: use --epochs, --learning_rate and --weight_decay.")
        return [(name, settings) for name, settings in found if name not in FIRST]

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
    def _attack_text(self) -> str:
        return self.attacks or (COMPARED_ATTACKS if self.stage == COMPARE else "")

    @property
    def attack_specs(self) -> list[tuple[str, dict[str, Any], tuple[float, ...]]]:
        """The attacks as (name, settings given, sizes of its own, ascending; empty where `epsilons` holds).

        Raises:
          UserError: the text of `attacks` is wrong, names an attack with the same settings twice, or gives a size to
            an attack that has none.
        """
        text = self._attack_text
        if not text:
            return []
        from tfadv.attacks import ATTACKS, WITHOUT_EPS  # imports no TensorFlow

        found = specs.split_sized(text, ATTACKS)
        for number, (name, settings, sizes) in enumerate(found):
            if (name, settings) in [spec[:2] for spec in found[:number]]:
                raise UserError(f"--attacks names {name} twice with the same settings: give sizes as {name}@0.1+0.2.")
            if sizes and name in WITHOUT_EPS:
                raise UserError(f"--attacks: {name} has no size, so nothing can follow an @.")
            if any(size <= 0 for size in sizes):
                raise UserError(f"--attacks: the sizes of {name} must be above 0.")
        return found

    def attacked_images(self, attack: str, n: int) -> int:
        """How many of n test images are evaluated under an attack of that name."""
        if not self.eval_size and self.stage == COMPARE:
            return min(COMPARED_IMAGES_OF.get(attack, COMPARED_IMAGES), n)
        return min(self.eval_size or n, n)

    def certified_images(self, n: int) -> int:
        """How many of n test images are certified."""
        return min(self.eval_size or CERTIFIED_IMAGES, n)

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

    def flagfile(self) -> str:
        """Returns the settings as a flagfile that gives the same results, without requests for one run only."""
        return flag_lines(dataclasses.replace(self, overwrite=False, require="", baseline="", export=""))
