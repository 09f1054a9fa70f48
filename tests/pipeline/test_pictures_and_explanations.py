"""What only the report needs: pictures and explanations."""

import json

import keras
import numpy as np
import pytest

import tfadv
from tfadv.datasets import sources
from tfadv.explanation import Explanation
from tfadv.report.gallery import AttackedImages, choose_images

MODEL = "resnet_tiny/retrained"


@pytest.fixture(scope="module")
def tested(smoke):
    """(model, images uint8, labels) of the test split of the smoke run."""
    split = json.loads((smoke.workdir / "split/splits.json").read_text())
    digits = sources.load("digits", smoke.data_dir, 32)
    model = keras.models.load_model(smoke.workdir / f"models/{MODEL}/model.keras")
    return model, digits.images[split["test"]], digits.labels[split["test"]]


def test_the_gallery_shows_what_the_model_predicts(smoke, tested):
    model, images, y = tested
    gallery = AttackedImages.load(smoke.workdir / f"gallery/{MODEL}/gallery.npz")
    x = images / np.float32(255)
    epsilons = (0.01, 0.02, 0.03)
    attacked = np.asarray(tfadv.attacks.FGSM()(model, x, y, epsilons))
    shown = choose_images(y, 20)
    assert np.bincount(y[shown]).tolist() == [2] * 10
    np.testing.assert_array_equal(gallery.adversarial, np.round(255 * attacked[:, shown]))
    predicted = [np.argmax(model.predict(each, verbose=0), axis=1) for each in (x, *attacked)]
    np.testing.assert_array_equal(gallery.classes, np.stack(predicted)[:, shown])
    for confusion, classes in zip(gallery.confusion, predicted):
        expected = np.zeros((10, 10), int)
        np.add.at(expected, (y, classes), 1)
        np.testing.assert_array_equal(confusion, expected)
    np.testing.assert_array_equal(gallery.margins > 0, np.stack(predicted) == y)
    records = {(r["protocol"], r["eps"]): r["correct"] for r in smoke.records() if r["defense"] == "retrained"}
    assert np.trace(gallery.confusion[0]) == records["clean", None]
    # A record counts an image that is misclassified without an attack as misclassified under it.
    both = (predicted[0] == y) & (predicted[3] == y)
    assert both.sum() == records["whitebox", 0.03]


def test_explanations_are_computed_once_and_reported(smoke, tested, tmp_path):
    run = smoke.copy(tmp_path / "run")
    before = run.dates()
    run.succeed("--stage=explain", "--defenses=retrained")
    names = {f"explanations/resnet_tiny/{defense}" for defense in ("baseline", "retrained")}
    assert run.rebuilt(before) == {*names, "report"}
    text = (run.workdir / "report/report.md").read_text()
    assert "explanations_resnet_tiny.png" in text and "**Vulnerability" in text
    page = (run.workdir / "report/report.html").read_text()
    assert "What the models look at" in page and f"--flagfile={run.workdir}/flags.txt" in page
    model, images, y = tested
    found = Explanation.load(run.workdir / f"explanations/{MODEL}/explanation.npz")
    x = images[:256] / np.float32(255)
    logits = model.predict(x, verbose=0)
    own = logits[np.arange(256), y[:256]]
    others = np.where(np.eye(10, dtype=bool)[y[:256]], -np.inf, logits).max(axis=1)
    np.testing.assert_allclose(found.vulnerability.margin, own - others, atol=1e-4)
    before = run.dates()
    run.succeed("--stage=report", "--defenses=retrained")
    assert not run.rebuilt(before)  # the report that was built last has the explanations already
