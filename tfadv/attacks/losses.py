"""Losses of single images, to be maximised: functions of (logits (N, K), y (N,), target (N,) or None) → float32 (N,).

`y` is the true class.  An attack towards a class maximises the negative loss of
that class, and only the losses that end in "-t" look at `target`.
"""

import tensorflow as tf

from tfadv.errors import check_name

_TINY = 1e-12


def cross_entropy(logits, y, target=None):
    """-log softmax(z)_y."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)


def margin(logits, y, target=None):
    """max_{j≠y} z_j - z_y: above 0 where y is not predicted (Carlini & Wagner 2016, https://arxiv.org/abs/1608.04644)."""
    own = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False)
    return tf.reduce_max(tf.where(own, logits.dtype.min, logits), axis=1) - _at(logits, y)


def dlr(logits, y, target=None):
    """The margin over z_π1 - z_π3, the gap between largest and third largest logit; needs three classes.

    Croce & Hein 2020, https://arxiv.org/abs/2003.01690, eq. 6.  Scaling the logits
    does not change it, while it makes the gradient of the cross-entropy vanish.
    """
    largest = tf.math.top_k(logits, 3).values
    return margin(logits, y) / (largest[:, 0] - largest[:, 2] + _TINY)


def margin_to_target(logits, y, target):
    """z_t - z_y: above 0 where the target is more likely than the true class."""
    return _at(logits, target) - _at(logits, y)


def dlr_to_target(logits, y, target):
    """z_t - z_y over z_π1 - (z_π3 + z_π4) / 2; needs four classes (Croce & Hein 2020, eq. 7)."""
    largest = tf.math.top_k(logits, 4).values
    return margin_to_target(logits, y, target) / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + _TINY)


def _at(logits, y):
    return tf.gather(logits, y, batch_dims=1)


LOSSES = {
    "ce": cross_entropy,
    "cw": margin,
    "dlr": dlr,
    "cw-t": margin_to_target,
    "dlr-t": dlr_to_target,
}
_TOO_FEW = {"dlr": (3, "cw"), "dlr-t": (4, "cw-t")}  # name → (classes it needs, what stands in for it)


def used(name, classes):
    """The loss that a model of so many classes is attacked with: `name`, or what stands in for it.

    With two classes there is no third logit and with three no fourth, so DLR
    gives way to its numerator, the margin.  What DLR divides by protects it from
    scaled logits; the margin's direction does not depend on their scale either.

    Args:
      name: str, a key of `LOSSES`.
      classes: int, the number of logits.

    Returns:
      str, a key of `LOSSES`.

    Raises:
      UserError: no such loss.
    """
    check_name("loss", name, LOSSES)
    needs, instead = _TOO_FEW.get(name, (0, name))
    return name if classes >= needs else instead
