"""Functions of several elements; operands broadcast as in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of
from joulec.passes.relax.lowering.unary import c, cast_scalar

Function = Callable[..., Any]


def element(x: Any, indices: Sequence[Any]) -> Any:
    """The element of a tensor that stands for a place of a result to which it broadcasts."""
    own = list(indices)[len(indices) - len(x.shape) :]
    return x[tuple(0 if int(size) == 1 else index for size, index in zip(x.shape, own, strict=True))]


def broadcast(site: Site, function: Function, operands: Sequence[Any]) -> Any:
    """The function of the operands' elements, broadcast."""
    shape = np.broadcast_shapes(*(tuple(int(d) for d in operand.ty.shape.values) for operand in operands))

    def whole(*tensors: Any) -> Any:
        return te.compute(shape, lambda *i: function(*(element(x, i) for x in tensors)))

    return site.te(whole, *operands)


def _aligned(site: Site) -> list[Any] | None:
    """Both operands; before opset 7, the second may start at an axis of the first."""
    operands = list(site.operands)
    axis = site.attribute("axis")
    if site.opset >= 7 or axis is None or len(operands) != 2:
        return operands
    rank, own = len(site.shape(0)), site.shape(1)
    return [operands[0], site.reshape(operands[1], (*own, *[1] * (rank - axis - len(own))))]


def _two(function: Function, kinds: str = "biuf") -> Lowering:
    """A function of two elements whose type is of one of the kinds (b, i, u, f)."""

    def lowering(site: Site) -> Exprs | None:
        operands = _aligned(site)
        if site.dtype(0)[0] not in kinds or operands is None:
            return None
        return [broadcast(site, function, operands)]

    return lowering


def _many(function: Function) -> Lowering:
    """A function of two elements over one or more operands, from left to right."""

    def lowering(site: Site) -> Exprs:
        def chain(first: Any, *rest: Any) -> Any:
            for value in rest:
                first = function(first, value)
            return first

        return [broadcast(site, chain, site.operands)]

    return lowering


def _mean(site: Site) -> Exprs:
    count = len(site.operands)

    def function(*values: Any) -> Any:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total / c(total, count)

    return [broadcast(site, function, site.operands)]


def quotient(a: Any, b: Any) -> Any:
    """Integers are divided towards zero; what has no quotient gives 0 rather than stopping the process."""
    if dtype_of(a).startswith("float"):
        return a / b
    safe = tirx.if_then_else(b == c(b, 0), c(a, 0), tirx.truncdiv(a, tirx.Select(b == c(b, 0), c(b, 1), b)))
    if dtype_of(a).startswith("uint"):
        return safe
    return tirx.if_then_else(b == c(b, -1), c(a, 0) - a, safe)


def _differ(one: Any, other: Any) -> Any:
    return tirx.any(tirx.all(one, tirx.Not(other)), tirx.all(tirx.Not(one), other))


def _mod(site: Site) -> Exprs | None:
    """The sign is the divisor's; with ``fmod`` the dividend's, as in C."""
    like_c = bool(site.attribute("fmod", 0))

    def function(a: Any, b: Any) -> Any:
        if dtype_of(a).startswith("float"):
            rest = tirx.call_extern("float64", "fmod", tirx.Cast("float64", a), tirx.Cast("float64", b))
            rest = tirx.Cast(dtype_of(a), rest)
        else:
            divisor = tirx.Select(
                tirx.any(b == c(b, 0), b == c(b, -1) if dtype_of(a)[0] == "i" else b == c(b, 0)), c(b, 1), b
            )
            rest = tirx.if_then_else(b == c(b, 0), c(a, 0), tirx.truncmod(a, divisor))
        if like_c or dtype_of(a).startswith("uint"):
            return rest
        return tirx.Select(tirx.all(rest != c(a, 0), _differ(rest < c(a, 0), b < c(b, 0))), rest + b, rest)

    return [broadcast(site, function, site.operands)]


def _power(site: Site) -> Exprs:
    """The result has the base's type; whole exponents of whole bases stay exact up to 53 bits."""

    def function(a: Any, b: Any) -> Any:
        wide = "float32" if dtype_of(a) == "float32" and dtype_of(b) == "float32" else "float64"
        return cast_scalar(tirx.pow(tirx.Cast(wide, a), tirx.Cast(wide, b)), dtype_of(a))

    return [broadcast(site, function, site.operands)]


def _shift(site: Site) -> Exprs:
    left = site.attribute("direction") == "LEFT"

    def function(a: Any, b: Any) -> Any:
        bits = int(dtype_of(a).removeprefix("u").removeprefix("int"))
        beyond = tirx.any(b < c(b, 0), b >= c(b, bits))
        amount = tirx.Select(beyond, c(b, 0 if left else bits - 1), b)
        moved = a << amount if left else a >> amount
        return tirx.Select(beyond, c(a, 0), moved) if left or dtype_of(a).startswith("uint") else moved

    return [broadcast(site, function, site.operands)]


def _where(site: Site) -> Exprs:
    return [broadcast(site, lambda chosen, a, b: tirx.Select(chosen, a, b), site.operands)]


def _prelu(site: Site) -> Exprs | None:
    """Before opset 9, a slope per channel lies along axis 1."""
    slope = site.operands[1]
    if site.opset < 9 and len(site.shape(1)) == 1 and len(site.shape(0)) > 1:
        slope = site.reshape(slope, (-1, *[1] * (len(site.shape(0)) - 2)) if site.shape(1)[0] != 1 else (1,))
    return [broadcast(site, lambda x, s: tirx.Select(x < c(x, 0), s * x, x), [site.operands[0], slope])]


def _compare(function: Function) -> Lowering:
    def lowering(site: Site) -> Exprs | None:
        operands = _aligned(site)
        return None if operands is None else [broadcast(site, function, operands)]

    return lowering


def _equal(a: Any, b: Any) -> Any:
    return tirx.Not(a != b) if dtype_of(a) == "bool" else a == b


def _larger(a: Any, b: Any) -> Any:
    """The larger one; what is no number wins."""
    chosen = tirx.Select(a > b, a, b)
    return tirx.Select(tirx.isnan(a), a, chosen) if dtype_of(a).startswith("float") else chosen


def _smaller(a: Any, b: Any) -> Any:
    chosen = tirx.Select(a < b, a, b)
    return tirx.Select(tirx.isnan(a), a, chosen) if dtype_of(a).startswith("float") else chosen


LOWERINGS: Mapping[str, Lowering] = {
    "Add": _two(lambda a, b: a + b, "iuf"),
    "Sub": _two(lambda a, b: a - b, "iuf"),
    "Mul": _two(lambda a, b: a * b, "iuf"),
    "Div": _two(quotient, "iuf"),
    "Sum": _many(lambda a, b: a + b),
    "Max": _many(_larger),
    "Min": _many(_smaller),
    "Mean": _mean,
    "Mod": _mod,
    "Pow": _power,
    "And": _two(lambda a, b: tirx.all(a, b), "b"),
    "Or": _two(lambda a, b: tirx.any(a, b), "b"),
    "Xor": _two(_differ, "b"),
    "BitShift": _shift,
    "BitwiseAnd": _two(lambda a, b: a & b, "iu"),
    "BitwiseOr": _two(lambda a, b: a | b, "iu"),
    "BitwiseXor": _two(lambda a, b: a ^ b, "iu"),
    "Equal": _compare(_equal),
    "Greater": _compare(lambda a, b: a > b),
    "GreaterOrEqual": _compare(lambda a, b: a >= b),
    "Less": _compare(lambda a, b: a < b),
    "LessOrEqual": _compare(lambda a, b: a <= b),
    "Where": _where,
    "PRelu": _prelu,
}
