"""The basic iterative method (Kurakin et al. 2016, https://arxiv.org/abs/1607.02533; the paper's eq. 3)."""

from tfadv.attacks.pgd import pgd


def bim(
    model,
    x,
    y,
    eps,
    *,
    steps=10,
    step_size=None,
    until_broken=False,
    targeted=False,
    seed=0,
    clip=(0.0, 1.0),
    cost=None,
):
    """Adversarial images of FGSM in several small steps from x, each clipped to the ball of radius eps.

    It is `pgd` in the L-infinity ball without the random start.

    Args:
      model, x, y, eps, until_broken, targeted, clip, cost: as `pgd` takes them.
      steps: int >= 1, gradients an image costs for each eps.
      step_size: a number > 0 in the unit of x; eps / 4 where it is None.
      seed: int, of no use here: every attack takes one.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No pixel is
      further from x than eps, or outside of `clip`.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
    """
    return pgd(
        *(model, x, y, eps),
        steps=steps,
        step_size=step_size,
        random_start=False,
        until_broken=until_broken,
        targeted=targeted,
        seed=seed,
        clip=clip,
        cost=cost,
    )
