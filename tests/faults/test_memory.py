"""Memory does not grow over repeated evaluations and epochs."""

import pytest

from tests import commands

HEAD = """
import tfadv, keras, numpy as np, os, tempfile
from tfadv import models
from tfadv.datasets.batches import Samples
from tfadv.attacks import FGSM, PGD
from tfadv.evaluation.evaluator import FixedImages, evaluate
from tfadv.defenses.base import Defense
from tfadv.training import Trainer, TrainingLog, TrainingSettings
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (256, 32, 32, 1), dtype=np.uint8)
labels = rng.integers(0, 10, 256)
samples = Samples(images, labels, rng.choice(np.array([-127, 127], np.int8), images.shape), (0.01, 0.03))
model = models.build("resnet_tiny", (32, 32, 1), 10)
"""

EVALUATIONS = """
for i in range(23):
    for attack in FGSM(), PGD(steps=2), FixedImages(np.full((2, 64, 32, 32, 1), 0.5, "float32")):
        evaluate(model, images[:64], labels[:64], attack, samples.epsilons, batch_size=64)
    if i == 2:
        before = resident()
print(resident() / before)
"""

EPOCHS = """
trainer = Trainer(model, weight_decay=5e-4, defense=Defense())
def fit(epochs):
    settings = TrainingSettings(epochs, 64, learning_rate=0.01, patience=99, augmentations=("shift", "noise"))
    trainer.fit(samples, samples.select(range(64)), settings, log=TrainingLog(tempfile.mkdtemp()))
fit(5)
before = resident()
fit(50)
print(resident() / before)
"""


def growth(code):
    done = commands.python(HEAD + code)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split()[-1])


@pytest.mark.long
def test_over_many_evaluations():
    assert growth(EVALUATIONS) < 1.05


@pytest.mark.long
def test_over_many_epochs():
    assert growth(EPOCHS) < 1.05


PEAK = """
import resource
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
many = rng.integers(0, 256, (40000, 64, 64, 1), dtype=np.uint8)  # 164 MB
kinds = np.arange(len(many)) % 10
network = keras.Sequential([keras.Input((64, 64, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
trainer = Trainer(network, weight_decay=0.0, defense=Defense())
def fit(of):
    train, held_out = Samples(many, kinds).select(of).select(np.arange(len(of))), Samples(many, kinds).select(of[:64])
    settings = TrainingSettings(1, 256, learning_rate=0.01, patience=9, augmentations=("shift",))
    trainer.fit(train, held_out, settings, log=TrainingLog(tempfile.mkdtemp()))
fit(np.arange(6400))
before = peak()
fit(np.arange(40000))
print((peak() - before) / many.nbytes)
"""


def test_training_holds_no_second_copy_of_its_images():
    """Class balance, batches and the pictures for TensorBoard read the array itself."""
    assert growth(PEAK) < 0.3
