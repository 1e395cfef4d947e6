"""Operators that move or rename data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from joulec.passes.graph import Concat, Pad, Reshape, Split, Transpose
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Converter, Source


def reshape(source: Source) -> Sequence[Operand] | None:
    """Reshape, Flatten, Squeeze, Unsqueeze: shape inference has told the result's shape."""
    return source.emit(Reshape(source.result_types[0].shape), source.operand(0))


def transpose(source: Source) -> Sequence[Operand] | None:
    """The axes are reversed where no permutation is given."""
    rank = len(source.operand(0).type.shape)
    return source.emit(Transpose(tuple(source.attribute("perm", range(rank)[::-1]))), source.operand(0))


def concat(source: Source) -> Sequence[Operand] | None:
    """Along an axis that may count from the end."""
    rank = len(source.result_types[0].shape)
    return source.emit(Concat(source.attribute("axis") % rank), *source.operands)


def split(source: Source) -> Sequence[Operand] | None:
    """The sizes are those of the results; one that nobody asked for makes the sum fall short, which is refused."""
    axis = source.attribute("axis", 0) % len(source.operand(0).type.shape)
    return source.emit(Split(axis, tuple(result.shape[axis] for result in source.result_types)), source.operand(0))


def pad(source: Source) -> Sequence[Operand] | None:
    """Constant mode, amounts and value known, none negative (that would crop)."""
    data = source.operand(0).type
    older = source.opset < 11
    amounts = source.attribute("pads") if older else source.constant(1)
    fill = source.attribute("value", 0.0) if older else source.constant(2) if source.has(2) else 0.0
    if source.attribute("mode", "constant") != "constant" or amounts is None or fill is None:
        return None
    chosen = [*range(len(data.shape))]
    if source.has(3):
        axes = source.constant(3)
        if axes is None:
            return None
        chosen = [int(axis) % len(data.shape) for axis in np.ravel(axes)]
    flat = [int(amount) for amount in np.ravel(amounts)]
    value = float(np.ravel(fill)[0])
    if min(flat, default=0) < 0 or np.isnan(value) or len(flat) != 2 * len(chosen):
        return None
    pads = [(0, 0)] * len(data.shape)
    for index, axis in enumerate(chosen):
        pads[axis] = (flat[index], flat[index + len(chosen)])
    return source.emit(Pad(tuple(pads), value), source.operand(0))


def identity(source: Source) -> Sequence[Operand] | None:
    """Identity, and Cast from float32 to float32."""
    return None if source.constant(0) is not None else [source.operand(0)]


def dropout(source: Source) -> Sequence[Operand] | None:
    """At inference it is the identity; its mask is not modelled."""
    training = source.constant(2)
    decided = not source.has(2) or (training is not None and not bool(training))
    return identity(source) if decided and len(source.outputs) == 1 else None


CONVERTERS: Mapping[str, Converter] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Pad": pad,
    "Identity": identity,
    "Cast": identity,
    "Dropout": dropout,
}
