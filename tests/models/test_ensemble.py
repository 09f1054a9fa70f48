import keras
import numpy as np
import pytest

import tfadv
from tests.attacks.conftest import perceptron
from tfadv.models.logits import input_range_of


def test_logits_are_means_and_variables_are_shared():
    a, b = perceptron(4, seed=1), perceptron(4, seed=2)
    x = np.random.default_rng(0).uniform(size=(5, 6, 6, 2)).astype("float32")
    both = tfadv.ensemble([a, b, a])
    np.testing.assert_allclose(both(x), (2 * a(x).numpy() + b(x)) / 3, atol=1e-6)
    b.layers[-1].bias.assign_add(np.arange(4.0))
    np.testing.assert_allclose(both(x), (2 * a(x).numpy() + b(x)) / 3, atol=1e-6)
    np.testing.assert_allclose(tfadv.ensemble([a])(x), a(x), atol=1e-6)


def test_models_of_one_name_in_half_precision_and_of_another_range_fit():
    plain = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(3)], name="m")
    inputs = keras.Input((6, 6, 1))
    half = keras.layers.Dense(3, dtype="mixed_float16")(keras.layers.Flatten()(inputs))
    half = keras.Model(inputs, keras.layers.Softmax(dtype="float32")(half), name="m")
    x, y = np.random.default_rng(0).uniform(size=(8, 6, 6, 1)).astype("float32"), np.arange(8) % 3
    parts = [tfadv.classifier(plain, input_range=(0, 255), quiet=True), tfadv.classifier(half, quiet=True)]
    both = tfadv.ensemble(parts)
    np.testing.assert_allclose(both(x), (parts[0](x).numpy() + parts[1](x)) / 2, atol=0.1)
    adversarial = tfadv.attacks.PGD(early_stop=False)(both, x, y, 0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert loss(y, both(adversarial)) > loss(y, both(x))


@pytest.mark.parametrize("kind", ["ensemble", "expectation", "expectation of an ensemble"])
def test_images_are_read_in_the_range_of_the_models(kind):
    part = tfadv.classifier(perceptron(4, (6, 6, 1)), input_range=(0, 100), quiet=True)
    pixels = np.random.default_rng(0).integers(0, 101, (40, 6, 6, 1))
    y = np.argmax(part(pixels.astype("float32") / 100), axis=1)
    both = tfadv.ensemble([part, part])
    made = {"ensemble": both, "expectation": tfadv.expectation(part, 2)}.get(kind) or tfadv.expectation(both, 2)
    assert input_range_of(made) == (0, 100)
    for images in (pixels, pixels.astype("float32")):
        assert tfadv.evaluate(made, images, y, attack=None).clean_accuracy == 1


def test_ranges_in_which_whole_numbers_differ_are_refused():
    parts = [tfadv.classifier(perceptron(4), (0, high), quiet=True) for high in (100, 255, 1)]
    with pytest.raises(ValueError, match="0 to 100 and 0 to 255, and whole numbers can't"):
        tfadv.ensemble(parts[:2])
    assert input_range_of(tfadv.ensemble(parts[1:])) == (0, 1)  # whole numbers from 0 to 255 in both


@pytest.mark.parametrize("kind", ["none", "classes", "softmax", "random", "shapeless", "one"])
def test_what_can_not_be_averaged_is_refused(kind):
    a = perceptron(4)
    softmax = keras.Sequential([keras.Input((6, 6, 2)), *a.layers, keras.layers.Softmax()])
    parts = {
        "none": [],
        "classes": [a, perceptron(3)],
        "softmax": [softmax, a],
        "random": [a, tfadv.expectation(a)],
        "shapeless": [a, keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)], name="mine")],
        "one": a,
    }[kind]
    words = {"none": "got none", "classes": r"\(4,\)", "softmax": "softmax", "random": "expectation of the ensemble"}
    words |= {"shapeless": "mine has none: use tfadv.classifier", "one": "a list of models"}
    with pytest.raises(ValueError, match=words[kind]):
        tfadv.ensemble(parts)
