"""The examples of docs/extending.md, as written."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[2] / "docs/extending.md"


def test_the_examples_work(smoke, tmp_path):
    blocks = re.findall(r"```python\n(# (\w+)\.py:.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    sources = {name: source for source, name in blocks}
    assert set(sources) == {"noise", "fgsmtraining", "more_data", "more_models", "tables_page"}
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    run = smoke.copy(tmp_path / "run")
    run.forked = False  # plugins are imported before TensorFlow
    flags = (
        f"--plugins={','.join(sources)}",
        "--defenses=fgsmtraining",
        "--attacks=noise(scale=0.5)",
        "--eval_size=24",
    )
    run.succeed(*flags, cwd=tmp_path)
    labels = {record["label"] for record in run.records() if record["attack"] == "noise"}
    assert labels == {"noise(scale=0.5)"}
    assert (run.workdir / "models/resnet_tiny/fgsmtraining/model.keras").is_file()
    assert "<h1>digits</h1>" in (run.workdir / "report/tables.html").read_text()
    run.succeed(*flags[:1], "--models=resnet34", "--stage=train", cwd=tmp_path)
    assert (run.workdir / "models/resnet34/baseline/model.keras").is_file()
