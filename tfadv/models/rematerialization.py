"""Rematerialization (gradient checkpointing): less memory for the backward pass, at the cost of another forward pass.

A backward pass needs the activations of the forward pass.  A rematerialized model
keeps only the activations at the boundaries of its segments, and recomputes those
inside a segment when the backward pass reaches it: Chen et al. 2016, "Training
Deep Nets with Sublinear Memory Cost" (https://arxiv.org/abs/1604.06174).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfadv.errors import UserError
from tfadv.models.accelerate import nested_clone


def rematerialized(model: keras.Model) -> keras.Model:
    """A model of the same layers whose backward pass takes less memory.

    The model can be cut wherever only one tensor crosses the cut, for example after
    each block of a ResNet.  Of several ways to cut, it takes the one with the least
    memory for the kept activations plus the largest segment.  Outputs, gradients and
    updates of variables equal those of `model`, if layers draw random numbers from a
    `keras.random.SeedGenerator` of their own, as Keras' layers do.  A backward pass
    takes another forward pass of all segments but the last.

    Args:
      model: a clone of `tfadv.models.accelerate.accelerated`.

    Returns:
      A functional model that shares the layers of `model`.

    Raises:
      UserError: the model has several inputs or outputs, or can't be cut.
    """
    cut = _cut(model)
    if cut is None:
        raise UserError(f"--rematerialize can't cut {model.name} into segments: leave it out, or use --batch_parts.")
    return cut


def _cut(model: keras.Model) -> keras.Model | None:
    """The model as a chain of segments, or None if there would be only one."""
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        return None
    segments: list[tuple[list[Any], keras.Model | None]] = []  # operations; the nested model that they are, if any
    pieces = [(piece, _nested_in(piece)) for piece in _pieces(model)]
    for is_plain, run in itertools.groupby(pieces, key=lambda pair: pair[1] is None):
        segments += [(s, None) for s in _grouped([piece for piece, _ in run])] if is_plain else run
    if len(segments) == 1 and segments[0][1] is None:
        return None
    x = start = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
    before = model.inputs[0]
    for number, (operations, nested) in enumerate(segments):
        # The backward pass begins with the last segment, whose activations are still in memory.
        kind = _Segment if operations is segments[-1][0] else _Rematerialized
        x = (nested or kind(before, operations, name=f"segment_{number}"))(x)
        before = operations[-1].output
    return keras.Model(start, x, name=model.name)


def _nested_in(piece: Sequence[Any]) -> keras.Model | None:
    """The chain of segments of a nested model that is the only operation of a piece, or None."""
    nested = nested_clone(piece[0]) if len(piece) == 1 else None
    return None if nested is None else _cut(nested)


def _pieces(model: keras.Model) -> list[list[Any]]:
    """The operations in order, split after each whose output is the only tensor that is needed later."""
    operations = [o for o in model.operations if not isinstance(o, keras.layers.InputLayer)]
    last_use = {id(tensor): i for i, o in enumerate(operations) for tensor in keras.tree.flatten(o.input)}
    pieces: list[list[Any]] = [[]]
    live = {id(model.inputs[0])}
    for i, operation in enumerate(operations):
        pieces[-1].append(operation)
        live |= {id(tensor) for tensor in keras.tree.flatten(operation.output)}
        live = {tensor for tensor in live if last_use.get(tensor, -1) > i}
        if live == {id(operation.output)}:
            pieces.append([])
    return pieces


def _grouped(pieces: Sequence[list[Any]]) -> list[list[Any]]:
    """Joins adjacent pieces into segments that need little memory."""
    sizes = [sum(_size(o.output) for o in piece) for piece in pieces]
    kept = [_size(piece[-1].output) for piece in pieces]

    def bounds(limit: int) -> list[int]:
        """The ends of segments of at most `limit` bytes per image; a larger piece is a segment of its own."""
        ends, total = [], 0
        for i, size in enumerate(sizes):
            if total and total + size > limit:
                ends.append(i)
                total = 0
            total += size
        return [*ends, len(sizes)]

    def memory(ends: Sequence[int]) -> int:
        starts = [0, *ends[:-1]]
        largest = max(sum(sizes[start:end]) for start, end in zip(starts, ends, strict=True))
        return largest + sum(kept[end - 1] for end in ends[:-1])

    ends = min((bounds(sum(sizes) // number) for number in range(1, len(sizes) + 1)), key=memory)
    return [sum(pieces[start:end], []) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _size(tensors: Any) -> int:
    """Bytes per image; an unknown dimension counts as 1."""
    return sum(
        math.prod(n or 1 for n in tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size
        for tensor in keras.tree.flatten(tensors)
    )


class _Segment(keras.layers.Layer):
    """Consecutive operations of a model, as one layer."""

    def __init__(self, start: keras.KerasTensor, operations: Sequence[Any], name: str) -> None:
        super().__init__(name=name, autocast=False)
        self.start, self.operations = start, tuple(operations)
        self.built = True

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self._compute(x, training)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        end = self.operations[-1].output
        return keras.KerasTensor(end.shape, end.dtype)

    def _compute(self, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        computed = {id(self.start): x}
        for operation in self.operations:
            node = operation._inbound_nodes[0]
            arguments, named = node.arguments.fill_in(computed)
            if isinstance(operation, keras.layers.Layer) and training is not None:
                # Not inherited: a layer that calls another one with a `training` of its own leaves that to the next.
                named["training"] = training
            x = operation(*arguments, **named)
            computed |= zip(map(id, node.outputs), keras.tree.flatten(x), strict=True)
        return x


class _Rematerialized(_Segment):
    """A segment whose activations the backward pass recomputes."""

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        # Variables that a forward pass updates, such as BatchNorm's moving statistics and the states of random numbers.
        states = [(v, tf.identity(v)) for v in self.non_trainable_variables]
        passes = 0

        def compute(x: tf.Tensor) -> tf.Tensor:
            nonlocal passes
            passes += 1
            if passes == 1:
                return self._compute(x, training)
            with keras.StatelessScope(states):  # starts from the same states, and updates nothing
                return self._compute(x, training)

        return tf.recompute_grad(compute)(x)
