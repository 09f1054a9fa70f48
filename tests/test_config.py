import dataclasses
import pathlib

import pytest
from absl import flags

from tfadv import main
from tfadv.config import Config, Run
from tfadv.errors import UserError

FLAGS = sorted((pathlib.Path(__file__).parents[1] / "flags").glob("*.flags"))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"dataset": "cifar"}, "unknown dataset 'cifar': did you mean 'cifar10'"),
        ({"surrogate": "resnet19"}, "unknown model 'resnet19': did you mean 'resnet1"),
        ({"augmentations": ("flips",)}, "did you mean 'flip'"),
        ({"precision": "bfloat16"}, "unknown precision 'bfloat16'"),
        ({"epsilons": (-0.1,)}, "epsilons has -0.1"),
        ({"epsilons": (float("nan"),)}, "epsilons has nan"),
        ({"epsilons": (8,)}, r"pixels are in \[0, 1\]"),
        ({"epsilons": ()}, "epsilons is empty"),
        ({"epsilons": (0.1, 0.1)}, "twice"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"batch_size": -1}, "--batch_size is -1"),
        ({"learning_rate": float("inf")}, "--learning_rate"),
        ({"weight_decay": float("nan")}, "--weight_decay"),
        ({"seed": -1}, "--seed"),
        ({"image_size": 4}, "at least 8 pixels"),
    ],
)
def test_bad_settings_are_named(change, words):
    with pytest.raises(UserError, match=words):
        Config(**change)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"stage": "retrian"}, "did you mean 'retrain'"),
        ({"models": ("resnet",)}, "unknown model 'resnet'"),
        ({"models": ()}, "--models is empty"),
        ({"jit_compile": "yes"}, "unknown jit_compile"),
    ],
)
def test_bad_runs_are_named(change, words):
    with pytest.raises(UserError, match=words):
        Run(**change)


def test_digits_are_never_flipped():
    for name, flipped in (("digits", False), ("mnist", False), ("cifar10", True)):
        config = Config(dataset=name).resolved()
        assert ("flip" in config.augmentations) == flipped and config.image_size == 32


@pytest.mark.parametrize("path", FLAGS, ids=lambda p: p.stem)
def test_every_flagfile_gives_a_configuration_and_says_what_it_is(path):
    lines = path.read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert lines[: len(comments)] == comments and len(comments) >= 3
    assert f"flags/{path.name}" in comments[-1]
    values = flags.FLAGS
    saved = {name: (values[name].value, values[name].present) for name in values}
    try:
        values(["tfadv", f"--flagfile={path}"])
        assert isinstance(main._config(), Config) and isinstance(main._run(), Run)
    finally:
        for name, (value, present) in saved.items():
            values[name].value, values[name].present = value, present
        values.unparse_flags()


def test_every_field_has_a_flag_that_reaches_it():
    names = {f.name for c in (Config, Run) for f in dataclasses.fields(c)}
    assert names <= set(flags.FLAGS)
