"""Adversarial images rounded to 8 bits, and which of them still fool the model."""

import math

import keras
import numpy as np
import pytest

import tfadv
from tfadv.evaluation.evaluator import FixedImages
from tfadv.evaluation.result import Result, concatenate, worst_case
from tfadv.evaluation.rounding import has_8_bits, rounded
from tfadv.pipeline.results import load_result, save_result


def images_and_noise(eps, norm, n=6, shape=(5, 4, 3)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *shape)).astype(np.float32) / np.float32(255)
    noise = rng.choice([-1.0, 1.0, 0.99, 0.3], images.shape)
    if norm == "l2":
        noise /= np.sqrt(np.square(noise).sum((1, 2, 3), keepdims=True))
    return images, np.clip(images + eps * noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize("eps", [0.03, 8 / 255, 0.5 / 255, 1.0])
def test_linf_is_the_nearest_level_within_eps(eps):
    images, adversarial = images_and_noise(eps, "linf")
    found = rounded(adversarial, images, eps)
    assert found.dtype == np.float32 and has_8_bits(found)
    levels = np.arange(256) / 255
    for own, x, x_adv in zip(found.ravel(), images.ravel(), adversarial.ravel()):
        allowed = levels[np.abs(levels - x) <= eps + 1e-6]
        best = np.abs(allowed - x_adv).min()
        assert abs(own - x_adv) <= best + 1e-6 or abs(own - x) < abs(x_adv - x)  # or it is nearer to the image
        assert np.abs(allowed - own).min() < 1e-6
    assert (found != images).any() == (eps > 1 / 255)


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.5])
def test_l2_stays_within_eps(eps):
    images, adversarial = images_and_noise(eps, "l2")
    found = rounded(adversarial, images, eps, "l2")
    assert has_8_bits(found) and (np.sqrt(np.square(found - images).sum((1, 2, 3))) <= eps + 1e-5).all()
    assert (np.abs(found - adversarial) <= 1 / 255 + 1e-6).all()


@pytest.mark.parametrize(
    "norm, size", [("l1", lambda d: np.abs(d).sum((1, 2, 3))), ("l0", lambda d: (d != 0).sum((1, 2, 3)))]
)
def test_l1_and_l0_stay_within_eps(norm, size):
    images, _ = images_and_noise(0.1, "linf")
    adversarial = images.copy()
    adversarial[:, 0, :2] += np.where(images[:, 0, :2] < 0.5, 0.6, -0.6) / np.float32(255)  # rounds away from the image
    eps = size(adversarial - images).max()
    found = rounded(adversarial, images, eps, norm)
    assert has_8_bits(found) and (size(found - images) <= eps * (1 + 1e-5)).all()
    assert (found != images).any() == (norm == "l0")


class Threshold(keras.layers.Layer):
    """Logits (0, pixel - 100.4 grey levels): class 1 from level 101 on, and a little before."""

    def call(self, x):
        pixel = 255 * x[:, 0, 0, :] - 100.4
        return keras.ops.concatenate([keras.ops.zeros_like(pixel), pixel], axis=1)


@pytest.fixture(scope="module")
def threshold():
    inputs = keras.Input((1, 1, 1))
    return keras.Model(inputs, Threshold()(inputs))


def moved(images, *sizes):
    """An attack that raises all pixels by some grey levels, one number for each eps."""
    return FixedImages(np.stack([(images + np.float32(size)) / np.float32(255) for size in sizes]))


def test_what_only_fools_between_two_levels_is_counted(threshold):
    images = np.array([100, 99, 98, 101, 90], np.uint8).reshape(-1, 1, 1, 1)
    labels, eps = np.array([0, 0, 0, 0, 0]), 1.45 / 255
    result = tfadv.evaluate(threshold, images, labels, moved(images, 1.45), eps, keep_images=True)
    # 100 → 101.45 and 99 → 100.45 fool the model.  The nearest levels are 101 and 100, of which one fools it.
    assert result.clean_correct.tolist() == [True, True, True, False, True]
    assert result.adversarial_correct[0].tolist() == [False, False, True, False, True]
    assert result.rounded_correct[0].tolist() == [False, True, True, False, True]
    assert result.fooled_after_rounding == 0.5
    assert "rounded to 8 bits, 50.0% of the adversarial images still fool the model" in result.summary()
    attack = moved(images, 0.1, 1.6)  # 101.6 is nearer to 102, which is more than 1.6 levels away
    several = tfadv.evaluate(threshold, images, labels, attack, [0.1 / 255, 1.6 / 255], keep_images=True)
    assert math.isnan(several.fooled_after_rounding[0]) and several.fooled_after_rounding[1] == 0.5
    assert "rounded to 8 bits, – / 50.0%" in several.summary()


def test_where_it_is_not_measured(threshold):
    images, labels = np.array([100.3, 50.7], np.float32).reshape(-1, 1, 1, 1), np.array([0, 0])
    kept = tfadv.evaluate(threshold, images / 255, labels, moved(images, 1), 0.1, keep_images=True)
    assert kept.rounded_correct is None and kept.fooled_after_rounding is None and "8 bits" not in kept.summary()
    whole = np.array([100, 50], np.uint8).reshape(-1, 1, 1, 1)
    assert tfadv.evaluate(threshold, whole, labels, moved(whole, 1), 0.1).rounded_correct is None


def test_parts_worst_case_and_files(tmp_path):
    yes, no = np.ones((1, 3), bool), np.zeros((1, 3), bool)
    part = Result("pgd", {}, 0.1, yes[0], no, rounded_correct=np.array([[True, False, False]]))
    whole = concatenate([part, part])
    assert whole.rounded_correct.shape == (1, 6) and whole.fooled_after_rounding == pytest.approx(2 / 3)
    assert whole.first(4).rounded_correct.tolist() == [[True, False, False, True]]
    assert concatenate([part, Result("pgd", {}, 0.1, yes[0], no)]).rounded_correct is None
    assert worst_case([part, part]).rounded_correct is None
    save_result(tmp_path, whole)
    np.testing.assert_array_equal(load_result(tmp_path).rounded_correct, whole.rounded_correct)
    save_result(tmp_path, worst_case([whole]))
    assert load_result(tmp_path).rounded_correct is None
