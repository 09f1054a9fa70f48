import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks.norms import L2, Linf
from tfadv.attacks.randomness import START, drawn

rng = np.random.default_rng(0)
X = rng.uniform(size=(5, 4, 4, 3)).astype("float32")
Z = X + rng.normal(0, 0.4, X.shape).astype("float32")


def test_linf_projects_to_the_nearest_image():
    np.testing.assert_allclose(Linf.project(Z, X, 0.1, 0.0, 1.0), np.clip(np.clip(Z, X - 0.1, X + 0.1), 0, 1))


def test_l2_projects_along_the_line():
    projected = L2.project(Z, X, 0.5, -9.0, 9.0).numpy()
    d = (Z - X).reshape(5, -1)
    np.testing.assert_allclose(
        (projected - X).reshape(5, -1), 0.5 * d / np.linalg.norm(d, axis=1, keepdims=True), atol=1e-6
    )
    near = X + 1e-3 * (Z - X)
    np.testing.assert_allclose(L2.project(near, X, 0.5, -9.0, 9.0), near)
    np.testing.assert_array_equal(L2.project(X, X, 0.0, 0.0, 1.0), X)


@pytest.mark.parametrize("norm, dual", [(Linf, 1), (L2, 2)])
def test_steepest_ascent_has_norm_one_and_the_largest_gain(norm, dual):
    g = rng.normal(size=(5, 4, 4, 3)).astype("float32") * 1e-25  # squares of which are 0 in float32
    direction = norm.steepest_ascent(g).numpy()
    np.testing.assert_allclose(norm.norm(direction), 1, rtol=1e-6)
    gain = (direction.astype("float64") * g).sum((1, 2, 3))
    np.testing.assert_allclose(gain, np.linalg.norm(g.reshape(5, -1).astype("float64"), dual, axis=1), rtol=1e-5)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_steepest_ascent_of_a_gradient_that_is_not_finite(norm):
    g = np.ones((3, 2, 2, 1), "float32")
    g[0, 0, 0], g[1, 0, 0], g[2] = np.nan, np.inf, 0
    direction = norm.steepest_ascent(g).numpy()
    assert (
        np.isfinite(direction).all()
        and direction[0, 0, 0] == 0
        and direction[1, 0, 0] == 1
        and (direction[2] == 0).all()
    )


@pytest.mark.parametrize("norm", [Linf, L2])
def test_samples_are_uniform_in_the_ball(norm):
    numbers, first = np.arange(4000), np.zeros(4000, int)

    def samples(seed, numbers, rounds):
        return drawn(lambda generator: norm.sample((1, 1, 2), generator), seed, START, numbers, rounds)

    sample = samples(7, numbers, first)
    size = norm.norm(sample).numpy().ravel()
    assert size.max() <= 1
    # In two dimensions a ball of half the radius has a quarter of the area.
    assert abs((size < 0.5).mean() - 0.25) < 0.03 and np.abs(sample.mean((0, 1, 2))).max() < 0.03
    # An image's sample depends on the seed, its number and the round, and on nothing else.
    np.testing.assert_array_equal(sample[[5, 3]], samples(7, [5, 3], first[:2]))
    assert (samples(7, [5, 3], first[:2]) != samples(8, [5, 3], first[:2])).all()
    assert (samples(7, [5, 3], first[:2]) != samples(7, [5, 3], first[:2] + 1)).all()
    # Direction and radius are independent, and so are the samples of successive images.
    x = sample[:, 0, 0]
    assert np.abs(np.corrcoef(np.abs(x[:, 0]) / size, size)[0, 1]) < 0.05 if norm is L2 else True
    assert np.abs(np.corrcoef(x[1:, 0], x[:-1, 0])[0, 1]) < 0.05


@pytest.mark.parametrize("norm", [Linf, L2])
def test_draws_inside_a_step_are_uniform_in_the_ball(norm):
    draw = norm.draw(tf.zeros((4000, 1, 1, 2)), tf.constant((3, 4), tf.int64)).numpy()
    size = norm.norm(draw).numpy().ravel()
    assert (
        size.max() <= 1 + 1e-6 and abs((size < 0.5).mean() - 0.25) < 0.03 and np.abs(draw.mean((0, 1, 2))).max() < 0.03
    )
