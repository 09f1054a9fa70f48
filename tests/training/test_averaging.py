import keras
import numpy as np
import pytest

from tfadv.training.averaging import UPDATE_EVERY, AveragedWeights


def test_the_average_of_a_known_sequence():
    variable = keras.Variable(np.zeros(3, "float32"))
    average = AveragedWeights([variable])
    expected = np.zeros(3)
    for step in range(1, 5 * UPDATE_EVERY + 1):
        variable.assign(np.full(3, step, "float32"))
        if step % UPDATE_EVERY == 0:
            average.update(step, UPDATE_EVERY, 0.7)
            decay = min(0.7, (1 + step) / (10 + step)) ** UPDATE_EVERY
            expected = decay * expected + (1 - decay) * step
    np.testing.assert_allclose(average.numpy()[0], expected, rtol=1e-6)
    average.swap()
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)
    average.swap()
    assert variable.numpy()[0] == 5 * UPDATE_EVERY
    average.reset()
    assert average.numpy()[0][0] == pytest.approx(5 * UPDATE_EVERY)


def test_seeds_of_random_layers_are_left_alone():
    variables = [keras.Variable(np.ones(2, "uint32"), dtype="uint32"), keras.Variable(np.ones(2, "float32"))]
    assert len(AveragedWeights(variables).numpy()) == 1
