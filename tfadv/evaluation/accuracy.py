"""Clean, white-box and transfer accuracy from one pass over the images."""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfadv.attacks.fgsm import logits_and_direction, step
from tfadv.attacks.gradient import PerModel, xla
from tfadv.datasets.batches import perturbed, to_float


def _hits(model, adversarial, y):
    """bool (E, N): which adversarial images (E, N, H, W, C) are still classified as y (N,)."""
    levels = tf.shape(adversarial)[0]
    logits = model(tf.reshape(adversarial, (-1, *adversarial.shape[2:])), training=False)
    return tf.reshape(tf.argmax(logits, axis=1), (levels, -1)) == y


def _count(model, images, y, perturbations, epsilons):
    """bool (1 + 2E, N): right on the clean image, and also on the model's own E, and on the surrogate's E."""
    x, eps = to_float(images), epsilons[:, None, None, None, None]
    logits, direction = logits_and_direction(model, x, y)
    clean = (tf.argmax(logits, axis=1) == y)[None]
    whitebox = _hits(model, step(x, direction, eps), y)
    transfer = _hits(model, perturbed(x, perturbations, eps), y)
    # Whoever attacks may also leave the image as it is: what is wrong already is not robust.
    return tf.concat([clean, clean & whitebox, clean & transfer], axis=0)


_compiled_count = PerModel(_count)


def evaluate(model, samples, *, batch_size, jit_compile="auto", description=""):
    """Counts the images a model gets right, clean and under FGSM; wrong already counts as wrong under attack.

    Each image costs one gradient and 2E + 1 forward passes for E sizes of eps;
    the clean logits come with the gradient.

    Args:
      model: a Keras model that returns logits.
      samples: `Samples` of the test images with the surrogate's perturbations and
        the epsilons to test.
      batch_size: int.
      jit_compile: "auto", "true" or "false".
      description: str, shown at the progress bar.

    Returns:
      list of dicts with "protocol" ("clean", "whitebox" or "transfer"), "attack",
      "eps", "accuracy" (0-1), "correct" and "n".
    """
    n, jit = len(samples.labels), xla(jit_compile)
    epsilons = tf.constant(samples.epsilons, tf.float32)
    correct = np.zeros(1 + 2 * len(samples.epsilons), np.int64)
    with tqdm(total=n, unit="image", desc=description, leave=False, disable=None) as bar:
        for start in range(0, n, batch_size):
            # Every batch is full (it wraps around), so that XLA compiles one shape only; only new images count.
            rows = np.arange(start, start + batch_size) % n
            new = min(batch_size, n - start)
            hits = _compiled_count(
                model,
                samples.images[rows],
                samples.labels[rows],
                samples.perturbations[rows],
                epsilons,
                jit_compile=jit,
            )
            correct += hits.numpy()[:, :new].sum(axis=1)
            bar.update(new)
    kinds = [("clean", None, None)]
    kinds += [(protocol, "fgsm", eps) for protocol in ("whitebox", "transfer") for eps in samples.epsilons]
    return [
        {"protocol": p, "attack": a, "eps": e, "accuracy": int(c) / n, "correct": int(c), "n": n}
        for (p, a, e), c in zip(kinds, correct)
    ]
