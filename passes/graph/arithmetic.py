"""Arithmetic on constant weights: an operator applied to constants, kept as an expression until export.

Like the expressions of `weights`, these have a normal form: products of products are one chain, scales of scales one
scale with its factors in the order of their keys, and a concatenation stays outermost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from joulec.passes.graph.operators import Binary, MatMul, Operator
from joulec.passes.graph.values import content_key
from joulec.passes.graph.weights import Array, Concatenated, Literal, Weight, concatenated, literal, reshaped, sliced

_PRODUCT = MatMul()


@dataclass(frozen=True, slots=True)
class Applied(Weight):
    """An operator of two operands applied to constants from left to right; computed in float64 and rounded once."""

    op: Operator = field(compare=False)
    parts: tuple[Weight, ...] = field(compare=False)

    __hash__ = Weight.__hash__

    def value(self) -> Array:
        first, *rest = [part.value().astype(np.float64) for part in self.parts]
        for part in rest:
            (first,) = self.op.evaluate(first, part)
        return np.asarray(first, dtype=self.type.dtype, order="C")


def multiplied(first: Weight, second: Weight) -> Weight:
    """The matrix product of matrices, in normal form."""
    if isinstance(second, Concatenated) and second.axis == 1:
        return concatenated(tuple(multiplied(first, part) for part in second.parts), 1)
    if isinstance(first, Concatenated) and first.axis == 0:
        return concatenated(tuple(multiplied(part, second) for part in first.parts), 0)
    return _applied(_PRODUCT, (first, second))


def times(weight: Weight, factor: Weight) -> Weight:
    """A weight times a constant that broadcasts to its shape, in normal form."""
    return _scaled(Binary("mul"), weight, factor)


def over(weight: Weight, divisor: Weight) -> Weight:
    """A weight divided by a constant that broadcasts to its shape, in normal form."""
    return _scaled(Binary("div"), weight, divisor)


def negated(weight: Weight) -> Weight:
    """The weight with its sign changed."""
    return times(weight, literal(np.full((1,) * len(weight.type.shape), -1, weight.type.dtype)))


def reciprocal(weight: Weight) -> Weight:
    """One over each element."""
    return over(literal(np.ones(weight.type.shape, weight.type.dtype)), weight)


def along(vector: Weight, axis: int, rank: int) -> Weight:
    """A vector as a constant of a rank that varies along one axis alone."""
    shape = [1] * rank
    shape[axis] = vector.type.size
    return reshaped(vector, tuple(shape))


def is_filled_with(weight: Weight, number: float) -> bool:
    """Whether every element of a constant that the model holds is this number; an expression is not computed."""
    return isinstance(weight, Literal) and bool((weight.array == number).all())


def _scaled(op: Operator, weight: Weight, factor: Weight) -> Weight:
    rank = len(weight.type.shape)
    shape = (1,) * (rank - len(factor.type.shape)) + factor.type.shape
    if isinstance(weight, Concatenated):
        factor, parts, at = reshaped(factor, shape), [], 0
        for part in weight.parts:
            size = part.type.shape[weight.axis]
            own = factor if shape[weight.axis] == 1 else sliced(factor, weight.axis, at, at + size)
            parts.append(_scaled(op, part, own))
            at += size
        return concatenated(tuple(parts), weight.axis)
    if isinstance(weight, Applied) and weight.op == op:
        first, *rest = weight.parts
        return _chain(op, (first, *sorted((*rest, factor), key=lambda part: part.key)))
    return _chain(op, (weight, factor))


def _applied(op: Operator, parts: tuple[Weight, ...]) -> Weight:
    flat: list[Weight] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Applied) and part.op == op else (part,))
    return _chain(op, tuple(flat))


def _chain(op: Operator, parts: tuple[Weight, ...]) -> Weight:
    type = parts[0].type
    for part in parts[1:]:
        (type,) = op.infer((type, part.type))
    return Applied(content_key("applied", repr(op), *(part.key for part in parts)), type, op, parts)
