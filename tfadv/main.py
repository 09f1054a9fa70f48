"""The command `tfadv`: command line → `Config` → stage.

tfadv --flagfile=smoke
python -m tfadv.main --dataset=cifar10 --stage=retrain
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

import tfadv
from tfadv.command_line import CommandLine
from tfadv.errors import UserError
from tfadv.runtime import console, signals

LOG = logging.getLogger("tfadv.main")  # `python -m tfadv.main` is called __main__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: without the program's name; None takes those of the process.

    Returns:
      The exit code.  What went wrong is one line on standard error.
    """
    signals.install()
    try:
        return _execute(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        return _fail(str(error))
    except signals.Stopped as stopped:
        _fail(signals.CLOSING_LINE)
        return stopped.exit_code
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        cause = error.strerror or str(error) or type(error).__name__
        return _fail(f"{cause}{place}: finished work is kept.")
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        LOG.debug("%s", error, exc_info=True)
        return _fail(
            "out of memory: finished work is kept. Give --batch_parts=2 or more, which takes less memory for the same "
            "results of an attack, or a smaller --batch_size."
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the machine or of a GPU was too small; TensorFlow need not be loaded."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    exhausted = type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in text
    return exhausted and ("OOM" in text or "out of memory" in text.lower() or "allocat" in text)


def _execute(arguments: Sequence[str]) -> int:
    command_line = CommandLine(arguments)
    if command_line.version:
        print(f"tfadv {tfadv.__version__}")
        return 0
    console.configure_logging(command_line.verbosity)
    hide = command_line.verbosity != "debug"
    if command_line.plugins:
        with console.startup_lines_hidden(hide):
            _import_plugins(command_line.plugins)
    if command_line.help:
        print(command_line.help_text(), end="")
        return 0
    config = command_line.config()
    LOG.info("tfadv %s: %s, stage %s, in %s", tfadv.__version__, config.dataset, config.stage, config.workdir)
    with console.startup_lines_hidden(hide):
        # TensorFlow takes seconds to load: a mistyped flag is answered before that.
        import tensorflow as tf

        from tfadv.pipeline import stages

        gpus = tf.config.list_physical_devices("GPU")  # looks for one, and complains here rather than later
    console.warn_of_unused_gpu(len(gpus))
    closing_text, exit_code = stages.run(config)
    if closing_text:
        print(closing_text)
    return exit_code


def _import_plugins(names: Sequence[str]) -> None:
    """Imports modules, which may be files in the current folder.

    Raises:
      UserError: a module is missing or fails.
    """
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever a user's module raises
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"--plugins: module {name!r} can't be imported ({message[:300]}).")


def _fail(message: str) -> int:
    print(f"tfadv: {' '.join(message.split())}", file=sys.stderr)
    return 1


def run() -> None:
    """The console script."""
    signals.end_process(main())


if __name__ == "__main__":
    run()
