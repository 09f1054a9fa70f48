"""tfadv's command line in processes forked from one that has imported TensorFlow, which takes each process seconds."""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).parents[1]

# The server of `multiprocessing` imports these once.  Not `tfadv.main`, which each process runs as `__main__`.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["tfadv", "tensorflow", "keras", "tensorflow_datasets", "sklearn.model_selection", "tfadv.experiments.runner"]
)


def run(arguments, *, cwd=ROOT, environment=None):
    """As `subprocess.run([sys.executable, "-m", "tfadv.main", *arguments], ...)` with output as text, without input.

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
        outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        process = _server.Process(target=_run, args=(arguments, str(cwd), environment, outputs))
        process.start()
        process.join()
        texts = [pathlib.Path(path).read_text(encoding="utf-8") for path in outputs]
        return subprocess.CompletedProcess(["tfadv", *arguments], process.exitcode, *texts)


def _run(arguments, cwd, environment, outputs):
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["tfadv", *arguments]
    sys.path[:0] = [cwd, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    code = 0
    try:
        runpy.run_module("tfadv.main", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # `multiprocessing` leaves them out
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
