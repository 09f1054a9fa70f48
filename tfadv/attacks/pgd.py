"""Projected gradient descent (Madry et al. 2017, https://arxiv.org/abs/1706.06083), and the loop of BIM and MI-FGSM."""

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, loop, losses
from tfadv.attacks.norms import ball, finite
from tfadv.errors import check_name

_LOSSES = ("ce", "cw", "dlr")


def _descend(
    model,
    x,
    y,
    active,
    eps,
    length,
    decay,
    low,
    high,
    steps,
    targeted,
    noise,
    *,
    loss,
    norm,
    until_broken,
    compare,
    compact,
):
    """The whole attack as one graph: a round for each noise (R, H, W, C), of `steps` times step, project, clip."""
    within, sign = ball(norm), tf.where(targeted, -1.0, 1.0)

    def objective(logits, y, target=None):
        return sign * losses.LOSSES[losses.used(loss, logits.shape[-1])](logits, y)

    def step(i, x, y, at, momentum):
        logits, grad = gradient.logits_and_gradient(model, at, y, loss=objective)
        grad = finite(grad)
        momentum = decay * momentum + tf.math.divide_no_nan(grad, tf.reduce_mean(tf.abs(grad), (1, 2, 3), True))
        moved = within.project(at + length * within.ascent(momentum), x, eps, low, high)
        done = gradient.is_broken(logits, y, targeted) if until_broken else tf.zeros_like(y, tf.bool)
        return (x, y, moved, momentum), at, loop.score(done), done

    def last(x, y, at, momentum):
        if not compare:
            return at, tf.zeros(tf.shape(y))
        logits = gradient.logits_of(model, at)
        broken = gradient.is_broken(logits, y, targeted)
        return at, tf.where(broken, loop.BROKEN, -objective(logits, y))

    def attempt(r, rows, alive):
        here, label = tf.gather(x, rows), tf.gather(y, rows)
        start = within.project(here + eps * tf.gather(noise, r), here, eps, low, high)
        state = here, label, start, tf.zeros_like(here)
        images, scores, gradients, forwards = loop.steps(step, last, state, steps, rows, alive, compact=compact)
        return images, scores, gradients, forwards if compare else 0

    return loop.rounds(attempt, tf.shape(noise)[0], x, active, loop.BROKEN, tf.size(y), compact=compact)


_compiled_descend = gradient.PerModel(_descend)


def descend(
    model,
    x,
    y,
    eps,
    *,
    length,
    decay,
    random_start,
    loss,
    norm,
    steps,
    restarts,
    until_broken,
    targeted,
    seed,
    clip,
    cost,
):
    """What `pgd`, `bim` and `mifgsm` have in common; `length` is a function of eps (), `decay` that of the momentum."""
    check_name("loss", loss, _LOSSES)
    x, y, sizes = gradient.check(model, x, y, eps, clip, norm=norm, steps=steps, restarts=restarts)

    shape = restarts, *x.shape[1:]
    noise = ball(norm).noise(shape, (seed, 0)) if random_start else tf.zeros(shape)

    def attack(active, size):
        return _compiled_descend(
            *(model, x, y, active, size, tf.cast(length(size), tf.float32), float(decay)),
            *(*gradient.limits(clip), steps, targeted, noise),
            jit_compile=gradient.xla(),
            compact=not gradient.xla(),
            loss=loss,
            norm=norm,
            until_broken=until_broken,
            compare=until_broken or restarts > 1,
        )

    if cost is not None and loss == "dlr":
        cost.uses(loss, losses.used(loss, gradient.compiled_logits(model, x[:1], jit_compile=gradient.xla()).shape[-1]))
    if until_broken:
        made = loop.over_sizes(lambda _, *args: attack(*args), model, x, y, sizes, targeted, cost)
    else:
        every = tf.ones_like(y, tf.bool)
        results = [attack(every, size) for size in tf.unstack(sizes)]
        made = tf.stack([images for images, *_ in results]) if np.ndim(eps) else results[0][0][None]
        if cost is not None:
            for _, _, gradients, forwards in results:
                cost.add(gradients, forwards)
    return made[0] if np.ndim(eps) == 0 else made


def pgd(
    model,
    x,
    y,
    eps,
    *,
    loss="ce",
    norm="linf",
    steps=10,
    step_size=None,
    random_start=True,
    restarts=1,
    until_broken=False,
    targeted=False,
    seed=0,
    clip=(0.0, 1.0),
    cost=None,
):
    """Adversarial images of several small steps, each projected back to the ball of radius eps.

    The loop runs inside one compiled graph, which serves every eps, number of
    steps and batch size.

    Args:
      model: a Keras model from float32 images (N, H, W, C) to logits (N, K);
        run with `training=False`, its variables stay as they are.
      x: float32 (N, H, W, C) in `clip`.
      y: int (N,), the true classes, or the target classes where `targeted`.
      eps: a number >= 0 in the unit of x, or E of them.
      loss: "ce", "cw" or "dlr" (`losses.LOSSES`); where DLR has too few classes, `losses.used` says what stands in.
      norm: "linf" or "l2".
      steps: int >= 1, gradients an image costs for each eps and restart.
      step_size: a number > 0 in the unit of x; eps / 4 where it is None.
      random_start: bool; True starts at a uniformly random place in the ball, False at x.
      restarts: int >= 1; an image that is broken has no further ones, and the worst of several counts: a broken
        one, or else the one of the greatest loss.
      until_broken: bool; True leaves an image alone from its first adversarial iterate on, which is all that robust
        accuracy asks for and saves most gradients: where it is wrong unattacked, and at larger eps than one that
        broke it. One that stays unbroken is then x. False goes all the steps and returns where they led.
      targeted: bool; True moves towards y instead of away.
      seed: int, of the random starts, which all images of a call share: no result depends on the batch.
      clip: (least, greatest) value of a pixel.
      cost: `Cost` to add to, or None.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No image is further
      from x than eps, or outside of `clip`.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
      UserError: an unknown loss or norm.
    """
    if step_size is not None and not 0 < step_size < np.inf:
        raise ValueError(f"step_size must be above 0 and finite, got {step_size}.")
    return descend(
        *(model, x, y, eps),
        length=lambda size: size / 4 if step_size is None else step_size,
        decay=0.0,
        random_start=random_start,
        loss=loss,
        norm=norm,
        steps=steps,
        restarts=restarts,
        until_broken=until_broken,
        targeted=targeted,
        seed=seed,
        clip=clip,
        cost=cost,
    )
