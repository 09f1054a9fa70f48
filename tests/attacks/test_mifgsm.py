import numpy as np
import pytest

from tests.attacks.test_bim import gradient
from tfadv.attacks import BIM, MIFGSM


@pytest.mark.parametrize("decay", [0.5, 1.0])
@pytest.mark.parametrize("targeted", [False, True])
def test_is_algorithm_1(small, decay, targeted):
    model, x, y = small
    at, momentum = x, 0
    for _ in range(6):
        grad = (-1 if targeted else 1) * gradient(model, at, y)
        momentum = decay * momentum + grad / np.abs(grad).sum((1, 2, 3), keepdims=True)
        at = np.clip(np.clip(at + 0.1 / 6 * np.sign(momentum), x - 0.1, x + 0.1), 0, 1)
    adversarial = MIFGSM(steps=6, decay=decay, targeted=targeted, early_stop=False)(model, x, y, 0.1)
    assert (np.abs(adversarial - at) > 1e-5).mean() < 2e-3


def test_momentum_changes_the_result_and_without_it_it_is_bim(small):
    model, x, y = small
    settings = dict(steps=8, step_size=0.02, early_stop=False)
    plain = BIM(**settings)(model, x, y, 0.1)
    np.testing.assert_array_equal(MIFGSM(decay=0, **settings)(model, x, y, 0.1), plain)
    assert (np.abs(MIFGSM(decay=1.0, **settings)(model, x, y, 0.1) - plain) > 1e-3).mean() > 0.01
