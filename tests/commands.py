"""Runs tfadv's command line in processes forked from one that has imported TensorFlow: each import takes seconds."""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import traceback

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]

# The server of `multiprocessing` imports these once.  Not `tfadv.main`, which each process runs as `__main__`.
IMPORTED = [
    "tfadv",
    "tensorflow",
    "keras",
    "tensorflow_datasets",
    "sklearn.model_selection",
    "tfadv.pipeline.stages",
]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(IMPORTED)


def run(arguments, *, cwd=ROOT, environment=None):
    """As `subprocess.run([sys.executable, "-m", "tfadv.main", *arguments], ...)` with output as text, without input.

    But TensorFlow and tfadv are imported before plugins, Python's end is cut short, variables that are read when they
    are imported have no effect, and all processes have the same seed of `hash`.  Tests of these take a process of
    their own.

    Args:
      arguments: of the command line.
      cwd: the current folder.
      environment: variables; None takes those of this process.

    Returns:
      The finished process, a `subprocess.CompletedProcess`.
    """
    arguments = [str(argument) for argument in arguments]
    environment = dict(os.environ if environment is None else environment)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
        for path in outputs:
            path.touch()
        process = _server.Process(target=_run, args=(arguments, str(cwd), environment, outputs))
        process.start()
        try:
            process.join()
        finally:
            process.kill()
        texts = [path.read_text(encoding="utf-8") for path in outputs]
        return subprocess.CompletedProcess(["tfadv", *arguments], process.exitcode, *texts)


def _run(arguments, cwd, environment, outputs):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    missing = [name for name in IMPORTED if name not in sys.modules]  # the server says nothing of an import that fails
    assert not missing, missing
    np.random.seed()  # else the same numbers in all processes
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["tfadv", *arguments]
    sys.path[:0] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    code = 0
    try:
        runpy.run_module("tfadv.main", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # `multiprocessing` leaves them out
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
