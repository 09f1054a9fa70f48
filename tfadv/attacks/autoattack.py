"""AutoAttack (Croce & Hein 2020, https://arxiv.org/abs/2003.01690): four attacks, the worst of them for each image."""

import numpy as np
import tensorflow as tf

from tfadv.attacks import gradient, losses
from tfadv.attacks.apgd import climb
from tfadv.attacks.cost import Cost
from tfadv.attacks.fab import nearest
from tfadv.attacks.square import search
from tfadv.attacks.loop import BROKEN
from tfadv.errors import check_name

STANDARD = ("apgd-ce", "apgd-t", "fab", "square")


def autoattack(
    model,
    x,
    y,
    eps,
    *,
    norm="linf",
    attacks=STANDARD,
    steps=100,
    restarts=1,
    targets=9,
    queries=5000,
    batch_size=256,
    seed=0,
    clip=(0.0, 1.0),
    cost=None,
    progress=None,
):
    """Adversarial images of APGD-CE, APGD-T, FAB-T and Square Attack, in this order, at their standard settings.

    Each attack meets only the images that are unbroken so far, gathered into
    full batches anew: give it many images at once.  What broke an image at one
    eps stands for all larger ones, and FAB runs once for all eps.

    Args:
      model: a Keras model from float32 images (N, H, W, C) to logits (N, K);
        run with `training=False`, its variables stay as they are.
      x: float32 (N, H, W, C) in `clip`.
      y: int (N,), the true classes.
      eps: a number >= 0 in the unit of x, or E of them.
      norm: "linf" or "l2".
      attacks: some of "apgd-ce", "apgd-dlr", "apgd-t", "fab" and "square".
      steps: int >= 1, of APGD and FAB.
      restarts: int >= 1, of each attack (and target).
      targets: int >= 1, of APGD-T and FAB; K - 1 at most.
      queries: int >= 1, of Square Attack.
      batch_size: int >= 1, the images that are worked on at once.
      seed: int; no result depends on the batch an image is in.
      clip: (least, greatest) value of a pixel.
      cost: `Cost` to add to, or None; its `unbroken` says what each attack left.
      progress: called after each attack at each eps with a number of images, or None; each
        counts alike, however long it takes, and together they are N.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No image is further
      from x than eps, or outside of `clip`; one that stays unbroken, or is wrong unattacked, is x.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
      UserError: an unknown attack or norm.
    """
    counts = dict(steps=steps, restarts=restarts, targets=targets, queries=queries, batch_size=batch_size)
    x, y, sizes = gradient.check(model, x, y, eps, clip, norm=norm, **counts)
    common, room = dict(norm=norm, restarts=restarts, seed=seed, clip=clip), dict(capacity=batch_size)
    searches = {
        "apgd-ce": lambda *images: climb(*images, loss="ce", steps=steps, **common, **room),
        "apgd-dlr": lambda *images: climb(*images, loss="dlr", steps=steps, **common, **room),
        "apgd-t": lambda *images: climb(*images, loss="dlr-t", steps=steps, targets=targets, **common, **room),
        "fab": lambda *images: nearest(*images, steps=steps, targets=targets, **common, **room),
        "square": lambda *images: search(*images, queries=queries, **common),
    }
    for name in attacks:
        check_name("attack", name, searches)

    def batches(rows):
        """Parts of rows of much the same length, and the same filled up where XLA would compile each length anew."""
        for some in np.array_split(rows, max(1, -(-len(rows) // batch_size))) if len(rows) else ():
            yield some, np.resize(some, batch_size) if gradient.xla() else some

    n, cost = len(y), Cost() if cost is None else cost
    logits = np.concatenate(
        [
            gradient.compiled_logits(model, tf.gather(x, full), jit_compile=gradient.xla())[: len(some)]
            for some, full in batches(np.arange(n))
        ]
    )
    cost.add(forwards=n)
    for name, loss in (("apgd-dlr", "dlr"), ("apgd-t", "dlr-t")):
        if name in attacks:
            cost.uses(loss, losses.used(loss, logits.shape[-1]))
    unbroken = ~gradient.is_broken(tf.constant(logits), y).numpy()
    images, near, distance = x.numpy(), x.numpy(), np.full(n, np.nan)  # the last two are FAB's, for all eps
    made, stage = {}, 0
    for k in np.argsort(sizes, kind="stable"):
        for name in attacks:
            rows = np.flatnonzero(unbroken & np.isnan(distance) if name == "fab" else unbroken)
            for some, full in batches(rows):
                batch = (tf.gather(tensor, full) for tensor in (x, y, logits))
                alive = np.arange(len(full)) < len(some)  # nothing is done to what only fills up
                found, scores, gradients, forwards = searches[name](model, *batch, alive, sizes[k])
                cost.add(gradients, forwards)
                found, scores = found.numpy()[: len(some)], scores.numpy()[: len(some)]
                if name == "fab":
                    near[some], distance[some] = found, scores
                else:
                    images[some[scores <= BROKEN]] = found[scores <= BROKEN]
                    unbroken[some[scores <= BROKEN]] = False
            if name == "fab":
                within = unbroken & (distance <= sizes[k])
                images[within], unbroken[within] = near[within], False
            cost.unbroken.setdefault(name, [0] * len(sizes))[k] += int(unbroken.sum())
            if progress:
                stages, stage = len(sizes) * len(attacks), stage + 1
                progress(n * stage // stages - n * (stage - 1) // stages)
        made[k] = images.copy()
    made = tf.stack([made[k] for k in range(len(sizes))])
    return made[0] if np.ndim(eps) == 0 else made
