import numpy as np

from tests.attacks.test_bim import gradient
from tfadv.attacks import FGSM, OneStep


def check_equation_2(model, x, classes, adversarial):
    expected = np.clip(x - 0.05 * np.sign(gradient(model, x, classes)), 0, 1)
    assert (np.abs(adversarial - expected) > 1e-6).mean() < 1e-3


def test_is_equation_2_for_the_least_likely_class(small):
    model, x, y = small
    least_likely = np.where(np.eye(5, dtype=bool)[y], np.inf, model(x).numpy()).argmin(1)
    check_equation_2(model, x, least_likely, OneStep(target="least-likely")(model, x, y, 0.05))


def test_targeted_fgsm_is_equation_2_for_given_classes(small):
    model, x, y = small
    check_equation_2(model, x, (y + 2) % 5, FGSM(targeted=True)(model, x, (y + 2) % 5, 0.05))


def test_random_targets_follow_the_seed(small):
    model, x, y = small
    a, again, b = (OneStep(target="random")(model, x, y, 0.05, seed=s).numpy() for s in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert (a != b).any()
