"""Projected gradient descent in the L-infinity ball (Madry et al. 2017, https://arxiv.org/abs/1706.06083).

Without a random start it is the basic iterative method (Kurakin et al. 2016,
https://arxiv.org/abs/1607.02533; the paper's eq. 3).
"""

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient


def _descend(model, x, y, start, eps, step_size, low, high, steps):
    """The whole attack as one graph: `steps` times step, project to the ball around x, clip."""
    least, greatest = tf.maximum(x - eps, low), tf.minimum(x + eps, high)

    def step(i, adversarial):
        _, grad = gradient.logits_and_gradient(model, adversarial, y)
        moved = adversarial + step_size * gradient.sign(grad)
        return i + 1, tf.clip_by_value(moved, least, greatest)

    start = tf.clip_by_value(start, least, greatest)
    return tf.while_loop(lambda i, _: i < steps, step, (0, start))[1]


_compiled_descend = gradient.PerModel(_descend)


def pgd(model, x, y, eps, *, steps=10, step_size=None, random_start=True, targeted=False, seed=0, clip=(0.0, 1.0)):
    """Adversarial images of several small steps, each projected back to the ball of radius eps.

    The loop runs inside one compiled graph, which serves every eps, number of
    steps and batch size.

    Args:
      model: a Keras model from float32 images (N, H, W, C) to logits (N, K);
        run with `training=False`, its variables stay as they are.
      x: float32 (N, H, W, C) in `clip`.
      y: int (N,), the true classes, or the target classes where `targeted`.
      eps: a number >= 0 in the unit of x, or E of them.
      steps: int >= 1, gradients an image costs for each eps.
      step_size: a number > 0 in the unit of x; eps / 4 where it is None.
      random_start: bool; True starts at a uniformly random place in the ball, False at x.
      targeted: bool; True moves towards y instead of away.
      seed: int, of the random start.
      clip: (least, greatest) value of a pixel.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No pixel is
      further from x than eps, or outside of `clip`.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
    """
    x, y, sizes = gradient.check(model, x, y, eps, clip)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if step_size is not None and not 0 < step_size < np.inf:
        raise ValueError(f"step_size must be above 0 and finite, got {step_size}.")
    made = []
    for size in tf.unstack(sizes):
        start = x
        if random_start:
            start += size * tf.random.stateless_uniform(tf.shape(x), (seed, 0), -1.0, 1.0)
        length = size / 4 if step_size is None else tf.constant(step_size, tf.float32)
        made.append(
            _compiled_descend(
                model,
                *(x, y, start, size, -length if targeted else length),
                *(tf.constant(limit, tf.float32) for limit in clip),
                steps,
                jit_compile=gradient.xla(),
            )
        )
    return made[0] if np.ndim(eps) == 0 else tf.stack(made)
