"""The momentum iterative FGSM (Dong et al. 2017, https://arxiv.org/abs/1710.06081)."""

import numpy as np

from tfadv.attacks.pgd import descend


def mifgsm(
    model,
    x,
    y,
    eps,
    *,
    decay=1.0,
    steps=10,
    step_size=None,
    until_broken=False,
    targeted=False,
    seed=0,
    clip=(0.0, 1.0),
    cost=None,
):
    """Adversarial images of steps along the sign of a running sum of gradients, each divided by its own L1 norm.

    Algorithm 1: g ← decay · g + ∇ / ||∇||₁, x ← x + step_size · sign(g).  The sum
    holds course where single gradients waver, and so carries over better to
    other models.  With decay 0 it is `bim`.

    Args:
      model, x, y, eps, until_broken, targeted, clip, cost: as `pgd` takes them.
      decay: a number >= 0, how much of the sum is kept at each step.
      steps: int >= 1, gradients an image costs for each eps.
      step_size: a number > 0 in the unit of x; eps / steps where it is None, as in the paper.
      seed: int, of no use here: every attack takes one.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No pixel is
      further from x than eps, or outside of `clip`.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
    """
    if not 0 <= decay < np.inf:
        raise ValueError(f"decay must be at least 0 and finite, got {decay}.")
    if step_size is not None and not 0 < step_size < np.inf:
        raise ValueError(f"step_size must be above 0 and finite, got {step_size}.")
    return descend(
        *(model, x, y, eps),
        length=lambda size: size / steps if step_size is None else step_size,
        decay=decay,
        random_start=False,
        loss="ce",
        norm="linf",
        steps=steps,
        restarts=1,
        until_broken=until_broken,
        targeted=targeted,
        seed=seed,
        clip=clip,
        cost=cost,
    )
