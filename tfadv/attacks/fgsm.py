"""The fast gradient sign method (Goodfellow et al. 2014, https://arxiv.org/abs/1412.6572; the paper's eq. 4-5)."""

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient


def logits_and_direction(model, x, y):
    """The logits and sign of the loss's gradient: all of FGSM that needs the model.

    Plain TensorFlow: call it inside your own `tf.function`.

    Args:
      model: callable from float32 (N, H, W, C) to logits (N, K).
      x: float32 (N, H, W, C) in [0, 1].
      y: int (N,), true classes.

    Returns:
      (float32 (N, K), float32 (N, H, W, C) of -1, 0 and 1).
    """
    logits, grad = gradient.logits_and_gradient(model, x, y)
    return logits, gradient.sign(grad)


def step(x, direction, eps, clip=(0.0, 1.0)):
    """Eq. 4: clip(x + eps * direction); shapes broadcast."""
    return tf.clip_by_value(x + eps * direction, *clip)


_compiled_direction = gradient.PerModel(lambda model, x, y: logits_and_direction(model, x, y)[1])


def direction(model, x, y, *, jit_compile=False):
    """float32 (N, H, W, C) of -1, 0 and 1: where FGSM moves each pixel; the same for every eps."""
    return _compiled_direction(model, x, y, jit_compile=jit_compile)


def fgsm(model, x, y, eps, *, targeted=False, seed=0, clip=(0.0, 1.0), cost=None):
    """Adversarial images of one step, for one eps or for several from ONE gradient.

    The model is traced once, whatever the eps and the batch size; several
    calls with batches are better than one with a whole data set.

    Args:
      model: a Keras model from float32 images (N, H, W, C) to logits (N, K);
        run with `training=False`, its variables stay as they are.
      x: float32 (N, H, W, C) in `clip`.
      y: int (N,), the true classes, or the target classes where `targeted`.
      eps: a number >= 0 in the unit of x, or E of them.
      targeted: bool; True moves towards y (the paper's eq. 2) instead of away.
      seed: int, of no use here: every attack takes one.
      clip: (least, greatest) value of a pixel.
      cost: `Cost` to add to, or None.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No pixel is
      further from x than eps, or outside of `clip`.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
    """
    x, y, sizes = gradient.check(model, x, y, eps, clip)
    where = direction(model, x, y, jit_compile=gradient.xla())
    if cost is not None:
        cost.add(gradients=len(y))
    if targeted:
        where = -where
    if np.ndim(eps) == 0:
        return step(x, where, sizes[0], clip)
    return step(x, where, sizes[:, None, None, None, None], clip)
