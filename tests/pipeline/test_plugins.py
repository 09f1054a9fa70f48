"""The four extensions, each one file with one line that registers it, loaded by --plugins from the current folder."""

import json

import keras
import numpy as np
import pytest

from tests.pipeline.conftest import CHEAP
from tests.smoke import Smoke
from tfadv import main
from tfadv.errors import UserError

ATTACK = '''
"""An attack that moves each image to a single gray level."""
import dataclasses
import tensorflow as tf
from tfadv.attacks import ATTACKS
from tfadv.attacks.base import Attack
from tfadv.specs import setting

@dataclasses.dataclass(frozen=True)
class Gray(Attack):
    level: float = setting(0.5, least=0)

    def attack_batch(self, call, x, y, sizes):
        return tf.stack([tf.clip_by_value(tf.fill(x.shape, self.level), x - eps, x + eps) for eps in tf.unstack(sizes)])

ATTACKS.register("gray", Gray)
'''

DEFENSE = '''
"""Standard training with 100 added to the loss, which shows in the history."""
import dataclasses
from tfadv.defenses import DEFENSES
from tfadv.defenses.base import Defense
from tfadv.specs import setting

@dataclasses.dataclass(frozen=True)
class Longer(Defense):
    full_name = "Longer training"
    more: float = setting(100.0, least=0)

    def loss(self, model, x, y, adversarial):
        losses, logits = super().loss(model, x, y, adversarial)
        return self.more + losses, logits

DEFENSES.register("longer", Longer)
'''

FORMAT = '''
"""A report of one line per record."""
from tfadv.report import FORMATS

def lines(folder, data):
    rows = [f"{r.defense}: {r.attack_label} {r.eps}: {r.accuracy}" for r in data.records]
    (folder / "lines.txt").write_text("\\n".join(rows))

FORMATS.register("lines", lines)
'''

DATASET = '''
"""Stripes: class 0 is horizontal and class 1 vertical."""
import numpy as np
import tensorflow_datasets as tfds
from tfadv.datasets import DATASETS, DatasetSpec

class Stripes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(16, 16, 3), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=["horizontal", "vertical"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(200), "test": self._generate_examples(100)}

    def _generate_examples(self, n):
        rng = np.random.default_rng(n)
        for i in range(n):
            image = np.broadcast_to(rng.integers(0, 256, (16, 1, 3)), (16, 16, 3)).astype(np.uint8)
            yield i, {"image": image.transpose(1, 0, 2) if i % 2 else image, "label": i % 2}

DATASETS.register("stripes", DatasetSpec("label", 16, "pad", True, builder="toy_dataset:Stripes"))
'''


def write(folder, **plugins):
    for name, source in plugins.items():
        assert source.count(".register(") == 1  # the one line
        (folder / f"{name}.py").write_text(source)


@pytest.mark.long  # tests/pipeline/test_documented_extensions.py has these as well
def test_attack_defense_and_report_format(smoke, tmp_path):
    write(tmp_path, toy_attack=ATTACK, toy_defense=DEFENSE, toy_format=FORMAT)
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    plugins = f"{CHEAP},toy_attack,toy_defense,toy_format"
    flags = (plugins, "--defenses=longer", "--attacks=gray,gray(level=0.9)", "--eval_size=60")
    stdout = run.succeed(*flags, cwd=tmp_path)

    # The defense, in the results, the tables and the report.
    records = run.records()
    assert {r["defense"] for r in records} == {"baseline", "augmented", "retrained", "longer"}
    history = json.loads((run.workdir / "models/resnet_tiny/longer/history.json").read_text())["history"]
    assert all(100 < loss < 110 for loss in history["loss"]) and all(loss < 10 for loss in history["val_loss"])
    text = (run.workdir / "report/report.md").read_text()
    assert "longer" in stdout and "longer" in text
    inputs = run.manifest("models/resnet_tiny/longer")["inputs"]
    assert inputs["more"] == 100 and len(inputs["source"]) == 64

    # The attack, with its settings, equals an independent count.
    attacked = {(r["defense"], r.get("label", ""), r["eps"]): r for r in records if r["attack"] == "gray"}
    assert len(attacked) == 2 * 2 * 3 and "gray(level=0.9)" in text
    assert attacked["longer", "gray(level=0.9)", 0.03]["settings"] == {"level": 0.9}
    with np.load(next(run.workdir.glob("attacks/resnet_tiny/longer/gray_*/correct.npz"))) as arrays:
        robust = arrays["clean"] & arrays["adversarial"]
    assert robust.shape == (3, 60)
    counts = [attacked["longer", "gray(level=0.9)", eps]["correct"] for eps in (0.01, 0.02, 0.03)]
    assert counts == robust.sum(axis=1).tolist() == _count_gray(run, 0.9)

    # The report format.
    lines = (run.workdir / "report/lines.txt").read_text().splitlines()
    shown = [r for r in records if r["defense"] in ("baseline", "longer")]
    assert len(lines) == len(shown) and any(line.startswith("longer: gray(level=0.9) 0.03: ") for line in lines)

    # What was there stays, and a change in the file of the attack concerns its evaluations only.
    assert not [
        name for name in run.rebuilt(before) if name.startswith(("models", "evaluations")) and "longer" not in name
    ]
    before = run.dates()
    write(tmp_path, toy_attack=ATTACK.replace("x + eps)", "x + eps / 2)"))
    run.succeed(*flags, "--stage=evaluate", cwd=tmp_path)
    rebuilt = run.rebuilt(before)
    assert len(rebuilt) == 4 and {name.split("/")[0] for name in rebuilt} == {"attacks"}


def _count_gray(run, level):
    """How many of 60 test images the model "longer" classifies correctly, clean and moved to the gray level."""
    from tfadv.datasets import sources

    dataset = sources.load("digits", run.data_dir, 32)
    rows = json.loads((run.workdir / "split/splits.json").read_text())["test"][:60]
    x, labels = dataset.images[rows].astype("float32") / np.float32(255), dataset.labels[rows]
    model = keras.models.load_model(run.workdir / "models/resnet_tiny/longer/model.keras")

    def correct(images):
        return model.predict(images, verbose=0).argmax(1) == labels

    gray = [np.clip(np.full_like(x, level), x - np.float32(eps), x + np.float32(eps)) for eps in (0.01, 0.02, 0.03)]
    return [int((correct(x) & correct(np.clip(images, 0, 1))).sum()) for images in gray]


@pytest.mark.long  # docs/extending.md has one as well
def test_data_set(tmp_path, data_dir):
    write(tmp_path, toy_dataset=DATASET)
    run = Smoke(tmp_path / "run", data_dir)
    flags = ("--plugins=toy_dataset", "--dataset=stripes", "--train_size=0", "--split=official", "--epochs=12")
    run.succeed(*flags, "--stage=attack", cwd=tmp_path)
    records = run.records()
    assert {r["dataset"] for r in records} == {"stripes"} and {r["n"] for r in records} == {100}
    assert records[0]["protocol"] == "clean" and records[0]["accuracy"] > 0.9  # an easy data set
    record = json.loads((run.workdir / "split/splits.json").read_text())
    assert record["dataset"] == "stripes/1.0.0" and record["class_names"] == ["horizontal", "vertical"]
    assert [len(record[split]) for split in ("train", "validation", "test")] == [180, 20, 100]


def test_without_the_plugin_the_name_is_unknown(tmp_path, data_dir):
    run = Smoke(tmp_path / "run", data_dir)
    failed = run("--attacks=gray", cwd=tmp_path)
    assert failed.returncode == 1 and "unknown attack 'gray'" in failed.stderr and "Traceback" not in failed.stderr


def test_a_plugin_that_ends_the_process_is_an_error(tmp_path, monkeypatch):
    """With exit code 0, a gate would have passed."""
    (tmp_path / "plugin_that_exits.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="module 'plugin_that_exits' can't be imported .SystemExit: 0"):
        main._import_plugins(["plugin_that_exits"])
