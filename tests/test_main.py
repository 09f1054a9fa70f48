"""The command: what it answers, prints and returns; the stages are replaced by a function."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import types

import pytest
from absl import logging as absl_logging

import tfadv
from tests.faults.harness import ROOT
from tfadv import main
from tfadv.errors import UserError
from tfadv.runtime import console, signals


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """A function of (what `stages.run` does, *arguments) that returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(function, *arguments):
        stages = types.ModuleType("tfadv.pipeline.stages")
        stages.run = function
        monkeypatch.setitem(sys.modules, "tfadv.pipeline.stages", stages)
        monkeypatch.setattr("tfadv.pipeline.stages", stages, raising=False)
        code = main.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    signals.uninstall()
    console.configure_logging("info")


def raising(error):
    def function(config):
        raise error

    return function


def one_line(err):
    """The line that begins with tfadv's name, after a check that it is the last and the only one."""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("tfadv: ")]
    assert len(lines) == 1 and err.endswith(lines[0] + "\n")
    return lines[0]


def test_runs_the_stage_with_the_settings_and_prints_its_closing_text(run):
    seen = []
    code, out, err = run(lambda config: seen.append(config) or ("closing text", 0), "--flagfile=smoke", "--seed=5")
    assert code == 0 and out == "closing text\n"
    assert seen[0].seed == 5 and seen[0].models == ("resnet_tiny",) and seen[0].workdir == "runs/smoke"
    assert re.fullmatch(rf"\d\d:\d\d:\d\d tfadv {tfadv.__version__}: digits, stage all, in runs/smoke\n", err)


class ResourceExhaustedError(Exception):
    """As TensorFlow's."""


@pytest.mark.parametrize(
    "error, memory",
    [
        (MemoryError(), True),
        (ResourceExhaustedError("OOM when allocating tensor with shape[256,64,112,112]"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"), True),
        (ResourceExhaustedError("/tmp/a; Too many open files"), False),
        (RuntimeError("a fault of tfadv"), False),
    ],
)
def test_too_little_memory_is_one_line_and_a_fault_is_a_traceback(run, error, memory):
    if not memory:
        with pytest.raises(type(error)):
            run(raising(error))
        return
    code, _, err = run(raising(error))
    assert code == 1 and "out of memory" in one_line(err) and "--batch_size" in err
    err = run(raising(error), "--verbosity=debug")[2]
    assert "Traceback" in err and "tfadv: out of memory" in err


def test_a_follower_prints_nothing(run):
    assert run(lambda config: ("", 0))[:2] == (0, "")


def test_quiet_prints_the_result_only(run):
    disabled = []
    function = lambda config: disabled.append(console.progress_disabled()) or ("closing text", 0)  # noqa: E731
    assert run(function, "--verbosity=quiet") == (0, "closing text\n", "")
    assert disabled == [True]
    run(function)
    assert disabled == [True, None]


def test_an_error_for_the_user_is_one_line(run):
    code, _, err = run(raising(UserError("first\nsecond")))
    assert code == 1 and one_line(err) == "tfadv: first second"


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError("the drive went away"), "the drive went away"),  # in 0.1, AttributeError: no file name, no strerror
        (OSError(5, "Input/output error"), "Input/output error:"),
        (OSError(28, "No space left on device", "runs/x/y"), r"No space left on device \(runs/x/y\)"),
        (FileNotFoundError(2, "No such file or directory", b"bytes"), "No such file"),
        (PermissionError(), "PermissionError"),
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe"),
        (OSError(2, "Two paths", "a", None, "b"), "Two paths"),
    ],
)
def test_an_operating_system_error_is_one_line(error, words, run):
    code, _, err = run(raising(error))
    assert code == 1 and re.search(words, one_line(err))


@pytest.mark.parametrize("number, exit_code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_its_exit_code(number, exit_code, run):
    code, _, err = run(lambda config: signal.raise_signal(number))
    assert code == exit_code and "the same command continues from there" in one_line(err)
    code, _, err = run(raising(signals.Stopped(number)))
    assert code == exit_code and one_line(err)


def test_a_defect_keeps_its_traceback(run):
    with pytest.raises(ZeroDivisionError):
        run(lambda config: 1 / 0)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--dataset=cifar"], "did you mean 'cifar10'"),
        (["--stage=trian"], "did you mean 'train'"),
        (["--epsilons=0.1,x"], "'x' is not a number"),
        (["--epsilons=-1"], "above 0"),
        (["--models=resnet19"], "unknown model"),
        (["--attacks=pdg"], "did you mean 'pgd'"),
        (["--shard=2/2", "--stage=evaluate"], "from 0 to n - 1"),
        (["--epochs=many"], "epochs"),
        (["--no_such_flag"], "Unknown command line flag"),
        (["--flagfile=smok"], "unknown flagfile 'smok': did you mean 'smoke'"),
        (["--flagfile=none/smoke.flags"], "none/smoke.flags"),
        (["--verbosity=loud"], "unknown verbosity 'loud'"),
        (["--plugins=no_such_module"], "no_such_module"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_mistake_is_answered_in_one_line_before_any_stage(arguments, words, run):
    code, out, err = run(raising(AssertionError("must not run")), *arguments)
    assert code == 1 and not out and words in one_line(err) and len(err.splitlines()) == 1


def test_help_and_version(run):
    for flag in ("--help", "-h", "-help", "--helpfull"):
        code, out, err = run(raising(AssertionError("must not run")), flag)
        assert code == 0 and not err and "\nExamples\n" in out and "--batch_size=128" in out
        assert ("--patience=3" in out) == (flag == "--helpfull")
    assert run(raising(AssertionError), "--version") == (0, f"tfadv {tfadv.__version__}\n", "")


def test_plugins_are_imported_from_the_current_folder_before_names_are_checked(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "toy_plugin", raising=False)
    from tfadv.models import MODELS

    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    (tmp_path / "toy_plugin.py").write_text("from tfadv.models import MODELS\nMODELS.register('toy_net', object())\n")
    assert (
        run(lambda config: (",".join(config.models), 0), "--plugins=toy_plugin", "--models=toy_net")[1] == "toy_net\n"
    )
    assert "toy_net" in run(raising(AssertionError), "--plugins=toy_plugin", "--help")[1]


@pytest.mark.parametrize("content", ["1 / 0", "def", "raise SystemError('two\\nlines')"])
def test_a_failing_plugin_is_one_line(content, run, tmp_path, monkeypatch):
    (tmp_path / "failing_plugin.py").write_text(content)
    code, _, err = run(raising(AssertionError), "--plugins=failing_plugin")
    assert code == 1 and "failing_plugin" in one_line(err)


def test_the_first_line_is_tfadvs_and_warnings_stay():
    """A process of its own: TensorFlow writes its start-up lines while it is loaded."""
    code = """if True:
        import sys, types
        stages = types.ModuleType("tfadv.pipeline.stages")
        def run(config):
            import os
            import tensorflow as tf
            tf.constant(1) + 1
            list(tf.data.Dataset.range(3))
            try:
                tf.matmul(tf.zeros((2, 3)), tf.zeros((2, 3)))  # C++ code warns: "Local rendezvous is aborting"
            except tf.errors.InvalidArgumentError:
                pass
            os.write(2, b"W0000 a warning of TensorFlow\\n")
            tf.get_logger().warning("another warning")
            return "closing text", 0
        stages.run = run
        sys.modules["tfadv.pipeline.stages"] = stages
        from tfadv import main
        main.run()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and done.stdout == "closing text\n"
    assert re.fullmatch(r"\d\d:\d\d:\d\d tfadv .* in runs/digits", lines[0]), done.stderr
    assert lines[1] == "W0000 a warning of TensorFlow" and "another warning" in lines[2] and len(lines) == 3


def test_debug_shows_what_tensorflow_writes_at_its_start(run, monkeypatch):
    hidden = []

    @contextlib.contextmanager
    def startup_lines_hidden(hide=True):
        hidden.append(hide)
        yield

    monkeypatch.setattr(console, "startup_lines_hidden", startup_lines_hidden)
    run(lambda config: ("", 0))
    run(lambda config: ("", 0), "--verbosity=debug")
    assert hidden == [True, False]


def test_warnings_of_libraries_are_shown_but_for_tfds_about_itself(caplog):
    logger = absl_logging.get_absl_logger()
    console.configure_logging("info")
    console.configure_logging("info")
    absl_logging.warning("`FeatureConnector.dtype` is deprecated. Please change your code.")
    absl_logging.warning("a real one")
    absl_logging.info("reading a file")
    assert [record.getMessage() for record in caplog.records if record.name == "absl"] == ["a real one"]
    console.configure_logging("debug")
    assert not logger.filters
    console.configure_logging("info")


def test_only_startup_lines_are_hidden(capfd):
    with console.startup_lines_hidden():
        os.write(2, b"I0000 00:00:1 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1 cuda_dnn.cc:1] Unable to register cuDNN factory: registered already\n")
        os.write(2, b"W0000 00:00:1 gpu_device.cc:2] Cannot dlopen some GPU libraries.\n")
        os.write(console.stderr_descriptor(), b"at once\n")
    assert capfd.readouterr().err.splitlines() == [
        "at once",
        "W0000 00:00:1 gpu_device.cc:2] Cannot dlopen some GPU libraries.",
    ]
    with pytest.raises(ValueError), console.startup_lines_hidden():
        os.write(2, b"a message before an error\n")
        raise ValueError
    assert capfd.readouterr().err == "a message before an error\n"
    with console.startup_lines_hidden(False):
        os.write(2, b"I0000 shown\n")
        assert console.stderr_descriptor() == 2
    assert capfd.readouterr().err == "I0000 shown\n"
