import numpy as np
import pytest

from tfadv.attacks.norms import L2, Linf

rng = np.random.default_rng(0)
X = rng.uniform(size=(5, 4, 4, 3)).astype("float32")
Z = X + rng.normal(0, 0.4, X.shape).astype("float32")


def test_linf_projects_to_the_nearest():
    np.testing.assert_allclose(Linf.project(Z, X, 0.1, 0.0, 1.0), np.clip(np.clip(Z, X - 0.1, X + 0.1), 0, 1))


def test_l2_projects_along_the_line():
    made = L2.project(Z, X, 0.5, -9.0, 9.0).numpy()
    d = (Z - X).reshape(5, -1)
    np.testing.assert_allclose((made - X).reshape(5, -1), 0.5 * d / np.linalg.norm(d, axis=1, keepdims=True), atol=1e-6)
    near = X + 1e-3 * (Z - X)
    np.testing.assert_allclose(L2.project(near, X, 0.5, -9.0, 9.0), near)
    np.testing.assert_array_equal(L2.project(X, X, 0.0, 0.0, 1.0), X)


@pytest.mark.parametrize("ball, dual", [(Linf, 1), (L2, 2)])
def test_ascent_is_the_steepest_of_size_one(ball, dual):
    g = rng.normal(size=(5, 4, 4, 3)).astype("float32") * 1e-25  # squares of which are 0 in float32
    way = ball.ascent(g).numpy()
    np.testing.assert_allclose(ball.size(way), 1, rtol=1e-6)
    gain = (way.astype("float64") * g).sum((1, 2, 3))
    np.testing.assert_allclose(gain, np.linalg.norm(g.reshape(5, -1).astype("float64"), dual, axis=1), rtol=1e-5)


@pytest.mark.parametrize("ball", [Linf, L2])
def test_ascent_of_what_is_not_finite(ball):
    g = np.ones((3, 2, 2, 1), "float32")
    g[0, 0, 0], g[1, 0, 0], g[2] = np.nan, np.inf, 0
    way = ball.ascent(g).numpy()
    assert np.isfinite(way).all() and way[0, 0, 0] == 0 and way[1, 0, 0] == 1 and (way[2] == 0).all()


@pytest.mark.parametrize("ball", [Linf, L2])
def test_noise_is_uniform_in_the_ball(ball):
    noise = ball.noise((4000, 1, 1, 2), (7, 0)).numpy()
    size = ball.size(noise).numpy().ravel()
    assert size.max() <= 1
    # In two dimensions a ball of half the radius holds a quarter.
    assert abs((size < 0.5).mean() - 0.25) < 0.03 and np.abs(noise.mean((0, 1, 2))).max() < 0.03
    few, others = (ball.noise((10, 1, 1, 2), seed).numpy() for seed in ((7, 0), (8, 0)))
    np.testing.assert_allclose(noise[:10], few, rtol=1e-6)  # with more restarts the first ones stay
    assert (few != others).all()
