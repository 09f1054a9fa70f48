"""A .tflite file on the command line, beside the Keras model that it was made from; and `--require`."""

import json
import os
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import commands
from tests.pipeline.conftest import CHEAP
from tests.pipeline.test_own_model import ROOT, save_model

FLAGS = (
    "--dataset=npz:digits.npz", "--stage=evaluate", "--models=int8.tflite,mine.keras", "--twin=mine.keras",
    "--epsilons=0.15", "--attacks=pgd(steps=3)", "--eval_size=40", "--input_range=0,255", CHEAP,
)  # fmt: skip


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


def test_file_and_model_side_by_side_and_requirements(folder):
    required = "--require=accuracy>=0.5; pgd(steps=3)@0.15>=0.01; worst@0.15>=0.999"
    done = run(folder, *FLAGS, required)
    assert done.returncode == 1, done.stderr[-3000:]  # one requirement is not met
    records = json.loads((folder / "run/results.json").read_text())
    found = {(r["model"], r["attack"], r["n"]): r["accuracy"] for r in records if r["protocol"] != "transfer"}
    assert {model for model, *_ in found} == {"int8", "mine"}
    assert abs(found["int8", None, 60] - found["mine", None, 60]) <= 0.1
    assert found["int8", "pgd", 40] < found["int8", None, 60] - 0.2  # the gradient of the twin leads somewhere
    verdicts = [line.split(": ") for line in done.stdout.splitlines() if ": int8/original, " in line]
    assert [verdict for verdict, *_ in verdicts] == ["passed", "undecided", "failed"]
    suite = ElementTree.parse(folder / "run/gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "2")
    # What was measured serves other requirements.
    again = run(folder, *FLAGS, "--require=accuracy>=0.5")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert run(folder, *FLAGS, "--require=accuracy>=0.5; pgd(steps=3)@0.15>=0.01").returncode == 2


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--models=broken.tflite", "--twin=mine.keras"), "broken.tflite can't be read"),
        (("--models=int8.tflite", "--defenses=nfgsm"), "int8.tflite can be attacked but not trained"),
        (("--models=mine.keras",), "--twin=mine.keras is for a .tflite or .onnx file"),
        (("--twin=absent.keras",), "there is no model file absent.keras, which is to be the twin"),
        (("--require=autoattack@0.15>=0.4",), "--attacks does not name autoattack"),
        (("--require=accuracy>=0.5", "--stage=train"), "--require is for --stage=evaluate, report"),
    ],
)
def test_wrong_use_is_one_line(flags, message, folder):
    (folder / "broken.tflite").write_bytes((folder / "int8.tflite").read_bytes()[:500])
    done = run(folder, *FLAGS, *flags)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tfadv: ")
