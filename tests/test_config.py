"""The settings: their checks, their flags and the help text."""

import dataclasses
import inspect
import pathlib
import re
import types
import typing

import pytest

from tfadv import config as config_module
from tfadv import settings, specs
from tfadv.command_line import CommandLine, flagfile_folder, shipped_flagfiles
from tfadv.config import Config
from tfadv.defenses import DEFENSES
from tfadv.defenses.base import Defense
from tfadv.errors import UserError
from tfadv.settings import Names, Range

FLAGFILES = sorted((pathlib.Path(__file__).parents[1] / "flags").glob("*.flags"))
NAMES = [name for name, _, _ in settings.settings_of(Config)]

# A value other than the default for each setting, as it is written on the command line and as the field holds it.
OTHER = {
    "stage": ("train", "train"),
    "models": ("resnet_tiny,resnet50", ("resnet_tiny", "resnet50")),
    "defenses": ("nfgsm,trades(beta=3)", "nfgsm,trades(beta=3)"),
    "weights": ("imagenet", "imagenet"),
    "input_range": ("-1,1", "-1,1"),
    "twin": (__file__, __file__),
    "plugins": ("json,csv", ("json", "csv")),
    "export": ("litert_int8", "litert_int8"),
    "seed": ("7", 7),
    "dataset": ("cifar10", "cifar10"),
    "label": ("species", "species"),
    "data_dir": ("~/images", "~/images"),
    "split": ("official", "official"),
    "image_size": ("48", 48),
    "fit": ("pad", "pad"),
    "train_size": ("1000", 1000),
    "augmentations": ("noise,crop", ("noise", "crop")),
    "epochs": ("21", 21),
    "retrain_epochs": ("22", 22),
    "budget": ("1000000", 1_000_000),
    "batch_size": ("24", 24),
    "batch_parts": ("4", 4),
    "learning_rate": ("0.025", 0.025),
    "weight_decay": ("0", 0.0),
    "patience": ("24", 24),
    "precision": ("mixed_bfloat16", "mixed_bfloat16"),
    "surrogate": ("resnet50", "resnet50"),
    "epsilons": ("0.5, 0.25", (0.5, 0.25)),
    "attacks": ("fgsm,pgd(steps=50,restarts=5)", "fgsm,pgd(steps=50,restarts=5)"),
    "require": ("accuracy>=0.9", "accuracy>=0.9"),
    "baseline": ("old/results.json", "old/results.json"),
    "eval_size": ("26", 26),
    "copies": ("500", 500),
    "workdir": ("somewhere", "somewhere"),
    "overwrite": ("true", True),
    "shard": ("1/3", "1/3"),
    "distribute": ("mirrored", "mirrored"),
    "verbosity": ("debug", "debug"),
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"dataset": "cifar"}, "unknown dataset 'cifar': did you mean 'cifar10'"),
        ({"dataset": ""}, "--dataset is empty"),
        ({"surrogate": "resnet19"}, "unknown model 'resnet19': did you mean 'resnet1"),
        ({"augmentations": ("flips",)}, "did you mean 'flip'"),
        ({"precision": "bfloat16"}, "unknown precision 'bfloat16'"),
        ({"epsilons": (-0.1,)}, "epsilons has -0.1"),
        ({"epsilons": (float("nan"),)}, "epsilons has nan"),
        ({"epsilons": (8,)}, "epsilons has 8: each must be above 0 and at most 1"),
        ({"epsilons": ()}, "epsilons is empty"),
        ({"epsilons": (0.1, 0.1)}, "twice"),
        ({"epochs": 0}, "--epochs is 0: it must be at least 1"),
        ({"batch_size": -1}, "--batch_size is -1"),
        ({"learning_rate": float("inf")}, "--learning_rate"),
        ({"weight_decay": float("nan")}, "--weight_decay"),
        ({"seed": -1}, "--seed"),
        ({"image_size": 4}, "--image_size is 4: it must be at least 8 .*pixels"),
        ({"image_size": "4x40"}, "--image_size is 4x40: it must be at least 8 .*pixels"),
        ({"image_size": "0x40"}, "--image_size is 0x40: it must be at least 8"),
        ({"image_size": "24x"}, "'24x' is not a size: write the side of a square such as 96, or HEIGHTxWIDTH"),
        ({"split": "random"}, "unknown split 'random'"),
        ({"defenses": "trade"}, "unknown defense 'trade': did you mean 'trades'"),
        ({"defenses": "nfgsm(epochs=8"}, "cannot read .*nfgsm"),
        ({"defenses": "baseline(epochs=8)"}, "baseline has no settings of its own: use --epochs"),
        ({"distribute": "tpu"}, "--distribute=tpu: give auto, none, mirrored, multiworker or cpu:2"),
        ({"batch_size": 10, "batch_parts": 4}, "--batch_size=10 can't be processed in 4 equal parts"),
        ({"stage": "retrian"}, "did you mean 'retrain'"),
        ({"models": ("resnet",)}, "unknown model 'resnet'"),
        ({"models": ()}, "--models is empty"),
        ({"models": "resnet18"}, "must be a tuple"),
        ({"models": ("resnet18", "resnet18")}, "twice"),
        ({"attacks": "pdg"}, "did you mean 'pgd'"),
        ({"attacks": "pgd(steps=5"}, "pgd"),
        ({"attacks": "pgd(steps=5),fgsm,pgd(steps=5)"}, "names pgd twice"),
        ({"shard": "0/4"}, "--shard is for .*--stage=evaluate.*, not for all"),
        ({"shard": "4/4", "stage": "evaluate"}, "from 0 to n - 1"),
        ({"shard": "0/4", "stage": "evaluate", "overwrite": True}, "--shard and --overwrite"),
        ({"data_dir": ""}, "--data_dir is empty"),
        ({"models": ("absent.keras",)}, "there is no model file absent.keras"),
        ({"models": ("old.h5",)}, "old.h5 is in an older format: convert it"),
        ({"models": ("my models:build",)}, "neither a built-in model, a model file, a SavedModel nor module:function"),
        ({"models": ("a:resnet18", "resnet18")}, "two models are called 'resnet18'"),
        ({"models": ("a:f",), "surrogate": "b:f"}, "two models are called 'f'"),
        ({"weights": "absent.keras"}, "--weights=absent.keras: give imagenet or the path"),
        ({"input_range": "0-255"}, "--input_range=0-255: write auto, or two numbers such as 0,255"),
        ({"input_range": "1,-1"}, "--input_range=1,-1: write auto"),
        ({"workdir": "a\0b"}, "--workdir must be the path of a folder"),
    ],
)
def test_bad_settings_are_named(change, words):
    with pytest.raises(UserError, match=words):
        Config(**change)


def test_a_requirement_about_the_default_attacks_of_a_comparison():
    options = {"require": "autoattack@0.03>=0.4", "epsilons": (0.03,), "models": ("resnet_tiny",)}
    assert Config(stage="compare", **options).require
    with pytest.raises(UserError, match="--attacks does not name autoattack"):
        Config(stage="report", **options)


def test_zero_means_what_the_setting_says():
    for name in ("image_size", "train_size", "eval_size", "budget", "learning_rate"):
        assert getattr(Config(**{name: 0}), name) == 0


@pytest.mark.parametrize(
    "text, value",
    [
        ("96", 96),
        ("96x96", 96),
        ("24x40", "24x40"),
        ("24X40", "24x40"),
        (" 24 x 40 ", "24x40"),
        ("0", 32),
        ("024x40", "24x40"),
    ],
)
def test_sizes_of_images_are_numbers_for_squares_and_texts_for_others(text, value, tmp_path):
    config = CommandLine([f"--image_size={text}"]).config()
    assert config.image_size == value and type(config.image_size) is type(value)
    assert f"--image_size={value}\n" in config.flagfile()
    (tmp_path / "flags.txt").write_text(config.flagfile())
    assert CommandLine([f"--flagfile={tmp_path / 'flags.txt'}"]).config() == config == config.resolved()


@pytest.mark.parametrize("text", ["24,40", "24x40x3", "x40", "-24x40", "24.5", "large", ""])
def test_what_is_no_size_is_said(text):
    with pytest.raises(UserError, match=f"--image_size={text}: .* is not a size: write the side of a square"):
        CommandLine([f"--image_size={text}"]).config()


def test_numbers_may_be_fractions(tmp_path):
    flags = ["--epsilons=8/255, 4 / 255,0.5,1e-3", "--defenses=nfgsm(eps=8/255)", "--learning_rate=1/8"]
    config = CommandLine(flags).config()
    assert config.epsilons == (8 / 255, 4 / 255, 0.5, 0.001)
    assert (config.defense_specs, config.learning_rate) == ([("nfgsm", {"eps": 8 / 255})], 0.125)
    (tmp_path / "flags.txt").write_text(config.flagfile())
    assert CommandLine([f"--flagfile={tmp_path / 'flags.txt'}"]).config() == config


@pytest.mark.parametrize(
    "flag, message",
    [
        (
            "--epsilons=8/255,x",
            "--epsilons=8/255,x: 'x' is not a number: write one such as 0.03, or a fraction such as",
        ),
        ("--epsilons=8/0", "'8/0' divides by zero"),
        ("--epsilons=8/255/2", "'8/255/2' is not a number"),
        ("--epsilons=8", "--epsilons has 8.0: each must be above 0 and at most 1, such as 0.03 or 8/255"),
        ("--epsilons=0.1,1/10", "--epsilons names a value twice"),
        ("--epsilons=-8/255", "--epsilons has -0.03"),
        ("--learning_rate=abc", "--learning_rate=abc: 'abc' is not a number"),
        ("--learning_rate=", "--learning_rate=: '' is not a number"),
        ("--weight_decay=nan", "'nan' is not a number"),
        ("--learning_rate=1e999", "'1e999' is too large a number"),
    ],
)
def test_what_is_no_number_is_said(flag, message):
    with pytest.raises(UserError, match=message):
        CommandLine([flag]).config()


def test_digits_are_never_flipped():
    for name, flipped in (("digits", False), ("mnist", False), ("cifar10", True)):
        config = Config(dataset=name).resolved()
        assert ("flip" in config.augmentations) == flipped and config.image_size == 32
        assert config.workdir == f"runs/{name}"
        assert config.resolved() == config


@pytest.mark.parametrize(
    "attacks, message",
    [
        ("pgd,pgd@0.1", "names pgd twice with the same settings: give sizes as pgd@0.1+0.2"),
        ("fog@0.1", "fog has no size"),
        ("pgd@0", "must be above 0"),
        ("pgd@", "is not a number"),
        ("pgd@a", "is not a number"),
        ("pgd@0.1@0.2", "cannot read"),
    ],
)
def test_wrong_sizes_of_an_attack_are_refused(attacks, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Config(attacks=attacks)


def test_attacks_and_shard_as_values():
    config = Config(attacks="fgsm,pgd(steps=50,restarts=5)", shard="2/4", stage="evaluate")
    assert config.attack_specs == [("fgsm", {}, ()), ("pgd", {"steps": 50, "restarts": 5}, ())]
    sized = Config(attacks="pgd(norm=l2) @ 0.5+64/255, fgsm@0.1").attack_specs
    assert sized == [("pgd", {"norm": "l2"}, (64 / 255, 0.5)), ("fgsm", {}, (0.1,))]
    assert config.shard_of() == (2, 4)
    assert Config().attack_specs == [] and Config().shard_of() is None


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda p: p.stem)
def test_every_flagfile_gives_a_configuration_and_says_what_it_is(path):
    lines = path.read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert lines[: len(comments)] == comments and len(comments) >= 3
    assert f"tfadv --flagfile={path.stem}" in comments[-1]
    config = CommandLine([f"--flagfile={path}"]).config()
    assert isinstance(config, Config)
    assert CommandLine([f"--flagfile={path.stem}"]).config() == config
    assert all(specs.build_with(name, given, DEFENSES).name == name for name, given in config.defense_specs)
    given = [line.split("=")[0].removeprefix("--") for line in lines[len(comments) :]]
    assert given and all(getattr(config, name) is not None for name in given)


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda p: p.stem)
def test_flagfiles_promise_no_figures(path):
    """In 0.1, the accuracies of flags/cifar10.flags were others than README's: they belong in one place."""
    assert "%" not in path.read_text()


def test_shipped_flagfiles_are_found():
    assert shipped_flagfiles() == [path.stem for path in FLAGFILES]
    assert flagfile_folder().samefile(FLAGFILES[0].parent)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_flag_that_reaches_its_field(name):
    """In 0.1, only the names were compared: a flag that reached another field would have passed."""
    text, value = OTHER[name]
    own = ["--models=mine:build"]
    extra = {"shard": ["--stage=evaluate"], "input_range": own, "twin": own}.get(name, [])
    config, default = CommandLine([f"--{name}={text}", *extra]).config(), CommandLine(extra).config()
    assert getattr(config, name) == value
    changed = {n for n in NAMES if getattr(config, n) != getattr(default, n)}
    expected = {name} if value != getattr(Config(), name) else set()
    if name == "weights":
        expected |= {"learning_rate"}
    if name == "dataset":  # the work folder and the flips follow from it
        expected |= {"workdir", "augmentations"}
    assert changed == expected
    assert value != getattr(Config(), name)


def test_fields_and_defaults_have_the_declared_types():
    hints = typing.get_type_hints(Config)
    for name, default, declared in settings.settings_of(Config):
        union = isinstance(hints[name], types.UnionType)
        assert isinstance(default, hints[name] if union else typing.get_origin(hints[name]) or hints[name]), name
        assert declared.help.endswith(".") and declared.group
    assert [f.name for f in dataclasses.fields(Config)] == NAMES == list(OTHER)


def test_flags_txt_gives_the_same_settings_again(tmp_path):
    left_out = ("shard", "overwrite", "input_range", "twin", "require", "baseline", "export")
    others = {name: value for name, (_, value) in OTHER.items() if name not in left_out}
    for changes in ({}, others):
        config = Config(**changes).resolved()
        (tmp_path / "flags.txt").write_text(config.flagfile())
        assert CommandLine([f"--flagfile={tmp_path / 'flags.txt'}"]).config() == config
    assert "overwrite" not in Config(overwrite=True).flagfile().replace("--nooverwrite", "")


def test_defenses_are_exactly_those_given():
    assert [name for name, _ in Config().defense_specs] == ["augmented", "retrained"]
    given = Config(defenses="nfgsm(epochs=8, optimizer=sgd),baseline,trades").defense_specs
    assert given == [("nfgsm", {"epochs": 8, "optimizer": "sgd"}), ("trades", {})]
    assert Config(models=("mine:build",)).defense_specs == [] == Config(stage="compare").defense_specs


def test_help_shows_every_setting_with_group_default_and_range():
    text = CommandLine(["--helpfull"]).help_text()
    positions = []
    for name, default, declared in settings.settings_of(Config):
        start = text.index(f"\n  --{name}")
        end = min(i for i in (text.find("\n  --", start + 1), text.find("\n\n", start + 1)) if i >= 0)
        entry = " ".join(text[start:end].split())
        assert " ".join(declared.help.split()) in entry
        if isinstance(default, tuple):
            assert f"--{name}={','.join(map(str, default))}" in entry
        elif not isinstance(default, bool):
            assert f"--{name}={default}" in entry
        if isinstance(declared.accepts, Range):
            assert str(declared.accepts) in entry
        elif isinstance(declared.accepts, Names):
            assert all(known in entry for known in declared.accepts.available(Config()))
        assert text.rindex(f"\n{declared.group}\n", 0, start + 1) >= 0
        positions.append(start)
    assert positions == sorted(positions)
    assert text.index("\nExamples\n") > positions[-1] and "tfadv --flagfile=smoke" in text.split("\nExamples\n")[1]
    assert all(name in text for name in shipped_flagfiles())
    assert max(map(len, text.splitlines())) <= 130


def test_help_leaves_out_what_is_rarely_needed():
    text, full = CommandLine(["--help"]).help_text(), CommandLine(["--helpfull"]).help_text()
    for name, _, declared in settings.settings_of(Config):
        assert f"\n  --{name}" in full and (f"\n  --{name}" in text) != declared.rare, name
    assert len(text) < 0.8 * len(full)


def test_a_registered_defense_is_known(monkeypatch):
    monkeypatch.setitem(DEFENSES._entries, "toy", Defense)
    assert Config(defenses="toy(epochs=2)").defense_specs == [("toy", {"epochs": 2})]
    assert "toy" in CommandLine(["--defenses=toy"]).help_text()
    with pytest.raises(UserError, match="unknown stage 'toy'"):
        Config(stage="toy")


def test_the_settings_know_no_defense_by_name():
    source = "".join(map(inspect.getsource, (config_module, settings)))
    assert not re.search(r"[\"'](baseline|nfgsm|trades|rounds)[\"']", source)
