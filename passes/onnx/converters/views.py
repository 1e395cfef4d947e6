"""Operators that move or rename data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from joulec.passes.graph import Concat, Reshape, Split, Transpose
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
    "Identity": identity,
    "Cast": identity,
    "Dropout": dropout,
}
