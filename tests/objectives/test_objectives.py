"""Losses against hand-computed values, attacks inside their bounds, and what the settings mean."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfadv import models
from tfadv.errors import UserError
from tfadv.objectives import OBJECTIVES
from tfadv.objectives.base import as_objective
from tfadv.objectives.cross_entropy import cross_entropy, smoothed_cross_entropy
from tfadv.objectives.ensemble import Ensemble
from tfadv.objectives.free import FreeTraining
from tfadv.objectives.hat import HAT
from tfadv.objectives.mart import MART, mart_loss
from tfadv.objectives.nfgsm import NFGSM
from tfadv.objectives.pgd import PGDTraining
from tfadv.objectives.rsfgsm import RSFGSM
from tfadv.objectives.trades import TRADES, kl_divergence

SEED = tf.constant((0, 1), tf.int64)
ATTACKING = [NFGSM(), RSFGSM(), PGDTraining(), TRADES(), MART(), HAT(), FreeTraining()]


def name(objective):
    return type(objective).__name__


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


def test_every_objective_of_the_table_trains(network, batch):
    for key in OBJECTIVES:
        objective = as_objective(OBJECTIVES[key]() if isinstance(OBJECTIVES[key], type) else OBJECTIVES[key])
        objective = objective.with_helper(network)
        adversarial = objective.perturb(network, *batch, tf.constant(0.03), SEED)
        losses, logits = objective.loss(network, *batch, adversarial)
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


def test_hat_loss_by_hand(network, batch):
    x, y = batch

    def helper(images, training):
        return tf.one_hot(tf.cast(tf.reduce_mean(images, (1, 2, 3)) > 0.5, tf.int32), 4)

    adversarial = tf.clip_by_value(x + 0.1, 0, 1)
    objective = HAT(beta=3.0, gamma=0.7, reach=2.0).with_helper(helper)
    losses, logits = objective.loss(lambda images, training: network(images, training=False), x, y, adversarial)
    clean, attacked, beyond = (network(i).numpy() for i in (x, adversarial, x + 2 * (adversarial - x)))
    p, q, r = softmax(clean), softmax(attacked), softmax(beyond)
    predicted = (adversarial.numpy().mean((1, 2, 3)) > 0.5).astype(int)
    rows = np.arange(12)
    expected = -np.log(p[rows, y]) + 3 * (p * np.log(p / q)).sum(1) - 0.7 * np.log(r[rows, predicted])
    np.testing.assert_allclose(losses, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(logits, clean, atol=1e-5)


def test_free_training_moves_by_eps_and_stays_within_it():
    x = tf.constant(np.random.default_rng(0).uniform(0.3, 0.7, (4, 2, 2, 1)).astype("float32"))
    gradient = tf.constant(np.random.default_rng(1).normal(size=(2, 2, 2, 1)).astype("float32"))
    objective = FreeTraining(share=0.5)
    moved = objective.next_adversarial(x, x[:2], gradient, tf.constant(0.1))
    np.testing.assert_allclose(moved, x[:2] + 0.1 * np.sign(gradient), atol=1e-6)
    again = objective.next_adversarial(x, moved, gradient, tf.constant(0.1))
    np.testing.assert_allclose(again, moved, atol=1e-6)
    each = objective.next_adversarial(x, x[:2], gradient, tf.reshape(tf.constant([0.1, 0.0, 0.1, 0.1]), (4, 1, 1, 1)))
    np.testing.assert_allclose(each[1], x[1], atol=1e-6)


@pytest.mark.parametrize("objective", ATTACKING, ids=name)
def test_each_image_may_have_its_own_eps(network, batch, objective):
    x, y = batch
    eps = tf.reshape(tf.constant([0.0, 0.05] * 6), (12, 1, 1, 1))
    moved = np.abs(objective.perturb(network, x, y, eps, SEED).numpy() - x).max(axis=(1, 2, 3))
    assert (moved[::2] == 0).all() and (moved[1::2] > 0.02).all()


@pytest.mark.parametrize(
    "objective, cost",
    [
        (NFGSM(), 2), (NFGSM(share=0.5), 1.5), (PGDTraining(steps=7, share=0.5), 4.5), (PGDTraining(awp=0.01), 9),
        (TRADES(), 12), (TRADES(beta=0), 1), (TRADES(awp=0.01), 14), (MART(steps=3), 5), (FreeTraining(replays=8), 8),
        (HAT(steps=2), 5),
    ],
)  # fmt: skip
def test_costs_count_forward_and_backward_passes(objective, cost, network):
    assert objective.cost == cost


def test_trades_without_beta_is_standard_training(network, batch):
    objective = TRADES(beta=0.0)
    assert objective.perturb(network, *batch, tf.constant(0.1), SEED) is None
    for ours, plain in zip(objective.loss(network, *batch, None), cross_entropy(network, *batch)):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize("objective", [o for o in ATTACKING if not isinstance(o, TRADES)], ids=name)
def test_eps_0_leaves_the_images_to_the_bit(network, batch, objective):
    x, y = batch
    np.testing.assert_array_equal(objective.perturb(network, x, y, tf.constant(0.0), SEED), x)


@pytest.mark.parametrize("objective", ATTACKING, ids=name)
def test_perturbations_stay_within_their_bounds_and_raise_the_loss(network, batch, objective):
    (x, y), eps = batch, 0.05
    adversarial = objective.perturb(network, x, y, tf.constant(eps), SEED).numpy()
    most = 3 * eps if isinstance(objective, NFGSM) else eps  # N-FGSM does not project
    assert np.abs(adversarial - x).max() <= most + 1e-6
    assert 0 <= adversarial.min() and adversarial.max() <= 1
    if isinstance(objective, NFGSM):
        assert np.abs(adversarial - x).max() > 2 * eps
    clean, attacked = (
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=network(images)).numpy()
        for images in (x, adversarial)
    )
    assert attacked.mean() > clean.mean()


@pytest.mark.parametrize("objective", ATTACKING, ids=name)
def test_attacking_leaves_the_variables_alone(network, batch, objective):
    before = network.get_weights()
    objective.perturb(network, *batch, tf.constant(0.05), SEED)
    for a, b in zip(before, network.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_other_seeds_give_other_images(network, batch):
    first, same, other = (
        NFGSM().perturb(network, *batch, tf.constant(0.05), tf.constant(seed, tf.int64)).numpy()
        for seed in ((0, 1), (0, 1), (0, 2))
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).mean() > 0.5


def test_share_attacks_the_first_images_and_one_call_sees_all(network, batch):
    x, y = batch
    objective = NFGSM(share=0.25)
    adversarial = objective.perturb(network, x, y, tf.constant(0.05), SEED)
    assert adversarial.shape[0] == 3
    calls = []

    def model(images, training):
        calls.append(images.numpy())
        return network(images, training=False)

    objective.loss(model, x, y, adversarial)
    assert len(calls) == 1
    np.testing.assert_array_equal(calls[0], np.concatenate([adversarial, x[3:]]))


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.5}])
def test_wrong_shares_are_refused(settings):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        NFGSM(**settings)


def test_robust_means_correct_clean_and_under_attack(network, batch):
    x, y = batch
    wrong = tf.where(tf.range(12) < 4, (y + 1) % 4, y)
    robust = NFGSM().robust(network, x, wrong, tf.constant(0.0)).numpy()
    assert not robust[:4].any() and robust[4:].all()
    assert NFGSM().robust(network, x, y, tf.constant(0.5)).numpy().sum() < 12


def test_ensemble_replaces_clean_images_by_own_adversarial_ones(network, batch):
    x, y = batch
    objective = Ensemble(share=1 / 3)  # 4 of 12, at positions 0, 2, 4 and 6
    adversarial = objective.perturb(network, x, y, tf.constant(0.03), SEED)
    assert adversarial.shape[0] == 4
    clean = tf.gather(x, [0, 2, 4, 6])
    loss = [cross_entropy(lambda i, training: network(i, training=False), i, y[:8:2])[0] for i in (clean, adversarial)]
    assert (loss[1] > loss[0]).numpy().all()
    distance = np.abs(adversarial - clean)
    assert distance.max() <= 0.03 + 1e-6 and (distance > 0.029).mean() > 0.3  # the two steps agree for half the pixels
    images = x.numpy()
    images[[0, 2, 4, 6]] = adversarial
    losses, logits = objective.loss(lambda i, training: network(i, training=False), x, y, adversarial)
    np.testing.assert_allclose(logits, network(images), atol=1e-5)
    np.testing.assert_allclose(losses, cross_entropy(lambda i, training: logits, x, y)[0], atol=1e-5)


def test_ensemble_needs_half_of_the_batch_to_be_clean(network, batch):
    with pytest.raises(ValueError, match="share must be at most 0.5"):
        Ensemble(share=0.6)
    with pytest.raises(UserError, match="an even number of images per device and step, got 11"):
        Ensemble().perturb(network, batch[0][:11], batch[1][:11], tf.constant(0.03), SEED)
