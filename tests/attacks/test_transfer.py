"""The settings of mifgsm that make its images fool other models."""

import keras
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.attacks.conftest import is_right, of_range
from tests.attacks.test_loop import continued
from tfadv.attacks import MIFGSM, Cost, loop, randomness
from tfadv.attacks.spatial import transformed
from tfadv.attacks.transfer import numbers_of_blocks, shrunk, shuffled, smoothed

RANDOM = [{"diversity": 0.5}, {"neighbours": 3}, {"blocks": 2, "copies": 3}]
ALL = {"diversity": 0.7, "kernel": 3, "scales": 2, "neighbours": 2, "blocks": 2, "copies": 2}


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype("float32")


@pytest.fixture(scope="module")
def linear():
    """(model, x (9, 7, 8, 2), y, gradient (9, 7, 8, 2) of z_j - z_y): two classes."""
    model = keras.Sequential([keras.Input((7, 8, 2)), keras.layers.Flatten(), keras.layers.Dense(2)])
    w = np.random.default_rng(1).normal(size=(112, 2)).astype("float32") / 50
    model.set_weights([w, np.zeros(2)])
    x = 0.2 + 0.6 * uniform(9, 7, 8, 2)
    y = np.arange(9) % 2
    return model, x, y, (w[:, 1 - y] - w[:, y]).T.reshape(x.shape)


def attacked(case, **options):
    model, x, y, *_ = case
    return MIFGSM(steps=6, early_stop=False, **options)(model, x, y, 0.1).numpy()


@pytest.mark.parametrize("options", [{"scales": 5}, {"neighbours": 4}, {"scales": 2, "neighbours": 3}])
def test_on_a_linear_model_other_points_have_the_same_direction(linear, options):
    plain = attacked(linear)
    np.testing.assert_allclose(plain, linear[1] + 0.1 * np.sign(linear[3]), atol=1e-6)
    np.testing.assert_array_equal(attacked(linear, **options), plain)


def test_the_kernel_is_a_convolution_with_a_gaussian(linear):
    bell = scipy.stats.norm.pdf(np.linspace(-3, 3, 5))
    bell = np.outer(bell, bell)[None, :, :, None] / bell.sum() ** 2
    expected = scipy.ndimage.convolve(linear[3].astype(float), bell, mode="constant")
    np.testing.assert_allclose(smoothed(tf.constant(linear[3]), 5), expected, atol=1e-6)
    assert (np.sign(expected) != np.sign(linear[3])).mean() > 0.1
    np.testing.assert_allclose(attacked(linear, kernel=5), linear[1] + 0.1 * np.sign(expected), atol=1e-6)


def test_without_a_change_images_stay_to_the_bit():
    x = uniform(5, 7, 9, 3)
    np.testing.assert_array_equal(shrunk(x, uniform(5, 4), 0.0), x)
    np.testing.assert_array_equal(shuffled(x, uniform(5, 5), 1, angle=0), x)
    np.testing.assert_array_equal(smoothed(x, 1), x)


@given(numbers=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=3, max_size=3), n=st.integers(1, 12))
@example(numbers=[0.99, 0.99, 0.99], n=11)
@settings(max_examples=30)
def test_a_shrunk_ramp_is_a_ramp_on_black(numbers, n):
    """Linear interpolation is exact on it: the pixel at r shows (r + 0.5 - before) / scale - 0.5."""
    ramp = np.broadcast_to(np.arange(n, dtype=np.float32)[None, :, None, None] + 1, (1, n, 4, 1)).copy()
    found = shrunk(ramp, np.array([[0, *numbers]], np.float32), 1.0).numpy()[0, :, :, 0]
    scale = 1 - numbers[0] * (1 - 1 / 1.1)
    before = numbers[1] * n * (1 - scale)
    read = (np.arange(n) + 0.5 - before) / scale - 0.5
    inside = (read >= 0) & (read <= n - 1)
    middle = found[:, 1:3][inside]
    np.testing.assert_allclose(middle, np.repeat(read[inside, None] + 1, 2, 1), atol=1e-4 * n)
    assert (found[(read <= -1) | (read >= n)] == 0).all()


@given(blocks=st.integers(1, 4), height=st.integers(4, 13), width=st.integers(4, 13), seed=st.integers(0, 999))
@settings(max_examples=40)
def test_blocks_without_an_angle_only_move(blocks, height, width, seed):
    """Each pixel is there once, and at most blocks - 1 seams cross the rows, and each of the rows."""
    grid = np.stack(np.mgrid[:height, :width], axis=-1).astype(np.float32)
    found = shuffled(grid[None], uniform(1, numbers_of_blocks(blocks), seed=seed), blocks, angle=0).numpy()[0]
    assert {tuple(place) for place in found.reshape(-1, 2)} == {tuple(place) for place in grid.reshape(-1, 2)}
    assert (found[:, :1, 0] == found[..., 0]).all()  # rows stay together
    assert (np.diff(found[:, 0, 0]) != 1).sum() < blocks
    assert ((np.diff(found[..., 1], axis=1) != 1).sum(axis=1) < blocks).all()


def test_blocks_are_in_another_order_and_each_is_rotated():
    grid = np.stack(np.mgrid[:12, :12], axis=-1).astype(np.float32)[None].repeat(40, 0)
    moved = shuffled(grid, uniform(40, numbers_of_blocks(2)), 2, angle=0).numpy()
    orders = {(image[0, 0, 0] == 0, image[0, 0, 1] == 0, image[-1, 0, 1] == 0) for image in moved}
    assert len(orders) == 8 and len({int(np.abs(np.diff(image[:, 0, 0])).argmax()) for image in moved}) > 3
    x, numbers = uniform(3, 9, 11, 2), uniform(3, 5)
    degrees = 24 * (2 * numbers[:, 4:] - 1)
    expected = transformed(tf.constant(x), tf.constant(np.pad(degrees, ((0, 0), (0, 2))))).numpy()
    found = shuffled(x, numbers, 1).numpy()
    np.testing.assert_allclose(found[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5)
    assert np.abs(found - x).max() > 0.1


@pytest.mark.parametrize("options", [*RANDOM, ALL])
def test_no_result_depends_on_the_batch_and_seeds_differ(small, options):
    model, x, y = small
    attack = MIFGSM(steps=4, **options)
    whole = attack(model, x, y, 0.03, seed=3).numpy()
    for rows in (np.arange(7), np.arange(7, 40)):
        part = attack(model, x[rows], y[rows], 0.03, seed=3, image_numbers=rows).numpy()
        assert (np.abs(part - whole[rows]) > 1e-5).mean() < 2e-3
    assert 5 < is_right(model, whole, y).sum() < 36
    assert (np.abs(attack(model, x, y, 0.03, seed=4) - whole) > 1e-3).mean() > 0.005


def test_resumed_is_unbroken(small, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 0)
    model, x, y = small

    def call(log):
        return MIFGSM(steps=4, **ALL)(model, x, y, 0.03, batch_size=25, resume=log).numpy()

    resumed, _, interruptions = continued(call, 2)
    np.testing.assert_array_equal(resumed, call(None))
    assert interruptions > 1


def test_compiled_is_eager(small):
    model, x, y = small
    compiled = MIFGSM(steps=2, **ALL)(model, x[:6], y[:6], 0.08).numpy()
    tf.config.run_functions_eagerly(True)
    try:
        eager = MIFGSM(steps=2, **ALL)(model, x[:6], y[:6], 0.08)
    finally:
        tf.config.run_functions_eagerly(False)
    assert (np.abs(compiled - eager) > 1e-5).mean() < 5e-3 and (compiled != x[:6]).any()


def test_variance_is_algorithm_1_of_its_paper(small):
    model, x, y = small
    key, eps = randomness.keys(0, tf.range(40), np.zeros(40, int)), 0.1
    at, momentum, variance = tf.constant(x), 0.0, 0.0

    def gradient(at):
        with tf.GradientTape() as tape:
            tape.watch(at)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(at)))
        return tape.gradient(loss, at)

    for i in range(3):
        own = gradient(at)
        total = own + variance
        momentum += total / tf.reduce_sum(tf.abs(total), (1, 2, 3), keepdims=True)
        noise = [randomness.uniform(randomness.fold(randomness.fold(key, i), 2 * k + 1), x.shape[1:]) for k in range(4)]
        variance = sum(gradient(at + 1.5 * eps * (2 * each - 1)) for each in noise) / 4 - own
        at = tf.clip_by_value(tf.clip_by_value(at + eps / 3 * tf.sign(momentum), x - eps, x + eps), 0, 1)
    found = MIFGSM(steps=3, neighbours=4, early_stop=False)(model, x, y, eps)
    assert (np.abs(found - at) > 1e-5).mean() < 2e-3
    assert (np.abs(found - MIFGSM(steps=3, early_stop=False)(model, x, y, eps)) > 1e-3).mean() > 0.005


def test_cost_and_no_end_at_a_cycle(small):
    """38 of 40 images are right, and stay so."""
    model, x, y = small

    def cost(**options):
        counted = Cost()
        MIFGSM(**options)(model, x, y, 1e-7, cost=counted)
        return counted.gradients, counted.forwards

    assert cost(steps=5, scales=2, blocks=2, copies=4) == (38 * 5 * 8, 40 + 38 * 6)
    assert cost(steps=60, step_size=1.0, decay=0.0)[0] < 38 * 30  # ends at cycles
    assert cost(steps=60, step_size=1.0, decay=0.0, neighbours=1)[0] == 2 * 38 * 60


@pytest.mark.parametrize("changes", [{"diversity": 1.0}, {"blocks": 2, "copies": 3}], ids=["shrunk", "shuffled"])
def test_black_is_the_least_value_of_a_pixel(small, changes):
    model, x, y = small
    attack, scaled = MIFGSM(steps=2, early_stop=False, **changes), of_range(model, -1.0, 1.0)
    found = attack(scaled, 2 * x - 1, y, 0.2, clip=(-1.0, 1.0))
    assert (np.abs(found - (2 * attack(model, x, y, 0.1) - 1)) > 1e-5).mean() < 5e-3


def test_a_kernel_has_a_centre():
    with pytest.raises(ValueError, match="kernel must be odd"):
        MIFGSM(kernel=4)


def test_numbers_of_keys_are_uniform_independent_and_those_of_xla():
    key = randomness.keys(5, tf.range(50), np.zeros(50, int))
    numbers = randomness.uniform(key, (40, 50)).numpy()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.004 and abs(numbers.var() - 1 / 12) < 0.002  # 4 standard deviations
    counts = np.histogram(numbers, 64, (0, 1))[0]
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    rows = numbers.reshape(50, -1)
    others = [randomness.uniform(randomness.fold(key, n), (2000,)).numpy() for n in (0, 1)]
    for a, b in ((rows[:-1], rows[1:]), (rows[:, :-1], rows[:, 1:]), (rows, others[0]), (others[0], others[1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.013
    np.testing.assert_array_equal(randomness.uniform(key[7:9], (40, 50)), numbers[7:9])
    compiled = tf.function(lambda key: randomness.uniform(key, (40, 50)), jit_compile=True)
    np.testing.assert_array_equal(compiled(key), numbers)


@pytest.mark.long
def test_xla_finds_the_same_images(small, xla):
    model, x, y = small
    fixed = MIFGSM(steps=3, **ALL)(model, x, y, 0.03)
    loop.compilation.configure()
    plain = MIFGSM(steps=3, **ALL)(model, x, y, 0.03)
    assert (is_right(model, fixed, y) != is_right(model, plain, y)).sum() <= 2
