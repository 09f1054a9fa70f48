"""Auto-PGD: PGD that finds its own step size (Croce & Hein 2020, https://arxiv.org/abs/2003.01690, section 3)."""

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, loop, losses
from tfadv.attacks.norms import ball
from tfadv.attacks.targets import most_likely_others
from tfadv.errors import check_name

MOMENTUM = 0.75  # α: the share of the new step, the rest is the step before
RISES = 0.75  # ρ: fewer rises of the loss than that between two checkpoints halve the step


def checkpoints(steps):
    """The iterations at which the step size is reconsidered: ⌈p_j · steps⌉ with p_0 = 0, p_1 = 0.22 and
    p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), as long as p_j <= 1.

    Returns:
      list of int, the first is 0.
    """
    percent = [0, 22]  # whole numbers: 0.41 * 100 is above 41 in floating point
    while percent[-1] <= 100:
        percent.append(percent[-1] + max(percent[-1] - percent[-2] - 3, 6))
    return sorted({-(-p * steps // 100) for p in percent[:-1]})


def _intervals(steps):
    """int32 (steps,): at a checkpoint the iterations since the one before, elsewhere 0."""
    reached = checkpoints(steps)
    intervals = np.zeros(steps + 1, np.int32)
    intervals[reached[1:]] = np.diff(reached)
    return intervals[:steps]


def _attempt(model, x, y, target, start, eps, low, high, intervals, targeted, owners, alive, *, loss, norm, compact):
    """One run from one start; arguments have the images' rows first where they are one an image."""
    within = ball(norm)
    sign = tf.where(targeted, -1.0, 1.0)

    def objective(logits, y, target):
        return sign * loss(logits, y, target)

    def step(i, x, y, target, at, before, best, best_gradient, size, value, best_value, best_then, rises, halved):
        logits, grad = gradient.logits_and_gradient(model, at, y, target, objective)
        broken = gradient.is_broken(logits, y, targeted)
        now, image = objective(logits, y, target), at
        rises += tf.cast((now > value) & (i > 0), tf.float32)
        better = _column(now > best_value)
        best, best_gradient = tf.where(better, at, best), tf.where(better, grad, best_gradient)
        best_value = tf.maximum(now, best_value)

        # At a checkpoint the step is halved, and the search goes back to the best image, where the loss rose too
        # seldom (condition 1) or where neither the step has changed nor a better image was found since the last one.
        interval = tf.cast(intervals[i], tf.float32)
        check = interval > 0
        halve = check & ((rises < RISES * interval) | (~halved & (best_value <= best_then)))
        size = tf.where(_column(halve), size / 2, size)
        at, grad = tf.where(_column(halve), best, at), tf.where(_column(halve), best_gradient, grad)
        halved, best_then = tf.where(check, halve, halved), tf.where(check, best_value, best_then)
        rises = tf.where(check, 0.0, rises)

        ahead = within.project(at + size * within.ascent(grad), x, eps, low, high)
        share = tf.where(i > 0, MOMENTUM, 1.0)
        moved = within.project(at + share * (ahead - at) + (1 - share) * (at - before), x, eps, low, high)
        state = x, y, target, moved, at, best, best_gradient, size, now, best_value, best_then, rises, halved
        return state, image, loop.score(broken), broken

    def last(x, y, target, at, *_):
        return at, loop.score(gradient.is_broken(gradient.logits_of(model, at), y, targeted))

    zero = tf.zeros(tf.shape(y))
    lowest = zero + tf.float32.min
    size = _column(zero) + 2 * eps
    state = x, y, target, start, start, start, start, size, lowest, lowest, lowest, zero, zero > 0
    return loop.steps(step, last, state, tf.size(intervals), owners, alive, compact=compact)


def _column(v):
    return v[:, None, None, None]


def _attack(
    model,
    x,
    y,
    logits,
    active,
    eps,
    low,
    high,
    intervals,
    targeted,
    restarts,
    noise,
    capacity,
    *,
    loss,
    norm,
    compact,
):
    """All targets and restarts, as one graph; noise (restarts · targets, H, W, C) is where they start."""
    loss = losses.LOSSES[losses.used(loss, logits.shape[-1])]
    likely = most_likely_others(logits, y)

    def attempt(r, rows, alive):
        here = tf.gather(x, rows)
        start = ball(norm).project(here + eps * tf.gather(noise, r), here, eps, low, high)
        target = tf.gather(tf.gather(likely, rows), r // restarts, batch_dims=1)
        return _attempt(
            *(model, here, tf.gather(y, rows), target, start, eps, low, high, intervals, targeted, rows, alive),
            loss=loss,
            norm=norm,
            compact=compact,
        )

    return loop.rounds(attempt, tf.shape(noise)[0], x, active, loop.BROKEN, capacity, compact=compact)


_compiled_attack = gradient.PerModel(_attack)


def climb(
    model,
    x,
    y,
    logits,
    active,
    eps,
    *,
    loss,
    norm,
    steps,
    restarts,
    targets=1,
    targeted=False,
    seed=0,
    clip=(0.0, 1.0),
    capacity=None,
):
    """Auto-PGD at one eps on the `active` (N,) images, whose logits are known; arguments as `apgd` checks them.

    `capacity` is how many copies of images may be worked on at once, N where it is None.

    Returns:
      (images (N, H, W, C), scores (N,), gradients, forwards), see `survivors`.
    """
    # Drawn outside of the graph: XLA would draw other numbers.
    noise = ball(norm).noise((restarts * min(targets, logits.shape[-1] - 1), *x.shape[1:]), (seed, 0))
    return _compiled_attack(
        *(model, x, y, logits, active, eps, *gradient.limits(clip), _intervals(steps), targeted),
        *(restarts, noise, capacity or len(y)),
        jit_compile=gradient.xla(),
        compact=not gradient.xla(),
        loss=loss,
        norm=norm,
    )


def apgd(
    model,
    x,
    y,
    eps,
    *,
    loss="ce",
    norm="linf",
    steps=100,
    restarts=1,
    targets=9,
    targeted=False,
    seed=0,
    clip=(0.0, 1.0),
    cost=None,
):
    """Adversarial images of Auto-PGD: APGD-CE, APGD-DLR or, with `loss="dlr-t"`, targeted APGD (APGD-T).

    An image is left alone as soon as it is broken: at its first adversarial
    iterate, at the smallest eps that broke it for all larger ones, and where it
    is wrong unattacked.

    Args:
      model: a Keras model from float32 images (N, H, W, C) to logits (N, K);
        run with `training=False`, its variables stay as they are.
      x: float32 (N, H, W, C) in `clip`.
      y: int (N,), the true classes, or the target classes where `targeted`.
      eps: a number >= 0 in the unit of x, or E of them.
      loss: "ce", "cw" or "dlr"; "cw-t" or "dlr-t" to go for the most likely other classes one after the other.
        For DLR with fewer classes than it needs, `losses.used` says what stands in.
      norm: "linf" or "l2".
      steps: int >= 1, gradients an image costs at most for each eps, restart and target.
      restarts: int >= 1, random starts (for each target).
      targets: int >= 1, how many other classes a loss that ends in "-t" goes for; K - 1 at most.
      targeted: bool; True is for y to be predicted instead of anything but y.
      seed: int, of the random starts, which all images of a call share.
      clip: (least, greatest) value of a pixel.
      cost: `Cost` to add to, or None.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No image is further
      from x than eps, or outside of `clip`; one that stays unbroken is x.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
      UserError: an unknown loss or norm.
    """
    x, y, sizes = gradient.check(model, x, y, eps, clip, norm=norm, steps=steps, restarts=restarts, targets=targets)
    check_name("loss", loss, losses.LOSSES)
    aims = loss.endswith("-t")
    if aims and targeted:
        raise ValueError(f"loss {loss!r} chooses its targets itself: leave targeted out, or take 'ce', 'cw' or 'dlr'.")

    options = dict(loss=loss, norm=norm, steps=steps, restarts=restarts, targets=targets if aims else 1)

    def search(logits, active, size):
        if cost is not None:
            cost.uses(loss, losses.used(loss, logits.shape[-1]))
        return climb(model, x, y, logits, active, size, **options, targeted=targeted, seed=seed, clip=clip)

    made = loop.over_sizes(search, model, x, y, sizes, targeted, cost)
    return made[0] if np.ndim(eps) == 0 else made
