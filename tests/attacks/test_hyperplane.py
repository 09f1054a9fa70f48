import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog

from tfadv.attacks.hyperplane import project_onto_hyperplane

rng = np.random.default_rng(0)


def case(n, shape=(3, 3, 2), at_bounds=0.3):
    x = rng.uniform(size=(n, *shape))
    x[rng.uniform(size=x.shape) < at_bounds] = 0  # pixels without room on one side, as MNIST has
    w = rng.normal(size=x.shape) * rng.choice([0.01, 1], size=x.shape)
    w[rng.uniform(size=x.shape) < 0.1] = 0
    greatest = np.where(w > 0, w * (1 - x), -w * x).sum((1, 2, 3))
    least = np.where(w > 0, -w * x, w * (1 - x)).sum((1, 2, 3))
    return x.astype("float32"), w.astype("float32"), least, greatest


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("scale", [1, 1e-25])
def test_linf_is_the_optimum_of_a_linear_program(share, up, scale):
    x, w, least, greatest = case(6)
    c = share * (greatest if up else least)
    d = project_onto_hyperplane(
        x, scale * w, (scale * c).astype("float32")[:, None, None, None], 0.0, 1.0, "linf"
    ).numpy()
    assert (x + d).min() >= -1e-6 and (x + d).max() <= 1 + 1e-6
    np.testing.assert_allclose((w * d).sum((1, 2, 3)), c, rtol=1e-3)
    for i in range(6):  # variables d and t: least t with |d| <= t
        size, eye = x[i].size, np.eye(x[i].size)
        solution = linprog(
            np.r_[np.zeros(size), 1],
            A_ub=np.block([[eye, -np.ones((size, 1))], [-eye, -np.ones((size, 1))]]),
            b_ub=np.zeros(2 * size),
            A_eq=np.r_[w[i].ravel(), 0][None],
            b_eq=[c[i]],
            bounds=[(-v, 1 - v) for v in x[i].ravel().astype(float)] + [(0, None)],
        )
        assert np.abs(d[i]).max() == pytest.approx(solution.fun, rel=1e-3)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_l2_fulfils_the_optimality_conditions(share):
    """Pixels within their bounds have moved by the same multiple of w, the others by less than that."""
    x, w, _, greatest = case(6)
    d = project_onto_hyperplane(x, w, (share * greatest).astype("float32")[:, None, None, None], 0.0, 1.0, "l2").numpy()
    np.testing.assert_allclose((w * d).sum((1, 2, 3)), share * greatest, rtol=1e-3)
    for i in range(6):
        free = (x[i] + d[i] > 1e-6) & (x[i] + d[i] < 1 - 1e-6) & (w[i] != 0)
        multiples = d[i][free] / w[i][free]
        bound = ~free & (w[i] != 0)
        if free.any():
            np.testing.assert_allclose(multiples, multiples.max(), rtol=1e-3)
            assert (d[i][bound] / w[i][bound] <= multiples.max() * 1.001).all()


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    x=hnp.arrays("float32", (3, 2, 2, 2), elements=st.sampled_from([0, 0.2, 0.5, 0.9, 1])),
    w=hnp.arrays("float32", (3, 2, 2, 2), elements=st.sampled_from([-1, -0.5, -0.3, 0, 0.01, 0.3, 0.5, 1])),
    share=hnp.arrays("float32", (3,), elements=st.floats(-1.5, 1.5, width=32)),
    scale=st.sampled_from([1, 1e-25]),
)
def test_l1_is_the_optimum_of_a_linear_program(x, w, share, scale):
    """Also where weights are equal; with a share above 1 or below -1, as near to the hyperplane as possible."""
    room = np.stack([1.0 - x, 1.0 * x], 1).reshape(3, 16)  # by how much each pixel may rise, and fall
    gains = np.stack([w, -w], 1).reshape(3, 16) * np.sign(share)[:, None].astype(float)
    c = (share * (np.maximum(gains, 0) * room).sum(1)).astype("float32")
    inputs = x, np.float32(scale) * w, np.float32(scale) * c[:, None, None, None], 0.0, 1.0, "l1"
    d = project_onto_hyperplane(*inputs).numpy()
    assert (x + d).min() >= -1e-6 and (x + d).max() <= 1 + 1e-6
    reachable = np.minimum(np.abs(c), (np.maximum(gains, 0) * room).sum(1))
    np.testing.assert_allclose((w * d).sum((1, 2, 3)), np.sign(c) * reachable, rtol=1e-5, atol=1e-6)
    for i in range(3):
        optimum = linprog(
            np.ones(16), A_ub=-gains[i : i + 1], b_ub=1e-9 - reachable[i], bounds=[*zip(0 * room[i], room[i])]
        )
        assert np.abs(d[i]).sum() == pytest.approx(optimum.fun, rel=1e-4, abs=1e-4)


def test_l1_is_the_same_in_a_graph_and_in_any_batch():
    x, w, _, greatest = case(6)
    c = (0.5 * greatest).astype("float32")[:, None, None, None]
    d = tf.function(project_onto_hyperplane)(x, w, c, 0.0, 1.0, "l1")
    for i in range(6):
        one = slice(i, i + 1)
        np.testing.assert_allclose(d[one], project_onto_hyperplane(x[one], w[one], c[one], 0.0, 1.0, "l1"), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_hyperplane_out_of_reach_is_approached_as_far_as_possible(norm):
    x, w, _, greatest = case(6)
    d = project_onto_hyperplane(x, w, (2 * greatest).astype("float32")[:, None, None, None], 0.0, 1.0, norm).numpy()
    np.testing.assert_allclose((w * d).sum((1, 2, 3)), greatest, rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_without_a_gradient_nothing_moves(norm):
    x, w, *_ = case(2)
    np.testing.assert_array_equal(
        project_onto_hyperplane(x, 0 * w, np.ones((2, 1, 1, 1), "float32"), 0.0, 1.0, norm), 0 * x
    )
