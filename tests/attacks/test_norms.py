import hypothesis
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from hypothesis import strategies as st

from tfadv.attacks.norms import L0, L1, L2, Linf, Pixels, choose
from tfadv.attacks.randomness import START, drawn

rng = np.random.default_rng(0)
X = rng.uniform(size=(5, 4, 4, 3)).astype("float32")
Z = X + rng.normal(0, 0.4, X.shape).astype("float32")


@pytest.mark.parametrize("jit_compile", [None, False, True], ids=["eager", "graph", "xla"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 4, 3), (5, 4, 4, 1), (5, 4, 4, 3)], ids=str)
def test_images_are_chosen_as_by_where(shape, jit_compile):
    condition = rng.uniform(size=shape) < 0.5
    function = choose if jit_compile is None else tf.function(choose, jit_compile=jit_compile)
    chosen = function(tf.constant(condition), tf.constant(X), tf.constant(Z))
    per_image = condition.reshape(-1, 1, 1, 1) if len(shape) == 1 else condition
    np.testing.assert_array_equal(chosen, np.where(per_image, X, Z))


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


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    d=st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4),
    x=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    eps=st.one_of(st.just(0.0), st.floats(0, 4, width=32)),
)
@hypothesis.example(d=[1, 0.6, 0, 0], x=[0.9, 0, 0, 0], eps=0.7)  # 0.1 and 0.6; clipped after the ball, 0.1 and 0.15
def test_l1_projects_to_the_nearest_image_in_the_box(d, x, eps):
    """The optimum by SLSQP, of the sizes of the changes: signs do not change."""
    x = np.array(x, "float32")
    z = (x + np.array(d, "float32")).astype("float32")

    def project(z):
        found = L1.project(z.reshape(1, 2, 2, 1), x.reshape(1, 2, 2, 1), eps, 0.0, 1.0)
        return found.numpy().reshape(-1)

    found, d = project(z), z.astype(float) - x
    assert found.min() >= 0 and found.max() <= 1
    assert np.abs(found.astype(float) - x).sum() <= eps * (1 + 1e-5) + 1e-6
    np.testing.assert_allclose(project(found), found, atol=1e-6)
    best = scipy.optimize.minimize(
        lambda v: np.square(v - np.abs(d)).sum(),
        np.zeros(4),
        jac=lambda v: 2 * (v - np.abs(d)),
        bounds=[(0, room) for room in np.where(d > 0, 1 - x, x)],
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(4)},
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(found - x.astype(float), np.sign(d) * best.x, atol=2e-4)


def test_l1_projection_of_many_images_each_by_itself():
    eps = np.linspace(0.1, 30, 5, dtype="float32").reshape(5, 1, 1, 1)
    whole = L1.project(Z, X, eps, 0.0, 1.0).numpy()
    assert whole.min() >= 0 and whole.max() <= 1
    for i in range(5):
        np.testing.assert_array_equal(whole[i : i + 1], L1.project(Z[i : i + 1], X[i : i + 1], eps[i], 0.0, 1.0))
    np.testing.assert_allclose(whole[4], np.clip(Z[4], 0, 1), atol=1e-6)  # all within


def test_pixels_are_counted_once_for_all_channels():
    d = np.zeros((1, 2, 2, 3), "float32")
    d[0, 0, 0], d[0, 0, 1], d[0, 1, 1] = (0.3, 0.3, 0.3), (0, -0.5, 0), (0.1, 0, 0)
    assert Pixels.norm(d).numpy().item() == 3 and L0.norm(d).numpy().item() == 5


@pytest.mark.parametrize("norm, dual", [(Linf, 1), (L2, 2), (L1, np.inf)])
def test_dual_norm_is_the_largest_gain_per_unit(norm, dual):
    g = rng.normal(size=(5, 4, 4, 3)).astype("float32") * 1e-25  # squares of which are 0 in float32
    expected = np.linalg.norm(g.reshape(5, -1).astype("float64"), dual, axis=1)
    np.testing.assert_allclose(norm.dual(g).numpy().ravel(), expected, rtol=1e-5)


@pytest.mark.parametrize("norm, dual", [(Linf, 1), (L2, 2)])
def test_steepest_ascent_has_norm_one_and_the_largest_gain(norm, dual):
    g = rng.normal(size=(5, 4, 4, 3)).astype("float32") * 1e-25  # squares of which are 0 in float32
    direction = norm.steepest_ascent(g).numpy()
    np.testing.assert_allclose(norm.norm(direction), 1, rtol=1e-6)
    gain = (direction.astype("float64") * g).sum((1, 2, 3))
    np.testing.assert_allclose(gain, np.linalg.norm(g.reshape(5, -1).astype("float64"), dual, axis=1), rtol=1e-5)


@pytest.mark.parametrize("share, moved", [(0.0, 1), (0.1, 4), (1.0, 48), (np.float32([0, 0.5, 1, 0.1, 0]), 0)])
def test_steepest_ascent_in_l1_moves_the_largest_values(share, moved):
    g = rng.normal(size=(5, 4, 4, 3)).astype("float32") * 1e-25
    number = np.array([1, 24, 48, 4, 1]) if moved == 0 else np.full(5, moved)
    direction = L1.steepest_ascent(g, share).numpy()
    np.testing.assert_allclose(L1.norm(direction), 1, rtol=1e-6)
    gain = (direction.astype("float64") * g).sum((1, 2, 3))
    falling = np.sort(np.abs(g.reshape(5, -1).astype("float64")), axis=1)[:, ::-1]
    np.testing.assert_allclose(gain, [row[:n].mean() for row, n in zip(falling, number)], rtol=1e-5)


def test_a_step_in_l1_does_not_spend_on_pixels_at_their_bound():
    """The largest values of the gradient lead out of the box; they stay there, and the next ones move."""
    x, at = np.full((1, 2, 5, 2), 0.5, "float32"), np.full((1, 2, 5, 2), 0.5, "float32")
    g = (np.arange(20, 0, -1) * np.where(np.arange(20) % 2, -1, 1)).reshape(x.shape).astype("float32")
    at.reshape(-1)[:3] = 1, 0, 1
    moved = L1.ascend(at, g, 0.2, x, 9.0, 0.0, 1.0).numpy().reshape(-1)  # 5% of 20 values: one at a time
    np.testing.assert_allclose(moved, [1, 0, 1, 0.3, *[0.5] * 16], atol=1e-6)
    full = L1.ascend(at, g, 0.2, x, 1.5, 0.0, 1.0).numpy().reshape(-1)  # eps is spent already, and well
    np.testing.assert_allclose(full, at.reshape(-1), atol=1e-6)


@pytest.mark.parametrize("norm", [Linf, L2, L1])
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


@pytest.mark.parametrize("norm", [Linf, L2, L1])
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


@pytest.mark.parametrize("norm", [Linf, L2, L1])
def test_draws_inside_a_step_are_uniform_in_the_ball(norm):
    draw = norm.draw(tf.zeros((4000, 1, 1, 2)), tf.constant((3, 4), tf.int64)).numpy()
    size = norm.norm(draw).numpy().ravel()
    assert (
        size.max() <= 1 + 1e-6 and abs((size < 0.5).mean() - 0.25) < 0.03 and np.abs(draw.mean((0, 1, 2))).max() < 0.03
    )
