import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.attacks.conftest import is_right, perceptron
from tests.attacks.test_loop import continued
from tfadv import evaluate
from tfadv.attacks import APGD, Cost, Fast, Square, fast, loop

FEW = {"steps": 8, "queries": 40}


def everything(monkeypatch):
    """Gives no image up."""
    monkeypatch.setattr(fast, "NEAR", np.inf)


@pytest.fixture(scope="module")
def ten():
    """(model, x (40, 6, 6, 2), y) with ten classes, all right."""
    model, x = perceptron(10), np.random.default_rng(0).uniform(size=(40, 6, 6, 2)).astype("float32")
    return model, x, np.argmax(model(x), axis=1)


@pytest.mark.parametrize(
    "norm, classes",
    [("linf", 10), ("l2", 2), *(pytest.param(*p, marks=pytest.mark.long) for p in (("linf", 2), ("l2", 10)))],
)
def test_decides_as_the_closed_form_on_linear_models(norm, classes):
    """A class overtakes at the eps at which its margin is eps times the dual norm of the difference of the weights."""
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)])
    rng = np.random.default_rng(0)
    w = rng.normal(size=(16, classes)).astype("float32")
    model.set_weights([w, -0.5 * w.sum(axis=0)])
    x = rng.uniform(0.45, 0.55, (60, 4, 4, 1)).astype("float32")
    logits = model(x).numpy()
    y, rows = logits.argmax(axis=1), np.arange(60)
    rise = np.linalg.norm(w.T[None] - w.T[y][:, None], 1 if norm == "linf" else 2, axis=2)
    least = (logits[rows, y][:, None] - logits) / np.where(rise > 0, rise, np.nan)
    least = np.nanmin(least, axis=1)
    eps = float(np.median(least))
    assert eps < 0.4  # no pixel is clipped
    found = is_right(model, Fast(norm=norm, steps=20, queries=10)(model, x, y, eps), y)
    clear = np.abs(least / eps - 1) > 0.02
    np.testing.assert_array_equal(found[clear], least[clear] > eps)
    assert clear.sum() > 50


def test_is_at_least_as_strong_as_its_first_part_and_stays_within_eps(ten):
    model, x, y = ten
    whole = Fast(**FEW)(model, x, y, [0.02, 0.01]).numpy()
    first = APGD(steps=8)(model, x, y, [0.02, 0.01]).numpy()
    for eps, found, part in zip((0.02, 0.01), whole, first):
        assert not (is_right(model, found, y) & ~is_right(model, part, y)).any()
        assert np.abs(found - x).max() <= eps + 1e-6 and found.min() >= 0 and found.max() <= 1


def test_with_nothing_given_up_it_is_apgd_on_all_targets(ten, monkeypatch):
    model, x, y = ten
    everything(monkeypatch)
    cost = Cost()
    found = is_right(model, Fast(**FEW)(model, x, y, 0.01, cost=cost), y)
    parts = [APGD(steps=8)(model, x, y, 0.01), APGD(steps=8, loss="dlr-t")(model, x, y, 0.01)]
    expected = np.logical_and.reduce([is_right(model, part, y) for part in parts])
    assert abs(int(found.sum()) - int(expected.sum())) <= 1  # a target's random start is another one
    assert 5 < found.sum() < 35 and cost.remaining["given up"] == [0]


def test_counts_its_passes_and_what_it_gives_up(ten):
    """At a tiny eps all 40 images stay: 8 steps and one more pass for each of 1 + 3 targets, and the sample."""
    model, x, y = ten
    cost = Cost()
    Fast(**FEW)(model, x, y, 1e-6, cost=cost)
    sampled, given_up = cost.remaining["sample"][0], cost.remaining["given up"][0]
    assert 0 < sampled < 20 and 5 < given_up < 35
    near = 40 - given_up
    assert cost.gradients == 8 * (40 * 4 + near * 6) + sampled  # whether these have a gradient
    assert cost.forwards == 40 + 40 * 4 + near * 6 + sampled * 40
    assert list(cost.remaining) == ["apgd-ce", "apgd-t", "other targets", "sample", "given up", "square"]
    assert cost.remaining["square"] == [40]


def test_what_is_given_up_does_not_depend_on_the_batch(ten):
    model, x, y = ten
    one, other = Cost(), Cost()
    a, b = (Fast(**FEW)(model, x, y, 0.01, batch_size=n, cost=c) for n, c in ((7, one), (40, other)))
    np.testing.assert_array_equal(is_right(model, a, y), is_right(model, b, y))
    assert one.remaining == other.remaining and 0 < one.remaining["given up"][0] < one.remaining["square"][0]


@pytest.fixture
def step_function():
    """(model, x, y): the image is rounded to levels, so that its gradient is 0 everywhere."""
    inner = perceptron(5)
    image = keras.Input((6, 6, 2))
    model = keras.Model(image, inner(keras.layers.Lambda(lambda z: tf.round(z * 20) / 20)(image)))
    x = np.random.default_rng(0).uniform(size=(60, 6, 6, 2)).astype("float32")
    return model, x, np.argmax(model(x), axis=1)


@pytest.fixture
def wave():
    """(model, x, y): a ripple on the image turns the gradient over within a tiny distance."""
    inner = perceptron(5)
    image = keras.Input((6, 6, 2))
    model = keras.Model(image, inner(keras.layers.Lambda(lambda z: z + 0.05 * tf.sin(400 * z))(image)))
    x = np.random.default_rng(0).uniform(size=(60, 6, 6, 2)).astype("float32")
    return model, x, np.argmax(model(x), axis=1)


def test_square_attack_that_fools_one_of_the_sample_runs_on_all(wave):
    result = evaluate(*wave, Fast(steps=2, queries=200), 0.08)
    left = {name: counts[0] for name, counts in result.cost.remaining.items()}
    assert left["square"] < left["other targets"] - left["sample"] < left["other targets"]


def test_without_a_gradient_square_attack_runs_on_all(step_function):
    model, x, y = step_function
    result = evaluate(model, x, y, Fast(steps=5, queries=200), 0.08)
    left = {name: counts[0] for name, counts in result.cost.remaining.items()}
    assert left["square"] < left["other targets"] == left["sample"]  # none of which has a gradient
    assert left["given up"] == 0 and result.robust.sum() == left["square"]
    assert "fooled some" in result.summary() and "these are masked. Run AutoAttack." in result.upper_bound()


@pytest.mark.parametrize("masked", ["wave", "step_function"])
def test_with_masked_gradients_it_leaves_no_more_than_square_attack_with_all_queries(masked, request):
    model, x, y = request.getfixturevalue(masked)
    found = evaluate(model, x, y, Fast(steps=2, queries=40), 0.08).robust
    few, all_queries = (evaluate(model, x, y, Square(steps=steps), 0.08).robust for steps in (40, 200))
    assert not (found & ~all_queries).any() and (all_queries < few).any()


def test_of_few_images_square_attack_gets_all(ten):
    """A tenth of five images may be none, which would say nothing."""
    model, x, y = ten
    for seed in range(4):
        remaining = evaluate(model, x[:5], y[:5], Fast(steps=5, queries=5), 1e-6, seed=seed).cost.remaining
        assert remaining["sample"][0] > 0


def test_the_summary_says_what_was_left_out(ten):
    result = evaluate(*ten, Fast(**FEW), [0.005, 0.01])
    line = result.summary().splitlines()[3]
    assert line.startswith("upper bound; AutoAttack not run.") and line.endswith("and fooled none.")
    assert "Of {} / {} robust".format(*result.robust.sum(axis=1)) in line
    assert "AutoAttack not run" not in evaluate(*ten, "pgd(steps=2)", 0.01).summary()


def test_resumed_is_unbroken(ten, monkeypatch):
    model, x, y = ten
    monkeypatch.setattr(loop, "SECONDS_PER_CHUNK", 1e9)

    def call(log):
        cost = Cost()
        return Fast(steps=3, queries=4)(model, x, y, [0.02, 0.01], batch_size=25, cost=cost, resume=log), cost

    expected, expected_cost = call(None)
    (resumed, cost), log, _ = continued(call, 7)
    np.testing.assert_array_equal(resumed, expected)
    assert cost == expected_cost and log.served > 0
