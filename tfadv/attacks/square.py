"""Square Attack (Andriushchenko et al. 2019, https://arxiv.org/abs/1912.00049): random search, no gradient."""

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, loop, losses
from tfadv.attacks.norms import L2, ball

SHARE = 0.8  # p: the share of the pixels in the first squares
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries


def sides(queries, height, width, least):
    """int32 (queries,): the side of the square that each query changes, √(p · H · W); p is halved now and then."""
    p = SHARE / 2.0 ** np.searchsorted(HALVED_AFTER, np.arange(queries))
    side = np.maximum(np.round(np.sqrt(p * height * width)), least).astype(np.int32)
    if least > 1:
        side += side % 2 == 0  # a bump has a middle
    return np.minimum(side, min(height, width))


def bump(height, width):
    """float64 (height, width) of norm 1: a pyramid, 1 + 1/4 + 1/9 + ... summed from the rim to the middle (eq. 4)."""
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    to_middle = np.maximum(rows[:, None], columns)
    inverse_squares = 1.0 / np.arange(1, max(height, width) // 2 + 2) ** 2
    pyramid = np.cumsum(inverse_squares[::-1])[::-1][to_middle]
    return pyramid / np.linalg.norm(pyramid)


def bumps(side):
    """float32 (2, side, side) of norm 1: a bump up above a bump down, and the same lying on its side."""
    half = side // 2
    both = np.concatenate([bump(half, side), -bump(side - half, side)]) if half else -np.ones((1, 1))
    both = both / np.linalg.norm(both)
    return np.stack([both, both.T]).astype(np.float32)


def _bumps_of(sides, height, width):
    """(float32 (S, 2, H, W): the bumps of all sides that occur, in a corner of the image; int32 (queries,): which)."""
    distinct, which = np.unique(sides, return_inverse=True)
    made = [np.pad(bumps(side), ((0, 0), (0, height - side), (0, width - side))) for side in distinct]
    return np.stack(made), which.astype(np.int32)


def _window(place, side, height, width):
    """bool (H, W, 1): inside the square that lies in the image; `place` is two numbers in [0, 1)."""
    top, left = _corner(place, side, height, width)
    rows, columns = tf.range(height) - top, tf.range(width) - left
    inside = ((rows >= 0) & (rows < side))[:, None] & ((columns >= 0) & (columns < side))
    return inside[:, :, None]


def _corner(place, side, height, width):
    # All places, as in algorithm 2: auto-attack leaves out the last, so that its last row and column are out of reach.
    free = tf.cast(tf.stack([height, width]) - side + 1, tf.float32)
    return tf.unstack(tf.cast(place * free, tf.int32))


def _signs(uniform):
    return tf.where(uniform < 0.5, -1.0, 1.0)


# A query's random numbers, uniform in [0, 1): where the first square lies (2), where the second (2), which way its
# bumps lie (1), and a sign for each channel.


def _stripes(number, shape, seed):
    """float32 (number, H, W, C) of ±1: vertical stripes, a sign for each column and channel."""
    height, width, channels = shape
    signs = _signs(tf.random.stateless_uniform((number, 1, width, channels), seed))
    return tf.repeat(signs, height, 1)


def _propose_linf(x, best, eps, side, numbers, _):
    """A square of x ± eps, a sign for each channel (algorithm 2)."""
    inside = _window(numbers[:2], side, *x.shape[1:3])
    return tf.where(inside, x + eps * _signs(numbers[5:]), best)


def _grid(number, shape, seed):
    """float32 (number, H, W, C) of norm 1: bumps, five a side, up or down in each channel and lying either way."""
    height, width, channels = shape
    side = max(min(height, width) // 5, 1)
    tiles = height // side, width // side
    upright, lying = (np.tile(pattern, tiles)[:, :, None] for pattern in bumps(side))
    numbers = tf.random.stateless_uniform((number, *tiles, 1 + channels), seed)
    numbers = tf.repeat(tf.repeat(numbers, side, 1), side, 2)
    grid = tf.where(numbers[..., :1] < 0.5, upright, lying) * _signs(numbers[..., 1:])
    above, before = (height - side * tiles[0]) // 2, (width - side * tiles[1]) // 2
    return L2.ascent(tf.image.pad_to_bounding_box(grid, above, before, height, width))


def _propose_l2(x, best, eps, side, numbers, pair):
    """Moves the budget of a second square into a bump in the first one (algorithm 3)."""
    height, width, channels = x.shape[1:]

    def norm(d):  # of each channel
        return tf.sqrt(tf.reduce_sum(tf.square(d), (1, 2), keepdims=True))

    first, second = _window(numbers[:2], side, height, width), _window(numbers[2:4], side, height, width)
    d = best - x
    unused = tf.maximum(eps**2 - tf.square(L2.size(d)), 0.0) / channels
    budget = tf.sqrt(unused + tf.square(norm(tf.where(first | second, d, 0.0))))
    old = tf.where(first, d, 0.0)
    bump = tf.where(numbers[4] < 0.5, pair[0], pair[1])
    bump = tf.roll(bump, _corner(numbers[:2], side, height, width), (0, 1))[:, :, None]
    new = _signs(numbers[5:]) * bump + tf.math.divide_no_nan(old, norm(old))
    new = budget * tf.math.divide_no_nan(new, norm(new))
    d = tf.where(first, new, tf.where(second, 0.0, d))
    return x + eps * L2.ascent(d)


_KINDS = {"linf": (_stripes, _propose_linf), "l2": (_grid, _propose_l2)}


def _attack(model, x, y, active, eps, low, high, starts, numbers, sides, shapes, which, targeted, *, norm, compact):
    """All restarts, as one graph; starts are (R, H, W, C), numbers (R · queries, 5 + C)."""
    within, (_, propose), sign = ball(norm), _KINDS[norm], tf.where(targeted, -1.0, 1.0)

    def attempt(r, rows, alive):
        here, first = tf.gather(x, rows), r[0] * tf.size(sides)  # one round at a time: all images share its squares

        def step(i, x, y, best, value):
            made = within.project(
                propose(x, best, eps, sides[i], numbers[first + i], shapes[which[i]]), x, eps, low, high
            )
            made = tf.where(i > 0, made, best)  # the first query is the start itself
            logits = gradient.logits_of(model, made)
            now, broken = sign * losses.margin(logits, y), gradient.is_broken(logits, y, targeted)
            best = tf.where((now > value)[:, None, None, None], made, best)
            return (x, y, best, tf.maximum(now, value)), made, loop.score(broken), broken

        def last(x, y, best, value):
            return best, loop.score(tf.zeros_like(y, tf.bool))

        start = within.project(here + eps * starts[r[0]], here, eps, low, high)
        state = here, tf.gather(y, rows), start, tf.fill(tf.shape(rows), tf.float32.min)
        images, scores, visits, _ = loop.steps(step, last, state, tf.size(sides), rows, alive, compact=compact)
        return images, scores, 0, visits

    return loop.rounds(attempt, tf.shape(starts)[0], x, active, loop.BROKEN, 1, compact=compact)


_compiled_attack = gradient.PerModel(_attack)


def search(model, x, y, logits, active, eps, *, norm, queries, restarts, targeted=False, seed=0, clip=(0.0, 1.0)):
    """Square Attack at one eps on the `active` (N,) images; arguments as `square` checks them.

    Returns:
      (images (N, H, W, C), scores (N,), gradients, forwards), see `survivors`.
    """
    del logits  # the search begins elsewhere
    height, width, channels = x.shape[1:]
    starts = _KINDS[norm][0](restarts, x.shape[1:], tf.constant((seed, 0), tf.int64))
    numbers = tf.random.stateless_uniform((restarts * queries, 5 + channels), tf.constant((seed, 1), tf.int64))
    side = sides(queries, height, width, 3 if norm == "l2" else 1)
    return _compiled_attack(
        *(model, x, y, active, eps, *gradient.limits(clip), starts, numbers),
        *(side, *_bumps_of(side, height, width), targeted),
        jit_compile=gradient.xla(),
        compact=not gradient.xla(),
        norm=norm,
    )


def square(
    model,
    x,
    y,
    eps,
    *,
    norm="linf",
    steps=5000,
    restarts=1,
    targeted=False,
    seed=0,
    clip=(0.0, 1.0),
    cost=None,
):
    """Adversarial images of a random search that sees only the logits: a check on masked gradients.

    Each step changes a square of the image and keeps the change where the
    margin max_{j≠y} z_j - z_y rises.  An image is left alone as soon as it is broken.

    Args:
      model: a Keras model from float32 images (N, H, W, C) to logits (N, K);
        run with `training=False`, its variables stay as they are.
      x: float32 (N, H, W, C) in `clip`.
      y: int (N,), the true classes, or the target classes where `targeted`.
      eps: a number >= 0 in the unit of x, or E of them.
      norm: "linf" or "l2".
      steps: int >= 1, queries: forward passes an image costs at most for each eps and restart.
      restarts: int >= 1, searches from a new start.
      targeted: bool; True is for y to be predicted instead of anything but y.
      seed: int, of the squares, which all images of a call share.
      clip: (least, greatest) value of a pixel.
      cost: `Cost` to add to, or None.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No image is further
      from x than eps, or outside of `clip`; one that stays unbroken is x.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
      UserError: an unknown norm.
    """
    x, y, sizes = gradient.check(model, x, y, eps, clip, norm=norm, steps=steps, restarts=restarts)
    options = dict(norm=norm, queries=steps, restarts=restarts, targeted=targeted, seed=seed, clip=clip)
    made = loop.over_sizes(
        lambda logits, active, size: search(model, x, y, logits, active, size, **options),
        *(model, x, y, sizes, targeted, cost),
    )
    return made[0] if np.ndim(eps) == 0 else made
