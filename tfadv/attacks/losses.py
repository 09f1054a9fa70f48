"""Losses per image, to be maximised: functions of (logits (N, K), y (N,), target (N,) or None) → float32 (N,).

`y` is the true class.  A targeted attack maximises the negative loss of its
target class.  Only the losses whose names end in "-t" use `target`.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfadv.errors import check_name

_TINY = 1e-12


def cross_entropy(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor | None = None) -> tf.Tensor:
    """-log softmax(z)_y."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)


def margin(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor | None = None) -> tf.Tensor:
    """max_{j≠y} z_j - z_y: above 0 where y is not predicted (Carlini & Wagner 2016, https://arxiv.org/abs/1608.04644)."""
    own = tf.one_hot(y, logits.shape[-1], on_value=True, off_value=False)
    return tf.reduce_max(tf.where(own, logits.dtype.min, logits), axis=1) - _at(logits, y)


def dlr(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor | None = None) -> tf.Tensor:
    """The margin over z_π1 - z_π3, the gap between the largest and the third largest logit; needs three classes.

    Croce & Hein 2020, https://arxiv.org/abs/2003.01690, eq. 6.  Scaling the logits
    does not change it, while it makes the gradient of the cross-entropy vanish.
    """
    largest = tf.math.top_k(logits, 3).values
    return margin(logits, y) / (largest[:, 0] - largest[:, 2] + _TINY)


def margin_to_target(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """z_t - z_y: above 0 where the target is more likely than the true class."""
    return _at(logits, target) - _at(logits, y)


def dlr_to_target(logits: tf.Tensor, y: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """z_t - z_y over z_π1 - (z_π3 + z_π4) / 2; needs four classes (Croce & Hein 2020, eq. 7)."""
    largest = tf.math.top_k(logits, 4).values
    return margin_to_target(logits, y, target) / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + _TINY)


def _at(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, y, batch_dims=1)


LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "ce": cross_entropy,
    "cw": margin,
    "dlr": dlr,
    "cw-t": margin_to_target,
    "dlr-t": dlr_to_target,
}
FALLBACKS = {"dlr": (3, "cw"), "dlr-t": (4, "cw-t")}  # loss → (number of classes that it needs, its replacement)


def resolve_loss(name: str, classes: int) -> str:
    """The loss used for a model with this many classes: `name`, or its replacement where there are too few.

    With two classes there is no third logit and with three no fourth, so DLR
    is replaced by its numerator, the margin.  DLR's denominator protects it from
    scaled logits; the direction of the margin's gradient does not depend on the scale either.

    Args:
      name: a key of `LOSSES`.
      classes: the number of logits.

    Returns:
      A key of `LOSSES`.

    Raises:
      UserError: the loss is unknown.
    """
    check_name("loss", name, LOSSES)
    needed, replacement = FALLBACKS.get(name, (0, name))
    return name if classes >= needed else replacement
