"""What `import tfadv` does, each in a process of its own."""

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


@pytest.mark.parametrize(
    "code",
    [
        "from tfadv.attacks import FGSM",
        "import tfadv; tfadv.attacks.FGSM",
        "import tfadv; tfadv.evaluate, tfadv.Result, tfadv.check_gradient_masking",
        "import tfadv; [getattr(tfadv, name) for name in tfadv.__all__]; assert set(tfadv.__all__) <= set(dir(tfadv))",
        "from tfadv import datasets, evaluation, models, objectives, training",
    ],
)
def test_public_names(code):
    python(code)


@pytest.mark.parametrize(
    "module",
    ["config", "command_line", "main", "attacks", "datasets", "models", "objectives", "experiments", "store.workdir"],
)
def test_what_answers_a_mistyped_flag_loads_neither_tensorflow_nor_keras(module):
    python(f"import sys, tfadv.{module}; {NO_TENSORFLOW}")


def test_checking_all_settings_loads_neither_tensorflow_nor_keras():
    python(
        "import sys; from tfadv.command_line import CommandLine; "
        "line = CommandLine(['--attacks=fgsm,pgd(steps=5)', '--stage=evaluate', '--defenses=']); "
        f"line.config(); line.help_text(); {NO_TENSORFLOW}"
    )
