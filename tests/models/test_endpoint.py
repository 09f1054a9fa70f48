"""A model behind a service: the same predictions, and one line for each way in which a service fails."""

import json

import keras
import numpy as np
import pytest

import tfadv
from tests.serving import cut, dropped, failed, late, send, serving
from tfadv import evaluate
from tfadv.errors import UserError
from tfadv.models import endpoint, own
from tfadv.models.endpoint import Endpoint

SHAPE = (4, 5, 3)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = keras.layers.Flatten(), keras.layers.Dense(4, kernel_initializer="random_normal")
    return keras.Sequential([keras.Input(SHAPE), *layers])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without pauses."""
    monkeypatch.setattr(endpoint, "_WAITS", (0.0, 0.0))


SLOW = late(1.5)  # and the patience where it is used: 1 second


def regression(model):
    """The function of a server: logits of nested lists, in float32 as the model computes them."""
    kernel, bias = model.get_weights()

    def predict(instances):
        x = np.asarray(instances, np.float32)
        return (x.reshape(len(x), -1) @ kernel + bias).tolist()

    return predict


def test_it_is_its_keras_model_image_by_image(model, images):
    labels = model.predict(images / 255.0, verbose=0).argmax(1)
    with serving(regression(model), shape=SHAPE) as server:
        served = tfadv.deployed(server.url, twin=model)
        np.testing.assert_allclose(served(images / 255.0), model(images / 255.0), rtol=1e-5, atol=1e-6)
        found = evaluate(tfadv.classifier(served), images, labels, "pgd(steps=5)", 0.02)
    expected = evaluate(model, images, labels, "pgd(steps=5)", 0.02, keep_images=True)
    assert 0 < expected.robust.sum() < 20
    np.testing.assert_array_equal(found.robust, expected.robust)
    np.testing.assert_array_equal(found.rounded_correct, expected.rounded_correct)


def test_batches_are_bounded_and_numbers_exact(images, monkeypatch):
    x = np.random.default_rng(1).random((7, *SHAPE), np.float32)
    with serving(lambda given: [[np.sum(i)] for i in given], shape=SHAPE) as server:
        monkeypatch.setattr(endpoint, "_MOST_NUMBERS", 3 * x[0].size + 1)
        found = Endpoint(server.url, None)(x)
        assert server.sizes == [3, 3, 1] and found.shape == (7, 1)
        np.testing.assert_array_equal(np.asarray(server.images, np.float32), x[6:])
        monkeypatch.setattr(endpoint, "_MOST_NUMBERS", 10**9)
        Endpoint(server.url, None)(np.zeros((300, *SHAPE), np.float32))
        assert server.sizes[3:] == [256, 44]


def test_whole_numbers_where_the_service_wants_them():
    with serving(lambda given: [0] * len(given), shape=(2, 2, 1), dtype="DT_UINT8") as server:
        Endpoint(server.url, None)(np.full((2, 2, 2, 1), 199.7, np.float32))
        assert server.images == [[[[200], [200]]] * 2] * 2 and type(server.images[0][0][0][0]) is int


def test_the_shape_is_that_of_the_service_or_given(model):
    with serving(regression(model), shape=(-1, -1, 3)) as server:
        assert own.image_shape(server.url) == (None, None, 3) and own.channels(server.url) == 3
        assert own.identity(server.url)["version"] == "1"
        server.version = "2"
        assert own.identity(server.url)["version"] == "2"
    with serving(regression(model)) as server:  # tells nothing
        assert own.image_shape(server.url) == (None, None, None) and own.identity(server.url)["version"] is None
        assert Endpoint(server.url, SHAPE).image_shape == SHAPE
        with pytest.raises(ValueError, match="give input_shape"):
            tfadv.deployed(server.url)
        assert tfadv.deployed(server.url, twin=model).input_shape == (None, *SHAPE)
    with serving(regression(model), shape=(784,)) as server, pytest.raises(UserError, match="it must be images"):
        tfadv.deployed(server.url)


@pytest.mark.parametrize("fault", [dropped, cut, failed, SLOW], ids=["dropped", "cut", "failed", "slow"])
def test_what_passes_is_asked_again(fault, model, images, monkeypatch):
    if fault is SLOW:
        monkeypatch.setattr(endpoint, "_TIMEOUT", 1.0)
    x = (images / 255.0).astype(np.float32)
    with serving(regression(model), shape=SHAPE) as server:
        predictor = Endpoint(server.url, None)
        server.faults = [fault, fault]
        np.testing.assert_allclose(predictor(x), model(x), rtol=1e-5, atol=1e-6)
        assert server.sizes == [20] * 3 and not server.faults


def answers(body, status=200, **headers):
    return lambda handler, answer: send(handler, body, status, **headers)


def changed(change):
    return lambda handler, answer: send(handler, {"predictions": change(answer["predictions"])})


@pytest.mark.parametrize(
    "fault, asked, message",
    [
        (dropped, 3, "does not work, after 3 attempts"),
        (cut, 3, "does not work, after 3 attempts"),
        (failed, 3, "after 3 attempts (status 503: 'overloaded')"),
        (SLOW, 3, "after 3 attempts (no answer within 1 seconds)"),
        (answers({"error": "busy"}, 429), 3, "after 3 attempts (status 429: 'busy')"),
        (answers({"error": "wrong shape"}, 400), 1, "refuses the images (status 400: 'wrong shape')"),
        (answers(b"<html>hello</html>"), 1, "it answered '<html>hello</html>'"),
        (answers(b"[" * 100_000), 1, 'must answer {"predictions": [...]}'),
        (answers(b"\xff{"), 1, 'must answer {"predictions": [...]}'),
        (answers([1, 2]), 1, 'must answer {"predictions": [...]}'),
        (answers({"outputs": []}), 1, 'must answer {"predictions": [...]}'),
        (changed(lambda rows: rows[1:]), 1, "got 20 images and returned predictions of shape (19, 4)"),
        (changed(lambda rows: [rows[0][1:], *rows[1:]]), 1, 'must answer {"predictions": [...]}'),
        (changed(lambda rows: [{"scores": row} for row in rows]), 1, "one row of numbers per image"),
        (changed(lambda rows: [[None] * 4 for _ in rows]), 1, "one row of numbers per image"),
        (changed(lambda rows: 3), 1, "returned predictions of shape ()"),
        (changed(lambda rows: [row[1:] for row in rows]), 1, "returned outputs (20, 3), and before 4"),
        (changed(lambda rows: [[float("nan")] * 4, *rows[1:]]), 1, "returned NaN or infinity for 1 images"),
        (answers(b"", 302, Location="http://example.com/x"), 1, "sends to http://example.com/x, which is not followed"),
    ],
)
def test_what_does_not_pass_is_one_line(fault, asked, message, model, images, monkeypatch):
    if fault is SLOW:
        monkeypatch.setattr(endpoint, "_TIMEOUT", 1.0)
    with serving(regression(model), shape=SHAPE) as server:
        served = tfadv.classifier(tfadv.deployed(server.url, twin=model))
        server.sizes, server.faults = [], [fault] * asked
        with pytest.raises(UserError) as raised:
            evaluate(served, images, np.zeros(20, int), None, batch_size=20)
        assert message in str(raised.value) and "\n" not in str(raised.value) and server.url in str(raised.value)
        assert server.sizes == [20] * asked
        assert evaluate(served, images, np.zeros(20, int), None, batch_size=20).n == 20  # it works again


def test_an_answer_without_an_end(model, images, monkeypatch):
    with serving(regression(model), shape=SHAPE) as server:
        predictor = Endpoint(server.url, None)
        monkeypatch.setattr(endpoint, "_MOST_BYTES", 100)
        with pytest.raises(UserError, match="more than 100 bytes"):
            predictor(images.astype(np.float32))


def test_nobody_is_there(model):
    with serving(regression(model)) as server:
        url = server.url
    with pytest.raises(UserError, match="Connection refused"):
        tfadv.deployed(url, twin=model)


@pytest.mark.parametrize(
    "url, message",
    [
        ("http://", "is no address"),
        ("http://host", "is no address"),
        ("http://host:99999/v1/models/m:predict", "is no address"),
        ("http://host:x/v1/models/m:predict", "is no address"),
        ("http://ho st/v1/models/m:predict", "is no address"),
        ("http://host/v1/models/m\r\nX: 1:predict", "is no address"),
        ("http://me:secret@host/v1/models/m:predict", "no password"),
        ("https://host/v1/models/m:predict?key=1", "no password"),
    ],
)
def test_wrong_addresses(url, message):
    with pytest.raises(UserError, match=message) as raised:
        own.check(url)
    assert "secret" not in str(raised.value)


def test_names():
    url = "http://127.0.0.1:8501/v1/models/mine:predict"
    assert own.is_own(url) and own.is_fixed(url) and own.is_deployed(url) and not own.is_function(url)
    assert own.normalized(url) == url and own.label(url) == "mine"
    assert own.label("https://x.org/v1/models/mine/versions/3:predict") == "mine_3"
    assert own.label("https://x.org/classify") == "x.org"
    assert json.dumps(url)  # of a saved model
