"""Rematerialization: a backward pass that takes less memory and one more forward pass.

A backward pass needs the activations of the forward pass.  A rematerialized model
keeps only those between its segments, and computes those within a segment again
when the backward pass reaches it: Chen et al. 2016, "Training Deep Nets with
Sublinear Memory Cost" (https://arxiv.org/abs/1604.06174).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfadv.errors import UserError


def rematerialized(model: keras.Model) -> keras.Model:
    """A model of the same layers whose backward pass takes less memory.

    The model is cut where a single tensor connects what is before with what is
    after, such as behind each block of a ResNet.  Of the cuts, it takes those
    with which the kept activations and those of the largest segment together are
    smallest.  Results and updates of variables are those of `model`; the backward
    pass takes one more forward pass of all segments but the last.

    Args:
      model: a functional model of one input and one output that uses each layer once.

    Returns:
      A functional model that shares the layers of `model`.

    Raises:
      UserError: the model has several inputs or outputs.
    """
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        raise UserError(f"{model.name} can't be rematerialized: it has several inputs or outputs.")
    pieces = _pieces(model)
    *segments, last = _grouped(pieces)
    x = start = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
    end = model.inputs[0]
    for number, operations in enumerate(segments):
        segment = _Segment(end, operations, name=f"segment_{number}")
        x, end = _Rematerialized(segment)(x), operations[-1].output
    return keras.Model(start, _Segment(end, last, name="last_segment")(x), name=model.name)


def _pieces(model: keras.Model) -> list[list[Any]]:
    """The operations of a model in order, cut wherever a single tensor is needed later on."""
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
    """Joins neighbouring pieces to the segments that take the least memory."""
    sizes = [sum(_size(o.output) for o in piece) for piece in pieces]
    kept = [_size(piece[-1].output) for piece in pieces]

    def bounds(limit: int) -> list[int]:
        """The ends of segments of at most `limit` activations, or of a single piece."""
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
    """The bytes of tensors for each image; an unknown side counts as 1."""
    return sum(
        math.prod(n or 1 for n in tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size
        for tensor in keras.tree.flatten(tensors)
    )


class _Segment(keras.layers.Layer):
    """Some successive operations of a model, as a layer."""

    def __init__(self, start: keras.KerasTensor, operations: Sequence[Any], name: str) -> None:
        super().__init__(name=name, autocast=False)
        self.layers = [o for o in operations if isinstance(o, keras.layers.Layer)]
        self._start, self._operations = start, tuple(operations)
        self.built = True

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        computed = {id(self._start): x}
        for operation in self._operations:
            # Layers inherit `training` from this call.
            arguments, named = operation._inbound_nodes[0].arguments.fill_in(computed)
            x = operation(*arguments, **named)
            computed |= zip(map(id, keras.tree.flatten(operation.output)), keras.tree.flatten(x), strict=True)
        return x

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        end = self._operations[-1].output
        return keras.KerasTensor(end.shape, end.dtype)


class _Rematerialized(keras.layers.Layer):
    """A segment whose activations the backward pass computes again."""

    def __init__(self, segment: _Segment) -> None:
        super().__init__(name=f"rematerialized_{segment.name}", autocast=False)
        self.segment = segment
        self.built = True

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        # What the layers update, such as the moving statistics of BatchNorm and the state of random numbers.
        states = [(v, tf.identity(v)) for v in self.segment.non_trainable_variables]
        calls = 0

        def compute(x: tf.Tensor) -> tf.Tensor:
            nonlocal calls
            calls += 1
            if calls == 1:
                return self.segment(x, training=training)
            with keras.StatelessScope(states):  # starts from the same states, and updates nothing
                return self.segment(x, training=training)

        return tf.recompute_grad(compute)(x)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        return self.segment.compute_output_spec()
