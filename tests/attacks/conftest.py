"""A small network that is not trivial, for all attacks."""

import keras
import numpy as np
import pytest

from tfadv import models


@pytest.fixture(scope="module")
def tiny():
    """A small ResNet with trained-like statistics, so that BatchNorm does something."""
    keras.utils.set_random_seed(1)
    model = models.build("resnet_tiny", (16, 16, 3), 4)
    rng = np.random.default_rng(1)
    for v in model.weights:
        if "gamma" in v.path or "moving_variance" in v.path:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif "moving_mean" in v.path or "beta" in v.path:
            v.assign(rng.normal(0, 0.3, v.shape))
    return model
