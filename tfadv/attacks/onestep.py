"""The one-step target class method (Kurakin et al. 2016, https://arxiv.org/abs/1611.01236; the paper's eq. 2)."""

from tfadv.attacks import gradient, targets
from tfadv.attacks.fgsm import fgsm


def onestep(model, x, y, eps, *, target="least-likely", seed=0, clip=(0.0, 1.0), cost=None):
    """Adversarial images of one step towards another class: clip(x - eps · sign ∇ J(x, target)).

    Args:
      model, x, eps, clip, cost: as `fgsm` takes them.
      y: int (N,), the true classes.
      target: "least-likely", "random", or int (N,), the classes to move towards.
      seed: int, of random targets.

    Returns:
      tf.Tensor, float32 (N, H, W, C); (E, N, H, W, C) where `eps` is a sequence. No pixel is
      further from x than eps, or outside of `clip`.

    Raises:
      ValueError: an argument of the wrong type, shape or range, or a model whose last layer is a softmax.
      UserError: an unknown rule for targets.
    """
    if isinstance(target, str):
        x, y, _ = gradient.check(model, x, y, eps, clip)
        target = targets.choose(target, model, x, y, seed)
        if cost is not None:
            cost.add(forwards=len(y))
    return fgsm(model, x, target, eps, targeted=True, clip=clip, cost=cost)
