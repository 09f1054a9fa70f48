"""Losses against hand-computed values, attacks inside their bounds, and what the settings mean."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import models, specs
from tfadv.defenses import DEFENSES
from tfadv.defenses.base import Defense
from tfadv.defenses.losses import kl_divergence, smoothed_cross_entropy
from tfadv.defenses.mart import MART, mart_loss
from tfadv.defenses.nfgsm import NFGSM
from tfadv.defenses.online import robust
from tfadv.defenses.pgd import PGD
from tfadv.defenses.rsfgsm import RSFGSM
from tfadv.defenses.trades import TRADES

SEED = tf.constant((0, 1), tf.int64)
ATTACKING = [NFGSM(), RSFGSM(), PGD(steps=3), TRADES(steps=3), MART(steps=3)]


def name(defense):
    return type(defense).__name__


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(3)
    return models.build("resnet_tiny", (16, 16, 3), 4)


@pytest.fixture(scope="module")
def batch(network):
    x = np.random.default_rng(0).uniform(size=(12, 16, 16, 3)).astype("float32")
    return tf.constant(x), tf.constant(np.argmax(network(x), axis=1))


@pytest.fixture(autouse=True)
def unchanged(network):
    """Undoes what training mode does to BatchNorm's statistics."""
    weights = network.get_weights()
    yield
    network.set_weights(weights)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_every_defense_of_the_table_trains(network, batch):
    for key in DEFENSES:
        defense = DEFENSES[key]()
        assert defense.name == defense.label == key and defense.summary
        if hasattr(defense, "steps"):
            defense = dataclasses.replace(defense, steps=2)
        adversarial = defense.perturb(network, *batch, tf.constant(0.03), SEED)
        assert (adversarial is not None) == defense.attacks
        losses, logits = defense.loss(network, *batch, adversarial)
        assert losses.shape == (12,) and logits.shape == (12, 4) and np.isfinite(losses).all()


def test_kl_divergence_by_hand():
    p, q = np.array([[1.0, 2.0, 0.5], [0, 0, 0]]), np.array([[0.3, -1.0, 2.0], [0, 0, 0]])
    a, b = softmax(p), softmax(q)
    np.testing.assert_allclose(kl_divergence(tf.constant(p), tf.constant(q)), (a * np.log(a / b)).sum(1), rtol=1e-6)


def test_kl_divergence_is_finite_for_confident_outputs():
    huge = tf.constant([[1000.0, 0.0], [0.0, 1000.0]])
    values = kl_divergence(huge, huge[::-1]).numpy()
    assert np.isfinite(values).all() and (values > 100).all()


def test_mart_loss_by_hand():
    clean, attacked, y = np.array([[2.0, 0.5, -1.0]]), np.array([[0.2, 1.3, -0.4]]), 0
    p, q = softmax(clean)[0], softmax(attacked)[0]
    boosted = -np.log(q[y]) - np.log(1 - max(q[1], q[2]))
    expected = boosted + 5 * (p * np.log(p / q)).sum() * (1 - p[y])
    value = mart_loss(tf.constant(clean, tf.float32), tf.constant(attacked, tf.float32), tf.constant([y]), 5.0)
    np.testing.assert_allclose(value, [expected], rtol=1e-5)


@pytest.mark.parametrize("loss", ["trades", "mart"])
def test_gradients_equal_finite_differences(loss):
    rng = np.random.default_rng(1)
    clean, attacked, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), tf.constant([0, 2, 3])

    def value(c, a):
        if loss == "mart":
            return tf.reduce_sum(mart_loss(c, a, y, 5.0))
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=c)
        return tf.reduce_sum(cross_entropy + 6.0 * kl_divergence(c, a))

    c, a = tf.Variable(clean, dtype=tf.float64), tf.Variable(attacked, dtype=tf.float64)
    with tf.GradientTape() as tape:
        total = value(c, a)
    for analytic, variable in zip(tape.gradient(total, (c, a)), (c, a)):
        for i, j in np.ndindex(3, 4):
            step = np.zeros((3, 4))
            step[i, j] = 1e-6
            moved = [(value(*(v + s * step if v is variable else v for v in (c, a)))) for s in (1, -1)]
            np.testing.assert_allclose(analytic[i, j], (moved[0] - moved[1]) / 2e-6, rtol=1e-4, atol=1e-6)


def test_label_smoothing_by_hand():
    z, y = np.array([[2.0, 0.5, -1.0], [0, 1, 0]]), np.array([0, 2])
    targets = 0.8 * np.eye(3)[y] + 0.2 / 3
    expected = -(targets * np.log(softmax(z))).sum(1)
    np.testing.assert_allclose(smoothed_cross_entropy(tf.constant(z), tf.constant(y), 0.2), expected, rtol=1e-6)


@pytest.mark.parametrize("defense", ATTACKING, ids=name)
def test_each_image_may_have_its_own_eps(network, batch, defense):
    x, y = batch
    eps = tf.reshape(tf.constant([0.0, 0.05] * 6), (12, 1, 1, 1))
    moved = np.abs(defense.perturb(network, x, y, eps, SEED).numpy() - x).max(axis=(1, 2, 3))
    assert (moved[::2] == 0).all() and (moved[1::2] > 0.02).all()


@pytest.mark.parametrize(
    "defense, cost",
    [
        (NFGSM(), 2), (NFGSM(share=0.5), 1.5), (PGD(steps=7, share=0.5), 4.5), (PGD(awp=0.01), 9),
        (TRADES(), 12), (TRADES(beta=0), 1), (TRADES(awp=0.01), 14), (MART(steps=3), 5),
    ],
)  # fmt: skip
def test_costs_count_forward_and_backward_passes(defense, cost, network):
    assert defense.cost == cost


def test_trades_without_beta_is_standard_training(network, batch):
    defense = TRADES(beta=0.0)
    assert defense.perturb(network, *batch, tf.constant(0.1), SEED) is None
    for ours, plain in zip(defense.loss(network, *batch, None), Defense().loss(network, *batch, None), strict=True):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize("defense", [d for d in ATTACKING if not isinstance(d, TRADES)], ids=name)
def test_eps_0_leaves_the_images_to_the_bit(network, batch, defense):
    x, y = batch
    np.testing.assert_array_equal(defense.perturb(network, x, y, tf.constant(0.0), SEED), x)


@pytest.mark.parametrize("defense", ATTACKING, ids=name)
def test_perturbations_stay_within_their_bounds_and_raise_the_loss(network, batch, defense):
    (x, y), eps = batch, 0.05
    adversarial = defense.perturb(network, x, y, tf.constant(eps), SEED).numpy()
    most = 3 * eps if isinstance(defense, NFGSM) else eps  # N-FGSM does not project
    assert np.abs(adversarial - x).max() <= most + 1e-6
    assert 0 <= adversarial.min() and adversarial.max() <= 1
    if isinstance(defense, NFGSM):
        assert np.abs(adversarial - x).max() > 2 * eps
    clean, attacked = (
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=network(images)).numpy()
        for images in (x, adversarial)
    )
    assert attacked.mean() > clean.mean()


@pytest.mark.parametrize("defense", ATTACKING, ids=name)
def test_attacking_leaves_the_variables_alone(network, batch, defense):
    before = network.get_weights()
    defense.perturb(network, *batch, tf.constant(0.05), SEED)
    for a, b in zip(before, network.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_other_seeds_give_other_images(network, batch):
    first, same, other = (
        NFGSM().perturb(network, *batch, tf.constant(0.05), tf.constant(seed, tf.int64)).numpy()
        for seed in ((0, 1), (0, 1), (0, 2))
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).mean() > 0.5


def test_share_attacks_images_in_random_places_and_one_call_sees_all(network, batch):
    x, y = batch
    defense, seeds = NFGSM(share=0.25), [tf.constant((0, -1 - step), tf.int64) for step in range(40)]
    of_step = tf.function(lambda x, y, seed: defense.perturb(network, x, y, tf.constant(0.05), seed))
    unknown = of_step.get_concrete_function(
        tf.TensorSpec((None, *x.shape[1:])), tf.TensorSpec((None,), tf.int64), tf.TensorSpec((2,), tf.int64)
    )
    batches = [of_step(x, y, seed).numpy() for seed in seeds]
    moved = np.array([(images != x.numpy()).any(axis=(1, 2, 3)) for images in batches])
    assert (moved.sum(axis=1) == 3).all() and (moved.sum(axis=0) > 0).all()
    np.testing.assert_array_equal(unknown(tf.constant(x), tf.constant(y), seeds[0]), batches[0])
    calls = []

    def model(images, training):
        calls.append(images)
        return network(images, training=False)

    defense.loss(model, x, y, batches[0])
    assert len(calls) == 1
    np.testing.assert_array_equal(calls[0], batches[0])


def test_images_of_a_share_keep_their_labels_and_sizes(network, batch):
    x, y = batch
    sizes = tf.reshape(tf.linspace(0.01, 0.05, len(x)), (-1, 1, 1, 1))
    signs = NFGSM(noise=0).perturb(network, x, y, sizes, SEED)
    part = NFGSM(noise=0, share=0.5).perturb(network, x, y, sizes, SEED)
    moved = (part != x).numpy().any(axis=(1, 2, 3))
    assert moved.sum() == round(len(x) / 2)
    np.testing.assert_allclose(part[moved], signs[moved], atol=1e-6)


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.5}])
def test_wrong_shares_are_refused(settings):
    with pytest.raises(ValueError, match="share must be a finite number above 0 and at most 1"):
        NFGSM(**settings)


def test_robust_means_correct_clean_and_under_attack(network, batch):
    x, y = batch
    wrong = tf.where(tf.range(12) < 4, (y + 1) % 4, y)
    found = robust(network, x, wrong, tf.constant(0.0)).numpy()
    assert not found[:4].any() and found[4:].all()
    assert robust(network, x, y, tf.constant(0.5)).numpy().sum() < 12


def test_defenses_that_differ_in_their_training_alone_share_a_compiled_step():
    trained = NFGSM(share=0.5, epochs=3, learning_rate=0.1, optimizer="sgd", weight_decay=0.0, average=0.99)
    assert trained.step_only() == NFGSM(share=0.5).step_only() != NFGSM().step_only()
    assert DEFENSES["baseline"]().step_only() == DEFENSES["rounds"](number=4).step_only() == Defense()


@pytest.mark.parametrize("kind", [NFGSM, RSFGSM])
def test_the_fallback_of_one_step_is_two_steps_with_the_same_settings(kind):
    assert kind(eps=0.1, share=0.5, smoothing=0.2).fallback() == PGD(eps=0.1, share=0.5, smoothing=0.2, steps=2)
    assert PGD().fallback() is TRADES().fallback() is None


@pytest.mark.parametrize("defense", ATTACKING, ids=name)
def test_perturbations_in_l2(network, batch, defense):
    """As large as in L-infinity, but for N-FGSM, which adds noise of 2 eps; no image is left as it is."""
    x, y = batch
    defense = dataclasses.replace(defense, norm="l2")
    moved = (defense.perturb(network, x, y, tf.constant(0.5), SEED) - x).numpy()
    size = np.sqrt((moved**2).sum(axis=(1, 2, 3)))
    most = 1.5 if isinstance(defense, NFGSM) else 0.5
    assert (size <= most + 1e-5).all() and (size > 0.3 * most).all()
    assert np.abs(moved).max() < 0.5 * most  # no pixel takes all of it


def test_a_step_in_l2_follows_the_gradient():
    """On a linear model, from the image itself: eps times the gradient over its norm."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    x, y = tf.fill((3, 4, 4, 1), 0.5), tf.constant([0, 1, 0])
    moved = (NFGSM(noise=0, norm="l2").perturb(model, x, y, tf.constant(0.1), SEED) - x).numpy().reshape(3, 16)
    kernel = model.layers[-1].get_weights()[0]
    toward = (kernel[:, 1] - kernel[:, 0]) / np.linalg.norm(kernel[:, 1] - kernel[:, 0])
    np.testing.assert_allclose(moved, 0.1 * np.array([toward, -toward, toward]), atol=1e-6)


def test_sizes_above_the_range_of_pixels_need_l2():
    assert PGD(norm="l2", eps=2).eps == 2
    with pytest.raises(ValueError, match="at most 1 with norm=linf"):
        PGD(eps=2)


SEVERAL = {"norm": "linf+l2+l1", "eps": (0.05, 0.5, 4.0)}


def sizes_in(norm, moved):
    d = np.asarray(moved, "float64").reshape(len(moved), -1)
    return np.linalg.norm(d, {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


@pytest.mark.parametrize("defense", ATTACKING[2:], ids=name)
def test_perturbations_in_l1(network, batch, defense):
    x, y = batch
    moved = (dataclasses.replace(defense, norm="l1").perturb(network, x, y, tf.constant(4.0), SEED) - x).numpy()
    size = sizes_in("l1", moved)
    assert (size <= 4 * (1 + 1e-5)).all() and (size > 2).all()
    assert (sizes_in("linf", moved) > 4 * 4 / 768).all()  # far from the same change of all pixels


@pytest.mark.parametrize("defense", ATTACKING[2:], ids=name)
def test_with_several_norms_each_image_has_one_of_them(network, batch, defense):
    """What the others of the batch draw does not matter: an image moves as it does in its norm alone."""
    x, y = batch
    several = dataclasses.replace(defense, **SEVERAL)

    def moved(defense, eps, seed=SEED):
        return (defense.perturb(network, x, y, tf.constant(eps), seed) - x).numpy()

    alone = [moved(dataclasses.replace(defense, norm=n), eps / 2) for n, eps in zip(several.norms, several.sizes)]

    def drawn(images):
        return np.array([np.abs(images - each).max(axis=(1, 2, 3)) < 1e-5 for each in alone])

    together = moved(several, 0.025)  # half of all sizes
    same = drawn(together)
    assert (same.sum(axis=0) == 1).all() and (same.sum(axis=1) > 0).all()
    for norm, eps, own in zip(several.norms, several.sizes, same):
        assert (sizes_in(norm, together[own]) <= eps / 2 * (1 + 1e-5)).all()
    np.testing.assert_array_equal(together, moved(several, 0.025))


def test_all_norms_are_drawn_equally_often_and_anew_in_each_step():
    defense = PGD(**SEVERAL)
    _, eps = defense.norm_and_sizes(tf.zeros((3000, 1, 1, 1)), tf.constant(0.05), SEED)
    _, other = defense.norm_and_sizes(tf.zeros((3000, 1, 1, 1)), tf.constant(0.05), tf.constant((0, 2), tf.int64))
    assert 0.6 < np.mean(eps != other) < 0.73
    found, counts = np.unique(np.round(eps, 5), return_counts=True)
    np.testing.assert_allclose(found, SEVERAL["eps"])
    assert (np.abs(counts - 1000) < 120).all()
    each = tf.reshape(tf.linspace(0.0, 0.05, 3000), (-1, 1, 1, 1))  # eps_schedule=uniform
    _, drawn = defense.norm_and_sizes(tf.zeros((3000, 1, 1, 1)), each, SEED)
    np.testing.assert_allclose(drawn, each * eps / 0.05, rtol=1e-6)


def test_robust_in_several_norms_means_in_each_of_them():
    """On a linear model of two classes, where the three norms leave different numbers of images."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    x = tf.constant(np.random.default_rng(0).uniform(0.4, 0.6, (200, 4, 4, 1)).astype("float32"))
    logits, kernel = model(x).numpy(), model.layers[-1].get_weights()[0]
    margin, w = np.abs(logits[:, 0] - logits[:, 1]), kernel[:, 1] - kernel[:, 0]
    sizes = tuple(
        np.median(margin) / np.linalg.norm(w, dual) * share for dual, share in ((1, 0.6), (2, 1), (np.inf, 0.8))
    )
    several, y = PGD(norm="linf+l2+l1", eps=sizes), tf.constant(logits.argmax(1))
    alone = [PGD(norm=n).robust(model, x, y, tf.constant(e, tf.float32)).numpy() for n, e in zip(several.norms, sizes)]
    found = several.robust(model, x, y, tf.constant(sizes[0], tf.float32)).numpy()
    np.testing.assert_array_equal(found, np.logical_and.reduce(alone))
    counts = [each.sum() for each in alone]
    assert len(set(counts)) == 3 and 80 < min(counts) <= max(counts) < 180, counts
    assert several.validation_cost == 3 * PGD().validation_cost


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        (NFGSM, {"norm": "l1"}, "norm=l1 needs several attack steps: take pgd"),
        (RSFGSM, {"norm": "linf+l2", "eps": (0.1, 1)}, "norm=linf.l2 needs several attack steps"),
        (PGD, {"norm": "linf+l1", "eps": 0.1}, "one size for each of norm=linf.l1, such as"),
        (PGD, {"norm": "l1", "eps": (1, 2)}, "one size for each"),
        (PGD, {"norm": "linf+l1", "eps": (0, 2)}, "each eps must be above 0"),
        (PGD, {"norm": "l1+linf", "eps": (0.1, 12)}, "at most 1 with norm=linf"),
        (PGD, {"norm": "l1+l1"}, "twice"),
        (PGD, {"eps": ()}, "eps must be"),
    ],
)
def test_wrong_norms_and_sizes_are_named(kind, settings, words):
    with pytest.raises(ValueError, match=words):
        kind(**settings)


def test_several_norms_need_sizes(network, batch):
    with pytest.raises(ValueError, match="pgd.norm=linf.l1. needs eps, one size for each norm"):
        PGD(norm="linf+l1").perturb(network, *batch, tf.constant(0.1), SEED)


def test_several_norms_and_sizes_as_text():
    text = "pgd(norm=linf+L1, eps=8/255+12, steps=2), trades(norm=l1, eps=12)"
    several, one = (specs.build_with(*each, DEFENSES) for each in specs.split_specs(text, DEFENSES))
    assert several == PGD(norm="linf+l1", eps=(8 / 255, 12), steps=2) and one == TRADES(norm="l1", eps=12)
    for defense in (several, one):
        assert [specs.build_with(*each, DEFENSES) for each in specs.split_specs(defense.label, DEFENSES)] == [defense]
    assert several.settings()["eps"] == [8 / 255, 12.0] and one.settings()["eps"] == 12.0
    assert several.label == f"pgd(eps={8 / 255}+12.0, norm=linf+l1, steps=2)"
    assert specs.folder_name(several.label) != specs.folder_name(several.label.replace("+12", "_12"))
