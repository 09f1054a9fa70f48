"""What `import tfadv` does to TensorFlow's settings, each in a process of its own."""

import os
import subprocess
import sys

import pytest


def python(code, **environment):
    clean = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean | environment)
    assert answer.returncode == 0, answer.stderr
    return answer


def test_switches_onednn_on_and_does_not_load_tensorflow():
    code = "import os, sys, tfadv; print(os.environ['TF_ENABLE_ONEDNN_OPTS'], 'tensorflow' in sys.modules)"
    assert python(code).stdout.split() == ["1", "False"]


def test_leaves_the_users_choice():
    code = "import os, tfadv; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    assert python(code, TF_ENABLE_ONEDNN_OPTS="0").stdout.split() == ["0"]


def test_says_when_it_comes_too_late():
    code = (
        "import sys; sys.modules['tensorflow'] = sys; import tfadv, os; print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))"
    )
    answer = python(code)
    assert "imported before tfadv" in answer.stderr and answer.stdout.split() == ["None"]


@pytest.mark.parametrize("code", ["from tfadv.attacks import fgsm", "import tfadv; tfadv.attacks.fgsm"])
def test_the_public_attack_is_there(code):
    python(code)
