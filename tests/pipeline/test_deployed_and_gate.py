"""A .tflite file on the command line, beside the Keras model that it was made from; and `--require`."""

import dataclasses
import json
import os
import shutil
import types
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import commands
from tests.pipeline.conftest import CHEAP
from tests.pipeline.test_own_model import ROOT, save_model
from tests.serving import send, serving
from tfadv.evaluation.records import ModelId, Record, attack_records
from tfadv.evaluation.result import Result
from tfadv.models.runtimes import LiteRT
from tfadv.pipeline import baseline, reporting, steps
from tfadv.pipeline.baseline import read_baseline
from tfadv.pipeline.results import save_result

FLAGS = (
    "--dataset=npz:digits.npz", "--stage=evaluate", "--models=int8.tflite,mine.keras", "--twin=mine.keras",
    "--epsilons=0.15", "--attacks=pgd(steps=3)", "--eval_size=40", "--input_range=0,255", CHEAP,
)  # fmt: skip
RELATIVE = ("accuracy", "fgsm@0.15", "pgd(steps=3)@0.15", "worst@0.15")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """With mine.keras, int8.tflite and digits.npz."""
    folder = tmp_path_factory.mktemp("deployed")
    save_model(folder / "mine.keras", digits)
    np.savez(folder / "digits.npz", x=digits.images[:300], y=digits.labels[:300])
    keras.models.load_model(folder / "mine.keras").export(folder / "saved", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None].astype("float32")] for image in digits.images[:50])
    (folder / "int8.tflite").write_bytes(converter.convert())
    return folder


def run(folder, *flags):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return commands.run(["--workdir=run", *flags], cwd=folder, environment=environment)


@pytest.fixture(scope="module")
def evaluated(folder):
    """The finished process of an evaluation in the work folder "run"."""
    required = "--require=accuracy>=0.5; pgd(steps=3)@0.15>=0.01; worst@0.15>=0.999"
    return run(folder, *FLAGS, required)


def test_file_and_model_side_by_side_and_requirements(folder, evaluated):
    assert evaluated.returncode == 1, evaluated.stderr[-3000:]  # one requirement is not met
    records = json.loads((folder / "run/results.json").read_text())
    found = {(r["model"], r["attack"], r["n"]): r["accuracy"] for r in records if r["protocol"] != "transfer"}
    assert {model for model, *_ in found} == {"int8", "mine"}
    assert abs(found["int8", None, 60] - found["mine", None, 60]) <= 0.1
    assert found["int8", "pgd", 40] < found["int8", None, 60] - 0.2  # the gradient of the twin leads somewhere
    verdicts = [line.split(": ") for line in evaluated.stdout.splitlines() if ": int8/original, " in line]
    assert [verdict for verdict, *_ in verdicts] == ["passed", "undecided", "failed"]
    suite = ElementTree.parse(folder / "run/gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "2")
    # What was measured serves other requirements.
    again = run(folder, *FLAGS, "--require=accuracy>=0.5; worst_class(accuracy)>=0.01")
    assert again.returncode == 0 and "nothing to do" in again.stdout and again.stdout.count("worst of 10 classes") == 2
    more = ("--attacks=apgd-ce,pgd(steps=3)", "--require=worst_class(pgd(steps=3))@0.15>=0.99; worst@0.15>=0.999")
    failed = run(folder, *FLAGS, *more)
    assert (
        failed.returncode == 1 and "nothing to do" in failed.stdout and failed.stderr.count("apgd-ce is skipped") == 2
    )
    assert run(folder, *FLAGS, "--require=accuracy>=0.5; pgd(steps=3)@0.15>=0.01").returncode == 2


def test_a_baseline_image_by_image_and_from_counts(folder, evaluated, started, monkeypatch):
    """The work folder of the earlier run is around its results.json, and then not."""
    monkeypatch.chdir(folder)
    (folder / "next").mkdir()
    model = keras.models.load_model("mine.keras")
    model.set_weights([w + 0.02 * np.random.default_rng(0).normal(size=w.shape) for w in model.get_weights()])
    model.save("next/mine.keras")
    require = "--require=" + "; ".join(f"{what}>=baseline-0.3" for what in RELATIVE)
    later = (*FLAGS, "--workdir=next/run", "--models=next/mine.keras", "--twin=", require, "--export=litert_int8")
    paired = run(folder, *later, "--baseline=run/results.json")
    assert "passed: mine/original, accuracy>=baseline-0.3: " in paired.stdout, paired.stderr[-3000:]
    assert paired.returncode == 2 and paired.stdout.count("on the same 40 images") == 2  # the attack is weak
    exported = LiteRT(folder / "next/run/exports/mine/original/mine_int8.tflite")
    assert (
        exported._input["dtype"] == np.int8 and "% of 30 validation images get the class of the model" in paired.stderr
    )
    with np.load("digits.npz") as data:
        x = data["x"].astype("float32")
    assert np.mean(exported(x).argmax(1) == model.predict(x, verbose=0).argmax(1)) > 0.95
    (folder / "alone").mkdir()
    shutil.copy("run/results.json", "alone")
    counts = run(folder, *later, "--baseline=alone/results.json")
    assert counts.returncode == 2 and counts.stdout.count("as if all images were different") == 4
    assert "its intervals are those of counts" in counts.stderr

    this = started(*later, "--baseline=run/results.json")
    found = {(record.model, record.attack_label): record for record in read_baseline(this)}
    assert {label for _, label in found} == {"clean", "fgsm", "pgd(steps=3)", "worst"}
    for record in found.values():
        assert (len(record.per_image), record.per_image.sum()) == (record.n, record.correct)
    both = found["int8", "fgsm"].per_image[:40] & found["int8", "pgd(steps=3)"].per_image
    np.testing.assert_array_equal(found["int8", "worst"].per_image, both)
    monkeypatch.setattr(this.dataset, "record", this.dataset.record | {"test": this.dataset.record["test"][::-1]})
    assert all(record.per_image is None for record in read_baseline(this))  # other images


def test_a_model_behind_a_function_that_has_changed_is_measured_again_with_overwrite(
    started, tmp_path, digits, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.savez("small.npz", x=digits.images[:300, ::4, ::4], y=np.repeat([0, 1], [100, 200]))
    (tmp_path / "behind.py").write_text(
        "import pathlib\nimport numpy as np\n"
        "def predict(images):\n"
        "    return np.full(len(images), int(pathlib.Path('answer').read_text()))\n"
    )
    flags = "--dataset=npz:small.npz", "--models=behind:predict", "--epsilons=0.1", "--workdir=run"

    def measured(answer, *more):
        """(accuracy, whether anything was computed)."""
        (tmp_path / "answer").write_text(str(answer))
        this = started(*flags, *more)
        (model,) = steps.all_trained(this)
        steps.evaluate_fgsm(this, model)
        (clean,) = [r for r in reporting.records(this, model) if r.protocol == "clean"]
        return clean.accuracy, bool(this.cache.built)

    assert measured(0) == (pytest.approx(1 / 3), True)
    assert measured(1) == (pytest.approx(1 / 3), False)
    assert measured(1, "--overwrite") == (pytest.approx(2 / 3), True)
    assert measured(1) == (pytest.approx(2 / 3), False)


@pytest.mark.parametrize("own_sizes", [True, False])
def test_outcomes_of_an_attack_with_sizes_of_its_own(tmp_path, own_sizes):
    """Its folder is named after them."""
    folder, robust = tmp_path / "attacks/mine/original/bim_0.1_0.2", np.array([[1, 1, 0], [0, 1, 0]], bool)
    folder.mkdir(parents=True)
    save_result(folder, Result("bim", {}, (0.1, 0.2), np.ones(3, bool), robust))
    inputs = {"attack": "bim", "own_sizes": own_sizes}
    earlier = types.SimpleNamespace(root=tmp_path, manifest=lambda name: {"inputs": inputs}, open=tmp_path.joinpath)
    of_model = ModelId("digits", "mine", "original", 0)
    cost = {"gradients": 1, "forwards": 1}
    for record, row in zip(attack_records(of_model, (0.1, 0.2), robust, "bim", {"steps": 1}, cost), robust):
        found = baseline._outcomes(earlier, dataclasses.replace(record, per_image=None))
        assert (found.tolist() if own_sizes else found) == (row.tolist() if own_sizes else None)


def test_a_service_that_fails_and_the_run_that_goes_on(tmp_path, digits):
    x, y = digits.images[:300, ::4, ::4], digits.labels[:300]
    np.savez(tmp_path / "small.npz", x=x, y=y)
    layers = keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x.astype("float32"), y, epochs=10, verbose=0)
    model.save(tmp_path / "small.keras")
    kernel, bias = model.get_weights()
    first = tmp_path / "run/evaluations/m/original/manifest.json"

    def predict(instances):
        logits = np.asarray(instances, np.float32).reshape(-1, 64) / 255 @ kernel + bias
        return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).tolist()

    def breaks(handler, answer):
        if first.exists():  # in the attack after it
            return send(handler, {"error": "out of memory"}, 400)
        server.faults.append(breaks)
        return send(handler, answer)

    with serving(predict, shape=(8, 8, 1)) as server:
        flags = (*FLAGS, "--dataset=npz:small.npz", "--twin=small.keras", f"--models={server.url},small.keras")
        server.faults = [breaks]
        broken = run(tmp_path, *flags)
        line = broken.stderr.splitlines()[-1]
        assert broken.returncode == 1 and line.startswith("tfadv: http://127.0.0.1") and "'out of memory'" in line
        written = first.stat().st_mtime_ns
        done = run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "its twin give 100.0%" in done.stderr and "names the same version" in broken.stderr
    assert first.stat().st_mtime_ns == written
    records = [r for r in json.loads((tmp_path / "run/results.json").read_text()) if r["protocol"] == "whitebox"]
    found, expected = ({r["attack"]: r["correct"] for r in records if r["model"] == m} for m in ("m", "small"))
    assert set(found) == {"fgsm", "pgd", "worst"} == set(expected)
    assert all(abs(found[attack] - expected[attack]) <= 1 for attack in found), (found, expected)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "can't be read (No such file"),
        ("{}", "has no result for accuracy>=baseline"),
        ("[1]", "is not the results.json"),
        ("broken", "is not the results.json"),
        ("other data", "is about npz:other.npz"),
    ],
)
def test_a_baseline_that_is_of_no_use_is_one_line(content, message, folder):
    (folder / "wrong").mkdir(exist_ok=True)
    path = folder / "wrong/results.json"
    path.unlink(missing_ok=True)
    if content == "other data":
        fields = {field.name: None for field in dataclasses.fields(Record)} | {"dataset": "npz:other.npz"}
        content = json.dumps([Record(**(fields | {"protocol": "clean", "interval": (0, 1)})).to_dict()])
    if content:
        path.write_text(content)
    done = run(folder, *FLAGS, "--require=accuracy>=baseline", "--baseline=wrong/results.json")
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1], done.stderr[-3000:]


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--models=broken.tflite", "--twin=mine.keras"), "broken.tflite can't be read"),
        (("--models=int8.tflite", "--defenses=nfgsm"), "int8.tflite can be attacked but not trained"),
        (("--models=mine.keras",), "--twin=mine.keras is for a .tflite or .onnx file"),
        (("--twin=absent.keras",), "there is no model file absent.keras, which is to be the twin"),
        (("--require=autoattack@0.15>=0.4",), "--attacks does not name autoattack"),
        (("--baseline=x/results.json",), "--baseline=x/results.json is for --require"),
        (("--baseline=run/results.json", "--require=accuracy>=baseline"), "is what this run writes"),
        (("--export=litert_int8",), "--export=litert_int8 is for models that Keras holds"),
        (
            ("--export=litert_int8", "--models=served:predict", "--workdir=other", "--image_size=32"),
            "--export is for Keras models, and predict is none",
        ),
        (("--require=accuracy>=0.5", "--stage=train"), "--require is for --stage=evaluate, explain"),
    ],
)
def test_wrong_use_is_one_line(flags, message, folder):
    (folder / "broken.tflite").write_bytes((folder / "int8.tflite").read_bytes()[:500])
    (folder / "served.py").write_text("def predict(images):\n    return images.reshape(len(images), -1)[:, :10]\n")
    done = run(folder, *FLAGS, *flags)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tfadv: ")
