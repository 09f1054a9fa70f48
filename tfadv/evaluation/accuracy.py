"""Clean, white-box and transfer accuracy from one pass over the images."""

import numpy as np
import tensorflow as tf

from tfadv.attacks.fgsm import logits_and_direction, step
from tfadv.attacks.gradient import PerModel, xla
from tfadv.datasets.batches import perturbed, to_float
from tfadv.runtime.devices import Devices


def _right(model, adversarial, y):
    """bool (E, N): which adversarial images (E, N, H, W, C) are still classified as y (N,)."""
    levels = tf.shape(adversarial)[0]
    logits = model(tf.reshape(adversarial, (-1, *adversarial.shape[2:])), training=False)
    return tf.reshape(tf.argmax(logits, axis=1), (levels, -1)) == y


def _batch_hits(model, images, y, perturbations, epsilons):
    """bool (1 + 2E, N): right on the clean image, and also on the model's own E, and on the surrogate's E."""
    x, eps = to_float(images), epsilons[:, None, None, None, None]
    logits, direction = logits_and_direction(model, x, y)
    clean = (tf.argmax(logits, axis=1) == y)[None]
    whitebox = _right(model, step(x, direction, eps), y)
    transfer = _right(model, perturbed(x, perturbations, eps), y)
    # Whoever attacks may also leave the image as it is: what is wrong already is not robust.
    return tf.concat([clean, clean & whitebox, clean & transfer], axis=0)


_compiled_hits = PerModel(_batch_hits)


def _of_batch(model, images, labels, perturbations, *, epsilons, jit_compile):
    epsilons = tf.constant(epsilons, tf.float32)
    return _compiled_hits(model, images, labels, perturbations, epsilons, jit_compile=xla(jit_compile))


def hits(model, samples, *, batch_size, jit_compile="auto", devices=None, progress=None):
    """Which images a model gets right, clean and under FGSM; wrong already counts as wrong under attack.

    Each image costs one gradient and 2E + 1 forward passes for E sizes of eps;
    the clean logits come with the gradient.

    Args:
      model: a Keras model that returns logits.
      samples: `Samples` of the test images with the surrogate's perturbations and
        the epsilons to test.
      batch_size: int.
      jit_compile: "auto", "true" or "false".
      devices: `Devices`; None is the one device.
      progress: called after each batch with the number of its images, or None.

    Returns:
      bool (1 + 2E, N): clean, then white-box at each eps, then the surrogate's images at each eps.
    """
    settings = {"epsilons": tuple(samples.epsilons), "jit_compile": jit_compile}
    of_batch = (devices or Devices()).joining(_of_batch, model, axis=1, **settings)
    found, n = [], len(samples.labels)
    for start in range(0, n, batch_size):
        # Every batch is full (it wraps around), so that XLA compiles one shape only; only new images count.
        rows = np.arange(start, start + batch_size) % n
        new = min(batch_size, n - start)
        batch = of_batch(samples.images[rows], samples.labels[rows], samples.perturbations[rows])
        found.append(batch.numpy()[:, :new])
        if progress:
            progress(new)
    return np.concatenate(found, axis=1)
