"""The examples of docs/extending.md, as written."""

import pathlib
import re

import pytest

from tests import commands
from tests.pipeline.conftest import CHEAP

pytestmark = pytest.mark.packaging
PAGE = pathlib.Path(__file__).parents[2] / "docs/extending.md"
BUILT = """
import sys
sys.path.insert(0, {folder!r})
import more_models
from tfadv.command_line import CommandLine
from tfadv.pipeline.run import Run
from tfadv.store.workdir import Workdir
config = CommandLine({flags}).config()
with Workdir(config.workdir) as workdir, Run(config, workdir).lend(config.models[0]) as built:
    kernels = [w for w in built.model.weights if "kernel" in w.path and len(w.shape) == 4 and w.shape[0] == 3]
    print(config.models[0], len(kernels))
"""


def test_the_examples_work(smoke, tmp_path, long):
    blocks = re.findall(r"```python\n(# (\w+)\.py:.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    sources = {name: source for source, name in blocks}
    assert set(sources) == {"noise", "fgsmtraining", "more_data", "more_models", "tables_page"}
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    run = smoke.copy(tmp_path / "run")
    run.forked = False  # plugins are imported before TensorFlow, which they are nowhere else
    flags = (
        f"{CHEAP},{','.join(sources)}",
        "--defenses=fgsmtraining",
        "--attacks=noise(scale=0.5)",
        "--eval_size=24",
    )
    run.succeed(*flags, cwd=tmp_path)
    labels = {record["label"] for record in run.records() if record["attack"] == "noise"}
    assert labels == {"noise(scale=0.5)"}
    assert (run.workdir / "models/resnet_tiny/fgsmtraining/model.keras").is_file()
    assert "<h1>digits</h1>" in (run.workdir / "report/tables.html").read_text()
    more_models = [
        "--plugins=more_models",
        "--flagfile=smoke",
        "--models=resnet34",
        f"--workdir={tmp_path / 'resnet34'}",
    ]
    done = commands.python(BUILT.format(folder=str(tmp_path), flags=more_models))
    assert done.stdout.split() == ["resnet34", "32"], done.stderr[-3000:]
    if long:  # compiling the training takes most of the time
        run.succeed(*more_models, "--stage=train", cwd=tmp_path)
        assert (tmp_path / "resnet34/models/resnet34/baseline/model.keras").is_file()
