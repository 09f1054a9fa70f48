"""What `import tfadv` does in a new process."""

import os
import subprocess
import sys

import pytest

NO_TENSORFLOW = "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules), 'loaded something slow'"


def python(code, **environment):
    clean = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean | environment)
    assert answer.returncode == 0, answer.stderr
    return answer


def forked(codes, before="pass"):
    """Code that runs each of these in a fork of its own, after `before`; it fails with the first that fails."""
    return f"""if True:
        import os, sys
        {before}
        for code in {codes!r}:
            child = os.fork()
            if not child:
                try:
                    exec(code)
                except BaseException as error:
                    print(code, repr(error), file=sys.stderr, flush=True)
                    os._exit(1)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                sys.exit(1)
    """


def test_enables_onednn_and_does_not_load_tensorflow():
    code = "import os, sys, tfadv; print(os.environ['TF_ENABLE_ONEDNN_OPTS'], 'tensorflow' in sys.modules)"
    assert python(code).stdout.split() == ["1", "False"]


def test_keeps_the_users_choice():
    code = "import os, tfadv; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    assert python(code, TF_ENABLE_ONEDNN_OPTS="0").stdout.split() == ["0"]


def test_warns_when_tensorflow_was_imported_first():
    code = (
        "import sys; sys.modules['tensorflow'] = sys; import tfadv, os; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    )
    answer = python(code)
    assert "imported before tfadv" in answer.stderr and answer.stdout.split() == ["None"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_public_names():
    """Each is the first that a process imports of tfadv; all are forked from one that has TensorFlow."""
    python(
        forked(
            [
                "from tfadv.attacks import FGSM",
                "import tfadv; tfadv.attacks.FGSM",
                "import tfadv; tfadv.evaluate, tfadv.Result, tfadv.check_gradient_masking",
                "import tfadv; [getattr(tfadv, n) for n in tfadv.__all__]; assert {*tfadv.__all__} <= {*dir(tfadv)}",
                "from tfadv import datasets, defenses, evaluation, models, training",
            ],
            "import keras, tensorflow",
        )
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_answers_a_mistyped_flag_loads_neither_tensorflow_nor_keras():
    modules = (
        "config",
        "command_line",
        "main",
        "attacks",
        "datasets",
        "models",
        "defenses",
        "pipeline",
        "store.workdir",
    )
    python(forked([f"import tfadv.{module}; {NO_TENSORFLOW}" for module in modules]))


def test_checking_all_settings_loads_neither_tensorflow_nor_keras():
    python(
        "import sys; from tfadv.command_line import CommandLine; "
        "line = CommandLine(['--attacks=fgsm,pgd(steps=5)', '--stage=evaluate', '--defenses=nfgsm(epochs=8)']); "
        f"line.config(); line.help_text(); {NO_TENSORFLOW}"
    )
