"""Poolings over planes of any rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from joulec.passes.relax.lowering.reduction import lowest, reduce
from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of
from joulec.passes.relax.lowering.unary import c


@dataclass(frozen=True)
class Window:
    """How a window moves over the spatial axes; ``before`` is the padding in front, ``after`` that behind."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


def window_of(site: Site, kernel: Sequence[int], sizes: Sequence[int]) -> Window | None:
    """The window that a node's attributes describe, paddings worked out; None where a padding is negative."""
    rank = len(kernel)
    strides = tuple(site.attribute("strides", (1,) * rank))
    dilations = tuple(site.attribute("dilations", (1,) * rank))
    automatic = site.attribute("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        pads = tuple(site.attribute("pads", (0,) * (2 * rank)))
        before, after = pads[:rank], pads[rank:]
    elif automatic == "VALID":
        before = after = (0,) * rank
    else:
        totals = [
            max((-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
            for size, stride, dilation, k in zip(sizes, strides, dilations, kernel, strict=True)
        ]
        small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
        before, after = (small, large) if automatic == "SAME_UPPER" else (large, small)
    return None if min((*before, *after), default=0) < 0 else Window(tuple(kernel), strides, dilations, before, after)


def _extents(site: Site, window: Window) -> list[int] | None:
    """Spatial sizes of the result; in ceil mode a last window that starts behind the data and its front is left out."""
    if site.result is not None:
        return list(site.result.shape[2:])
    sizes = site.shape(0)[2:]
    found = []
    for axis, size in enumerate(sizes):
        reach = window.dilations[axis] * (window.kernel[axis] - 1) + 1
        room = size + window.before[axis] + window.after[axis] - reach
        steps = -(-room // window.strides[axis]) if site.attribute("ceil_mode", 0) else room // window.strides[axis]
        if site.attribute("ceil_mode", 0) and steps * window.strides[axis] >= size + window.before[axis]:
            steps -= 1
        found.append(steps + 1)
    return found


def _places(i: Sequence[Any], k: Sequence[Any], window: Window, sizes: Sequence[int]) -> tuple[list[Any], Any]:
    """Where a window's elements lie, and whether that is inside of the data."""
    at = [
        place * stride + own * dilation - front
        for place, own, stride, dilation, front in zip(
            i[2:], k, window.strides, window.dilations, window.before, strict=True
        )
    ]
    inside = [bound for place, size in zip(at, sizes, strict=True) for bound in (place >= 0, place < size)]
    return at, tirx.all(*inside)


def _axes(window: Window) -> list[Any]:
    return [te.reduce_axis((0, size), f"k{axis}") for axis, size in enumerate(window.kernel)]


def _max_pool(site: Site) -> Exprs | None:
    sizes = site.shape(0)[2:]
    window = window_of(site, site.attribute("kernel_shape"), sizes)
    if window is None or not (site.wants(0) or site.wants(1)):
        return None
    extents = _extents(site, window)
    if extents is None:
        return None
    out = (*site.shape(0)[:2], *extents)
    if not site.wants(1):

        def whole(x: Any) -> Any:
            k = _axes(window)
            largest = te.comm_reducer(lambda a, b: tirx.max(a, b), lambda dtype: lowest(str(dtype)), name="largest")

            def one(*i: Any) -> Any:
                at, inside = _places(i, k, window, sizes)
                return largest(tirx.if_then_else(inside, x[(i[0], i[1], *at)], lowest(dtype_of(x))), axis=k)

            return te.compute(out, one)

        return [site.te(whole, site.operands[0])]
    both = _max_and_place(site, window, out)
    return [one for index, one in enumerate(both) if site.wants(index)]


def _max_and_place(site: Site, window: Window, out: Sequence[int]) -> list[Any]:
    """The largest element of each window, and where it stands in the whole flattened tensor."""
    shape = site.shape(0)
    sizes = shape[2:]
    order = list(sizes)
    column_major = bool(site.attribute("storage_order", 0))

    def at_of(position: int) -> Any:
        def whole(x: Any) -> Any:
            k = _axes(window)

            def better(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
                (place_a, a_), (place_b, b_) = a, b
                taken = tirx.all(place_b >= tirx.const(0, "int64"), tirx.any(place_a < tirx.const(0, "int64"), b_ > a_))
                return tirx.Select(taken, place_b, place_a), tirx.Select(taken, b_, a_)

            reducer = te.comm_reducer(better, lambda p, v: (tirx.const(-1, p), lowest(str(v))), name="largest")

            def one(*i: Any) -> Any:
                at, inside = _places(i, k, window, sizes)
                flat = tirx.Cast("int64", i[0] * shape[1] + i[1]) * tirx.const(math.prod(sizes), "int64")
                strides = [
                    math.prod(order[:d]) if column_major else math.prod(order[d + 1 :]) for d in range(len(order))
                ]
                for place, stride in zip(at, strides, strict=True):
                    flat = flat + tirx.Cast("int64", place) * tirx.const(stride, "int64")
                value = tirx.if_then_else(inside, x[(i[0], i[1], *at)], lowest(dtype_of(x)))
                return reducer((tirx.if_then_else(inside, flat, tirx.const(-1, "int64")), value), axis=k)

            return te.compute(out, one)[position]

        return site.te(whole, site.operands[0])

    return [at_of(1), at_of(0)]


def _average_pool(site: Site) -> Exprs | None:
    sizes = site.shape(0)[2:]
    window = window_of(site, site.attribute("kernel_shape"), sizes)
    extents = None if window is None else _extents(site, window)
    if window is None or extents is None or not site.dtype(0).startswith("float"):
        return None
    out = (*site.shape(0)[:2], *extents)
    counted = bool(site.attribute("count_include_pad", 0))

    def whole(x: Any) -> Any:
        k = _axes(window)

        def total(*i: Any) -> Any:
            at, inside = _places(i, k, window, sizes)
            return te.sum(tirx.if_then_else(inside, x[(i[0], i[1], *at)], tirx.const(0, dtype_of(x))), axis=k)

        sums = te.compute(out, total)

        def one(*i: Any) -> Any:
            count: Any = tirx.const(1, "int32")
            for axis, size in enumerate(sizes):
                count = count * _covered(i[2 + axis], axis, size, window, counted)
            return sums[i] / tirx.Cast(dtype_of(x), tirx.max(count, tirx.const(1, "int32")))

        return te.compute(out, one)

    return [site.te(whole, site.operands[0])]


def _covered(place: Any, axis: int, size: int, window: Window, counted: bool) -> Any:
    """How many elements of a window along an axis lie on data (and padding, where that counts)."""
    found: Any = tirx.const(0, "int32")
    low = -window.before[axis] if counted else 0
    high = size + window.after[axis] if counted else size
    for own in range(window.kernel[axis]):
        at = tirx.Cast("int32", place) * window.strides[axis] + own * window.dilations[axis] - window.before[axis]
        found = found + tirx.Select(tirx.all(at >= low, at < high), tirx.const(1, "int32"), tirx.const(0, "int32"))
    return found


def _lp_pool(site: Site) -> Exprs | None:
    sizes = site.shape(0)[2:]
    window = window_of(site, site.attribute("kernel_shape"), sizes)
    extents = None if window is None else _extents(site, window)
    if window is None or extents is None or not site.dtype(0).startswith("float"):
        return None
    out, power = (*site.shape(0)[:2], *extents), site.attribute("p", 2)

    def whole(x: Any) -> Any:
        k = _axes(window)

        def total(*i: Any) -> Any:
            at, inside = _places(i, k, window, sizes)
            value = tirx.if_then_else(inside, tirx.abs(x[(i[0], i[1], *at)]), tirx.const(0, dtype_of(x)))
            return te.sum(tirx.pow(value, c(value, power)), axis=k)

        sums = te.compute(out, total)
        return te.compute(out, lambda *i: tirx.pow(sums[i], c(sums[i], 1 / power)))

    return [site.te(whole, site.operands[0])]


def _global(kind: str) -> Lowering:
    def lowering(site: Site) -> Exprs | None:
        if not site.dtype(0).startswith("float"):
            return None
        shape = site.shape(0)
        axes = list(range(2, len(shape)))
        found = reduce(site, site.operands[0], axes, True, "max" if kind == "max" else "sum")
        if kind == "max":
            return [found]
        count = math.prod(shape[2:])
        return [site.te(lambda x: te.compute(x.shape, lambda *i: x[i] / c(x[i], count)), found)]

    return lowering


def _max_unpool(site: Site) -> Exprs | None:
    """Elements go back to the places that the pooling told; the rest is zero."""
    if site.result is None:
        return None
    out, shape = site.result.shape, site.shape(0)
    size, count = math.prod(out), math.prod(shape)
    strides = tuple(site.attribute("strides", (1,) * (len(shape) - 2)))
    kernel = tuple(site.attribute("kernel_shape"))
    pads = tuple(site.attribute("pads", (0,) * (2 * len(kernel))))
    natural = [
        (extent - 1) * stride - pads[axis] - pads[axis + len(kernel)] + kernel[axis]
        for axis, (extent, stride) in enumerate(zip(shape[2:], strides, strict=True))
    ]
    if list(out[2:]) != natural:
        return None  # places count in the natural shape, which a given one moves
    from tvm import topi

    zeros = site.const([0.0] * size, site.dtype(0))
    index, data = (site.reshape(site.operands[k], (count,)) for k in (1, 0))
    found = site.te(lambda x, i, u: topi.scatter_elements(x, i, u, 0, "update"), zeros, index, data)
    return [site.reshape(found, out)]


LOWERINGS: Mapping[str, Lowering] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalMaxPool": _global("max"),
    "GlobalAveragePool": _global("mean"),
    "MaxUnpool": _max_unpool,
}
