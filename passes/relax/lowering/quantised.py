"""Quantised operators, exact to the last bit: products in int32, halves rounded to even, saturated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from joulec.passes.relax.lowering.binary import broadcast
from joulec.passes.relax.lowering.pooling import window_of
from joulec.passes.relax.lowering.products import conv_extents, convolve
from joulec.passes.relax.lowering.reduction import reduce
from joulec.passes.relax.lowering.site import Exprs, Lowering, Site
from joulec.passes.relax.lowering.unary import c

_WHOLE = ("int8", "uint8", "int16", "uint16")


def _along(site: Site, index: int, data: Sequence[int], axis: int, block: int) -> Any:
    """Scales or zero points laid along the data: one for all, one per place of an axis, or one per block of it."""
    shape = site.shape(index)
    operand = site.operands[index]
    if not shape or (len(shape) == 1 and shape[0] == 1 and data[axis if data else 0] != 1):
        return site.reshape(operand, ())
    if len(shape) == 1:
        return site.reshape(operand, [size if d == axis else 1 for d, size in enumerate(data) for size in [shape[0]]])
    if not block:
        return None

    def whole(x: Any) -> Any:
        return te.compute(data, lambda *i: x[tuple(p // block if d == axis else p for d, p in enumerate(i))])

    return site.te(whole, operand)


def saturated(value: Any, dtype: str) -> Any:
    """A whole number in floating point, in a type that holds less; halves were rounded before."""
    limits = np.iinfo(dtype)
    kept = tirx.max(tirx.min(value, c(value, float(limits.max))), c(value, float(limits.min)))
    return tirx.Cast(dtype, tirx.Cast("int32", kept))


def _parameters(site: Site) -> tuple[int, int, list[Any]] | None:
    """Axis, block size, and the scale and zero point along the data."""
    shape = site.shape(0)
    axis = site.attribute("axis", 1)
    axis = axis % len(shape) if shape and -len(shape) <= axis < len(shape) else 0
    block = site.attribute("block_size", 0)
    found = [_along(site, index, shape, axis, block) for index in (1, 2) if site.has(index)]
    return None if any(one is None for one in found) else (axis, block, found)


def _quantize(site: Site) -> Exprs | None:
    wanted = site.result.dtype if site.result is not None else site.dtype(2) if site.has(2) else "uint8"
    parameters = _parameters(site)
    if wanted not in _WHOLE or parameters is None or site.dtype(0) != "float32" or site.dtype(1) != "float32":
        return None

    def function(x: Any, scale: Any, *zero: Any) -> Any:
        moved = tirx.nearbyint(x / scale)
        return saturated(moved + tirx.Cast("float32", zero[0]) if zero else moved, wanted)

    return [broadcast(site, function, [site.operands[0], *parameters[2]])]


def _dequantize(site: Site) -> Exprs | None:
    parameters = _parameters(site)
    if site.dtype(0) not in (*_WHOLE, "int32") or parameters is None or site.dtype(1) != "float32":
        return None

    def function(x: Any, scale: Any, *zero: Any) -> Any:
        moved = tirx.Cast("int32", x) - (tirx.Cast("int32", zero[0]) if zero else tirx.const(0, "int32"))
        return tirx.Cast("float32", moved) * scale

    return [broadcast(site, function, [site.operands[0], *parameters[2]])]


def _dynamic_quantize(site: Site) -> Exprs | None:
    """Scale and zero point from the data's range, which always holds zero; all zeros have the scale 1."""
    shape = site.shape(0)
    axes = list(range(len(shape)))
    low = reduce(site, site.operands[0], axes, False, "min")
    high = reduce(site, site.operands[0], axes, False, "max")

    def scale_of(a: Any, b: Any) -> Any:
        whole = tirx.max(b, c(b, 0)) - tirx.min(a, c(a, 0))
        return tirx.Select(whole == c(a, 0), c(a, 1), whole / c(a, 255.0))

    scale = broadcast(site, scale_of, [low, high])
    point = broadcast(
        site,
        lambda a, s: saturated(tirx.nearbyint(tirx.Select(s == c(s, 0), c(s, 0), -tirx.min(a, c(a, 0)) / s)), "uint8"),
        [low, scale],
    )
    found = broadcast(
        site,
        lambda x, s, z: saturated(
            tirx.nearbyint(tirx.Select(s == c(s, 0), c(s, 0), x / s)) + tirx.Cast("float32", z), "uint8"
        ),
        [site.operands[0], scale, point],
    )
    return [found, scale, point]


def _shifted(site: Site, index: int, zero: int, shape: Callable[[Sequence[int]], Sequence[int]]) -> Any:
    """An operand less its zero point, in int32."""
    operand = site.cast(site.operands[index], "int32")
    if not site.has(zero):
        return operand
    own = site.shape(zero)
    point = site.operands[zero]
    point = site.reshape(point, ()) if not own or own == (1,) else site.reshape(point, shape(own))
    return broadcast(site, lambda x, z: x - z, [operand, site.cast(point, "int32")])


def _matmul_integer(site: Site) -> Exprs | None:
    left = _shifted(site, 0, 2, lambda own: (*own, 1) if len(own) == 1 else own)
    right = _shifted(site, 1, 3, lambda own: own)
    return [site.emit(relax.op.matmul(left, right))]


def _requantized(site: Site, total: Any, scales: Sequence[Any], zero: Any, dtype: str) -> Any:
    def function(x: Any, a: Any, b: Any, y: Any, z: Any) -> Any:
        moved = tirx.nearbyint(tirx.Cast("float32", x) * (a * b / y))
        return saturated(moved + tirx.Cast("float32", z), dtype)

    return broadcast(site, function, [total, *scales, zero])


def _qlinear_matmul(site: Site) -> Exprs | None:
    """Operands: a, its scale and zero point, b with its own, scale and zero point of the result."""
    if any(site.dtype(index) != "float32" for index in (1, 4, 6)) or site.dtype(7) not in ("int8", "uint8"):
        return None
    left = _shifted(site, 0, 2, lambda own: (*own, 1) if len(own) == 1 else own)
    right = _shifted(site, 3, 5, lambda own: own)
    total = site.emit(relax.op.matmul(left, right))
    left_scale = site.operands[1]
    if len(site.shape(1)) == 1 and site.shape(1)[0] != 1:
        left_scale = site.reshape(left_scale, (-1, 1))
    scales = [left_scale, site.operands[4], site.operands[6]]
    return [_requantized(site, total, scales, site.operands[7], site.dtype(7))]


def _conv_total(site: Site, data: int, kernel: int, zeros: tuple[int, int]) -> Any:
    sizes = site.shape(data)[2:]
    window = window_of(site, site.shape(kernel)[2:], sizes)
    if window is None:
        return None
    x = _shifted(site, data, zeros[0], lambda own: own)
    w = _shifted(site, kernel, zeros[1], lambda own: (*own, *[1] * (len(sizes) + 1)))
    groups = site.attribute("group", 1)
    return convolve(site, x, w, window, groups, conv_extents(window, sizes), "int32")


def _conv_integer(site: Site) -> Exprs | None:
    total = _conv_total(site, 0, 1, (2, 3))
    return None if total is None else [total]


def _qlinear_conv(site: Site) -> Exprs | None:
    """Operands: x, its scale and zero point, w with its own, scale and zero point of the result, bias in int32."""
    total = _conv_total(site, 0, 3, (2, 5))
    if total is None or site.dtype(7) not in ("int8", "uint8"):
        return None
    ones = [1] * len(site.shape(0)[2:])
    if site.has(8):
        total = broadcast(site, lambda x, b: x + b, [total, site.reshape(site.operands[8], (-1, *ones))])
    kernel_scale = site.operands[4]
    if site.shape(4) not in ((), (1,)):
        kernel_scale = site.reshape(kernel_scale, (-1, *ones))
    scales = [site.reshape(site.operands[1], ()), kernel_scale, site.reshape(site.operands[6], ())]
    return [_requantized(site, total, scales, site.reshape(site.operands[7], ()), site.dtype(7))]


LOWERINGS: Mapping[str, Lowering] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
    "QLinearMatMul": _qlinear_matmul,
    "ConvInteger": _conv_integer,
    "QLinearConv": _qlinear_conv,
}
