"""What has to be known of a model before its robust accuracy is believed: `measure`.

A defence may hide the gradient instead of becoming robust; attacks that need it then fail, and the accuracy under them
says nothing (Athalye et al. 2018, https://arxiv.org/abs/1802.00420). `measure` runs the attacks that give this away
on few images and writes down what happened; `verdict.judge` says what it means.
"""

import time

import numpy as np
import tensorflow as tf

from tfadv.attacks import apgd, fgsm, gradient, pgd, square
from tfadv.attacks.cost import Cost
from tfadv.attacks.fgsm import direction

_SUM = 1e-3  # how far from 1 the sum of probabilities may be: bfloat16 rounds by so much
_RUNS = 3  # forward passes that have to agree


def measure(
    model,
    x,
    y,
    eps,
    *,
    surrogate=None,
    steps=20,
    more=5,
    targets=3,
    queries=1000,
    batch_size=128,
    seed=0,
    clip=(0.0, 1.0),
):
    """Attacks a few images in all the ways that tell robustness from masked gradients.

    An image that survives everything costs steps · (more · (targets + 4) + 1) + 2 gradients and about as many
    forward passes as `queries`; one that is broken early costs far less.

    The attacks, all of them within the max-norm, `pgd` on the cross-entropy with steps of 2.5 · eps / steps, with
    which the end of the ball is in reach (Madry et al. 2017, https://arxiv.org/abs/1706.06083, their L2 attack):

        fgsm           one step
        pgd            `steps` steps
        pgd-steps      `more` times the steps, each so much smaller
        pgd-restarts   `more` restarts
        pgd-large      pgd-steps with eps of half the range of `clip`
        grey           no attack but an image all of whose pixels are in the middle of `clip`: within that eps of any
        apgd-ce        Auto-PGD of `more` · `steps` steps on the cross-entropy
        apgd-t         the same on the targeted DLR loss, which scaled logits do not change, to `targets` classes
        square         Square Attack, which sees no gradient, on all images
        transfer       pgd-steps on the surrogate, where there is one

    Args:
      model: a Keras model from float32 images (N, H, W, C) to logits (N, K); run with `training=False`.
      x: float32 (N, H, W, C) in `clip`; 128 to 256 images tell enough, with 16 a single image decides.
      y: int (N,), the true classes.
      eps: a number > 0 in the unit of x: the size of perturbation whose robust accuracy is in question.
      surrogate: another such model, trained without the defence, or None.
      steps: int >= 1.
      more: int >= 2.
      targets: int >= 1; K - 1 at most are used.
      queries: int >= 1, of Square Attack.
      batch_size: int >= 1, images that are worked on at once.
      seed: int.
      clip: (least, greatest) value of a pixel.

    Returns:
      dict that JSON can hold. A value for each image is a str of N characters "0" and "1":
        "n", "eps", "seed", "settings": what was asked for.
        "probability_rows": int, outputs that are all in [0, 1] and sum to 1.
        "change": float, how far the outputs of two forward passes differ at most, as a share of their L2 norm.
        "clean": {"accuracy": float in [0, 1], "right": str}.
        "refused": None, or str, why the attacks refuse the model; the following are then empty.
        "zero_gradient": str, 1 where the gradient of the cross-entropy at the image is 0 (or NaN) in every pixel.
        "attacks": dict of name → {"eps": float,
          "right": str, whether the model is right on the adversarial image, even if it is wrong on the image itself,
          "accuracy": float in [0, 1], the robust accuracy, for which it has to be right on both,
          "seconds": float, compilation included, "gradients": int, "forwards": int}.

    Raises:
      ValueError: an argument of the wrong type, shape or range, an output for x that is NaN or infinite, or a surrogate
        whose last layer is a softmax.
    """
    counts = dict(steps=steps, more=more, targets=targets, queries=queries, batch_size=batch_size)
    x, y, sizes = gradient.check(None, x, y, eps, clip, **counts)  # no model: it may be one that attacks refuse
    if np.ndim(eps) or not eps > 0:
        raise ValueError(f"eps must be one number above 0, got {eps}.")
    if more < 2:
        raise ValueError(f"more must be at least 2, got {more}.")
    if not len(y):
        raise ValueError("there must be at least one image.")

    def batched(function, *arrays):
        starts = range(0, len(y), batch_size)
        return np.concatenate([function(*(a[i : i + batch_size] for a in arrays)) for i in starts])

    def outputs(images):
        return batched(lambda some: gradient.compiled_logits(model, some, jit_compile=gradient.xla()).numpy(), images)

    runs = [outputs(x) for _ in range(_RUNS)]
    if not np.isfinite(runs).all():
        raise ValueError("the model's outputs for x must be finite, got NaN or infinity.")
    first, labels = runs[0], y.numpy()
    right = np.argmax(first, axis=1) == labels
    rows = ((first >= 0) & (first <= 1)).all(axis=1) & (np.abs(first.sum(axis=1) - 1) <= _SUM)
    facts = {
        "n": len(labels),
        "eps": float(eps),
        "seed": int(seed),
        "settings": {name: int(count) for name, count in counts.items()} | {"clip": [float(limit) for limit in clip]},
        "probability_rows": int(rows.sum()),
        "change": max(_change(first, run) for run in runs[1:]),
        "clean": {"accuracy": float(right.mean()), "right": _string(right)},
        "refused": None,
        "zero_gradient": "",
        "attacks": {},
    }
    try:
        gradient.check(model, x, y, eps, clip)
    except ValueError as error:
        if not rows.all():
            raise
        return facts | {"refused": str(error)}

    where = batched(lambda *some: direction(model, *some, jit_compile=gradient.xla()).numpy(), x, y)
    facts["zero_gradient"] = _string(~where.any(axis=(1, 2, 3)))
    plan = _plan(model, surrogate, float(sizes[0]), clip, steps, more, targets, queries)
    for name, (attack, victim, size, options) in plan.items():
        cost, start = Cost(), time.perf_counter()
        options = options | dict(seed=seed, clip=clip, cost=cost)
        made = batched(lambda *some: attack(victim, *some, size, **options).numpy(), x, y)
        survives = np.argmax(outputs(made), axis=1) == labels
        facts["attacks"][name] = {
            "eps": size,
            "right": _string(survives),
            "accuracy": float((right & survives).mean()),
            "seconds": time.perf_counter() - start,
            "gradients": cost.gradients,
            "forwards": cost.forwards,
        }
    return facts


def _plan(model, surrogate, eps, clip, steps, more, targets, queries):
    """dict of name → (attack, model that it sees, eps, options)."""

    def descent(victim, size, steps, restarts=1, until_broken=True):
        options = dict(steps=steps, step_size=2.5 * size / steps, restarts=restarts, until_broken=until_broken)
        return pgd, victim, size, options

    many, half = more * steps, (clip[1] - clip[0]) / 2
    plan = {
        "fgsm": (fgsm, model, eps, {}),
        "pgd": descent(model, eps, steps),
        "pgd-steps": descent(model, eps, many),
        "pgd-restarts": descent(model, eps, steps, restarts=more),
        "pgd-large": descent(model, half, many),
        "grey": (_grey, model, half, {}),
        "apgd-ce": (apgd, model, eps, dict(loss="ce", steps=many)),
        "apgd-t": (apgd, model, eps, dict(loss="dlr-t", steps=many, targets=targets)),
        "square": (square, model, eps, dict(steps=queries)),
    }
    if surrogate is not None:
        # Going on after the surrogate's boundary is crossed carries over better.
        plan["transfer"] = descent(surrogate, eps, many, until_broken=False)
    return plan


def _grey(model, x, y, eps, *, seed, clip, cost):
    """Takes its arguments as all attacks do."""
    return tf.fill(x.shape, np.float32(sum(clip) / 2))


def _change(a, b):
    """The greatest ||a - b|| / ||a|| of a row, float."""
    return float(np.max(np.linalg.norm(a - b, axis=1) / (np.linalg.norm(a, axis=1) + 1e-10)))


def _string(flags):
    return "".join("1" if flag else "0" for flag in flags)
