"""Fast Adaptive Boundary (Croce & Hein 2019, https://arxiv.org/abs/1907.02044), targeted: the smallest perturbation."""

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, loop, losses
from tfadv.attacks.norms import ball, finite
from tfadv.attacks.hyperplane import towards
from tfadv.attacks.targets import most_likely_others

MOST_BIAS = 0.1  # α_max: how much of a step is taken from x and not from where the search is
OVERSHOOT = 1.05  # η: how far beyond the boundary a step aims
BACKWARD = 0.9  # β: how far back towards x the search goes from an adversarial image


def _attempt(model, x, y, source, target, start, goal, low, high, steps, targeted, owners, alive, *, norm, compact):
    """One run from one start towards one target; the score of an image is its distance from x."""
    within = ball(norm)

    def step(i, x, y, source, target, at, best, distance):
        # The boundary between source and target is taken for the hyperplane f + Σ w·(z - at) = 0.
        logits, w = gradient.logits_and_gradient(model, at, source, target, losses.margin_to_target)
        f, w = losses.margin_to_target(logits, source, target)[:, None, None, None], finite(w)
        from_at = towards(at, w, -f, low, high, norm)
        from_x = towards(x, w, tf.reduce_sum(w * (at - x), (1, 2, 3), keepdims=True) - f, low, high, norm)
        near, far = within.size(from_at), within.size(from_x)
        bias = tf.minimum(tf.math.divide_no_nan(near, near + far), MOST_BIAS)
        moved = (1 - bias) * (at + OVERSHOOT * from_at) + bias * (x + OVERSHOOT * from_x)
        moved = tf.clip_by_value(moved, low, high)

        broken = gradient.is_broken(gradient.logits_of(model, moved), y, targeted)
        size = within.size(moved - x)[:, 0, 0, 0]
        closer = broken & (size < distance)
        best, distance = tf.where(_column(closer), moved, best), tf.where(closer, size, distance)
        at = tf.where(_column(broken), x + BACKWARD * (moved - x), moved)
        return (x, y, source, target, at, best, distance), best, distance, distance <= goal

    def last(x, y, source, target, at, best, distance):
        return best, distance

    state = x, y, source, target, start, x, tf.fill(tf.shape(y), loop.UNBROKEN)
    images, distances, visits, _ = loop.steps(step, last, state, steps, owners, alive, compact=compact)
    return images, distances, visits, visits


def _column(v):
    return v[:, None, None, None]


def _attack(
    model,
    x,
    y,
    logits,
    active,
    radius,
    goal,
    low,
    high,
    steps,
    targeted,
    restarts,
    noise,
    capacity,
    *,
    norm,
    compact,
):
    """All targets and restarts, as one graph; noise (restarts · targets, H, W, C) is where they start."""
    likely = most_likely_others(logits, y)
    predicted = tf.argmax(logits, axis=1)

    def attempt(r, rows, alive):
        here, label = tf.gather(x, rows), tf.gather(y, rows)
        # The first starts at x itself, further ones anywhere up to half of the radius away.
        far = tf.where(r % restarts == 0, 0.0, radius / 2)
        start = tf.clip_by_value(here + _column(far) * tf.gather(noise, r), low, high)
        source = tf.where(targeted, tf.gather(predicted, rows), label)
        target = tf.where(targeted, label, tf.gather(tf.gather(likely, rows), r // restarts, batch_dims=1))
        return _attempt(
            *(model, here, label, source, target, start, goal, low, high, steps, targeted, rows, alive),
            norm=norm,
            compact=compact,
        )

    return loop.rounds(attempt, tf.shape(noise)[0], x, active, goal, capacity, compact=compact)


_compiled_attack = gradient.PerModel(_attack)


def nearest(
    model,
    x,
    y,
    logits,
    active,
    sizes,
    *,
    norm,
    steps,
    restarts,
    targets,
    targeted=False,
    seed=0,
    clip=(0.0, 1.0),
    capacity=None,
):
    """The adversarial images found nearest to x; the search for one ends within the smallest of `sizes` (E,).

    Args:
      logits: float32 (N, K), of x.
      active: bool (N,), the images to attack.
      capacity: int, how many copies of images may be worked on at once; N where it is None.
      others: as `fab` checks them.

    Returns:
      (images (N, H, W, C), distances (N,): inf where there is none, gradients, forwards).
    """
    targets = 1 if targeted else min(targets, logits.shape[-1] - 1)
    noise = ball(norm).noise((restarts * targets, *x.shape[1:]), (seed, 0))
    return _compiled_attack(
        *(model, x, y, logits, active, tf.reduce_max(sizes), tf.reduce_min(sizes), *gradient.limits(clip)),
        *(steps, targeted, restarts, noise, capacity or len(y)),
        jit_compile=gradient.xla(),
        compact=not gradient.xla(),
        norm=norm,
    )


def fab(
    model,
    x,
    y,
    eps,
    *,
    norm="linf",
    steps=100,
    restarts=1,
    targets=9,
    targeted=False,
    seed=0,
    clip=(0.0, 1.0),
    cost=None,
):
    """Adversarial images as near to x as FAB-T finds them, where that is within eps.

    For each of the most likely other classes it walks along that class's
    boundary with the true class towards x.  How it walks does not depend on eps:
    one run serves all.  An image is left alone once it is broken within the
    smallest eps.

    Args:
      model: a Keras model from float32 images (N, H, W, C) to logits (N, K);
        run with `training=False`, its variables stay as they are.
      x: float32 (N, H, W, C) in `clip`.
      y: int (N,), the true classes, or the target classes where `targeted`.
      eps: a number >= 0 in the unit of x, or E of them.
      norm: "linf" or "l2".
      steps: int >= 1, gradients, and as many forward passes, an image costs at most for each restart and target.
      restarts: int >= 1; the first starts at x, further ones at random within eps / 2, the largest of several.
      targets: int >= 1, how many other classes to go for; K - 1 at most.
      targeted: bool; True is for y to be predicted instead of anything but y.
      seed: int, of the random starts, which all images of a call share.
      clip: (least, greatest) value of a pixel.
      cost: `Cost` to add to, or None.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No image is further
      from x than eps, or outside of `clip`; one that has no adversarial image found within eps is x.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
      UserError: an unknown norm.
    """
    x, y, sizes = gradient.check(model, x, y, eps, clip, norm=norm, steps=steps, restarts=restarts, targets=targets)
    logits = gradient.compiled_logits(model, x, jit_compile=gradient.xla())
    images, distances, gradients, forwards = nearest(
        *(model, x, y, logits, ~gradient.is_broken(logits, y, targeted), sizes),
        norm=norm,
        steps=steps,
        restarts=restarts,
        targets=targets,
        targeted=targeted,
        seed=seed,
        clip=clip,
    )
    if cost is not None:
        cost.add(gradients, forwards + len(y))
    made = tf.where((distances <= sizes[:, None])[..., None, None, None], images, x)
    return made[0] if np.ndim(eps) == 0 else made
