"""The command line: flags, shipped flagfiles and the text of `--help`, all from the settings in `tfadv.config`."""

from __future__ import annotations

import os
import pathlib
import textwrap
from collections.abc import Sequence

from absl import flags

import tfadv
from tfadv.config import Config
from tfadv.errors import UserError, check_name
from tfadv.settings import define_flags, describe, read_flags

_PACKAGE = pathlib.Path(__file__).parent
_FLAGFILE = ("--flagfile", "-flagfile")

_USAGE = """\
tfadv {version}: measures and improves the robustness of Keras image classifiers to adversarial examples.

Usage: tfadv [--setting=value ...] [--flagfile=FILE ...]

Each setting is shown with its default. A later flag overrides an earlier one, so put a flagfile first.
These flagfiles come with tfadv, by name:
{flagfiles}

{settings}

Examples
  tfadv --flagfile=smoke
      Check the installation: run all stages with a tiny model in under a minute.
  tfadv --flagfile=quickstart
      Train, attack and retrain as the paper does, on the digits that come with scikit-learn (no download).
  tfadv --dataset=cifar10 --stage=retrain --models=resnet18 --train_size=10000
      Train and retrain ResNet18 on 10,000 images of CIFAR-10.
  tfadv --flagfile=quickstart --attacks='fgsm,pgd(steps=50,restarts=5),autoattack' --eval_size=256
      Evaluate the models of the second example under stronger attacks as well.
"""


def flagfile_folder() -> pathlib.Path:
    """Returns the folder of the flagfiles that come with tfadv: inside the installed package, or of a checkout."""
    installed = _PACKAGE / "flagfiles"
    return installed if installed.is_dir() else _PACKAGE.parent / "flags"


def shipped_flagfiles() -> list[str]:
    """Returns the names of the flagfiles that come with tfadv."""
    return sorted(path.stem for path in flagfile_folder().glob("*.flags"))


class CommandLine:
    """The flags of one command line.

    Attributes:
      help: whether `--help` or `--helpfull` was given.
      version: whether `--version` was given.
      plugins: the modules to import before `config` is called, so that their names are known.
      verbosity: the value of `--verbosity`, unchecked.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        """Parses the arguments, without the program's name.

        Raises:
          UserError: a flag or flagfile can't be read, or an argument is not a flag.
        """
        self._values = flags.FlagValues()
        define_flags(Config, self._values)
        flags.DEFINE_boolean("help", False, "Show this help.", short_name="h", flag_values=self._values)
        flags.DEFINE_boolean("helpfull", False, "Show all settings.", flag_values=self._values)
        flags.DEFINE_boolean("version", False, "Show the version.", flag_values=self._values)
        try:
            rest = self._values(["tfadv", *_with_shipped_flagfiles(arguments)])
        except (flags.Error, OSError, ValueError, RecursionError) as error:
            raise UserError(f"the flags can't be read: {' '.join(str(error).split())[:300]}")
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}: every setting is a --flag=value.")
        self.help = bool(self._values["help"].value or self._values["helpfull"].value)
        self.version = bool(self._values["version"].value)
        self.plugins = tuple(self._values["plugins"].value or ())
        self.verbosity = str(self._values["verbosity"].value)

    def config(self) -> Config:
        """Returns the settings, resolved.

        Raises:
          UserError: a setting is not accepted.
        """
        return Config(**read_flags(Config, self._values)).resolved()

    def help_text(self) -> str:
        """Returns the text of `--help`, or of `--helpfull`, which has all settings."""
        everything = bool(self._values["helpfull"].value)
        settings = describe(Config, read_flags(Config, self._values), everything=everything)
        flagfiles = textwrap.fill(", ".join(shipped_flagfiles()) + ".", 118)
        return _USAGE.format(version=tfadv.__version__, settings=settings, flagfiles=flagfiles)


def _with_shipped_flagfiles(arguments: Sequence[str]) -> list[str]:
    """The arguments with the paths of shipped flagfiles in place of their names."""
    changed = list(arguments)
    for i, argument in enumerate(arguments):
        option, equals, name = argument.partition("=")
        if option in _FLAGFILE and equals:
            changed[i] = f"{option}={_flagfile_path(name)}"
        elif i and arguments[i - 1] in _FLAGFILE:
            changed[i] = _flagfile_path(argument)
    return changed


def _flagfile_path(name: str) -> str:
    """The path of a flagfile: of a file, or of a shipped flagfile with that name.

    Raises:
      UserError: it is neither.
    """
    if not name or "/" in name or "\\" in name or "\0" in name or os.path.isfile(os.path.expanduser(name)):
        return name
    shipped = name.removesuffix(".flags")
    check_name("flagfile", shipped, shipped_flagfiles())
    return str(flagfile_folder() / f"{shipped}.flags")
