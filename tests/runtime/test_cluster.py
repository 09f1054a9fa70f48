"""TF_CONFIG: how many workers there are, and which of them this process is."""

import json
import subprocess
import sys

import pytest

from tfadv.errors import UserError
from tfadv.runtime.cluster import cluster


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"worker": ["a:1"]}}', '{"cluster": 3, "task": 4}'])
def test_a_malformed_cluster_description_is_named(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG can't be read.*worker"):
        cluster()


def test_the_number_of_a_worker(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster() == (1, 0)
    config = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert cluster() == (3, 2)
    monkeypatch.setenv("TF_CONFIG", json.dumps(config | {"task": {"type": "chief", "index": 0}}))
    assert cluster() == (3, 0)


def test_does_not_load_tensorflow():
    code = "import sys; import tfadv.runtime.cluster; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
