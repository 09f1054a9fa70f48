import numpy as np
import pytest
import tensorflow as tf

from tfadv.attacks import BIM, PGD


def gradient(model, x, y):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)))
    return tape.gradient(loss, x).numpy()


@pytest.mark.parametrize("targeted", [False, True])
def test_is_equation_3(small, targeted):
    model, x, y = small
    at, sign = x, -1 if targeted else 1
    for _ in range(4):
        at = np.clip(np.clip(at + sign * 0.01 * np.sign(gradient(model, at, y)), x - 0.03, x + 0.03), 0, 1)
    attack = BIM(steps=4, step_size=0.01, targeted=targeted, early_stop=False)
    np.testing.assert_allclose(attack(model, x, y, 0.03), at, atol=1e-6)


def test_is_pgd_from_the_image_and_uses_no_random_numbers(small):
    model, x, y = small
    pgd = PGD(random_start=False, early_stop=False)
    np.testing.assert_array_equal(BIM(early_stop=False)(model, x, y, 0.05, seed=1), pgd(model, x, y, 0.05))
