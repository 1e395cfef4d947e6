"""Resize and its relatives: coordinates of the result back to the data, then neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of

_F = "float32"
Index = tuple[Any, ...]


def f(value: float) -> Any:
    """A number in the type of coordinates."""
    return tirx.const(value, _F)


def _resize(site: Site) -> Exprs | None:
    """Opsets 10 and later; scales, sizes and region may be known at run time only."""
    if site.result is None or site.dtype(0) not in ("float32", "float64", "uint8", "int8", "int32"):
        return None
    shape, out = site.shape(0), site.result.shape
    first = 1 if site.opset < 11 else 2
    axes = [int(axis) % len(shape) for axis in site.attribute("axes", range(len(shape)))]
    if site.attribute("antialias", 0) or math.prod(shape) == 0:
        return None
    by_sizes = site.has(3) and site.shape(3) != (0,)
    given = 3 if by_sizes else first
    if not site.has(given):
        return None
    amounts = site.operands[given]
    region = [site.operands[1]] if site.opset >= 11 and site.has(1) and site.shape(1) != (0,) else []
    policy = site.attribute("keep_aspect_ratio_policy", "stretch") if by_sizes else "stretch"
    moved = [axis for axis in axes if out[axis] != shape[axis] or not by_sizes or region]
    current = site.operands[0]
    whole_number = not site.dtype(0).startswith("float")
    current = site.cast(current, _F) if whole_number else current
    for axis in moved:
        if not by_sizes and not region and _is_one(site.constant(given), axes.index(axis)):
            continue
        stretch = _Stretch(site, axis, axes, shape, out, by_sizes, policy)
        current = site.te(stretch.apply, current, amounts, *region)
    if whole_number:
        current = site.te(
            lambda x: te.compute(x.shape, lambda *i: tirx.Cast(site.dtype(0), tirx.nearbyint(x[i]))), current
        )
    return [current]


def _is_one(scales: Any, position: int) -> bool:
    return scales is not None and float(np.ravel(scales)[position]) == 1.0


class _Stretch:
    """Resizing along one axis."""

    def __init__(
        self,
        site: Site,
        axis: int,
        axes: Sequence[int],
        shape: Sequence[int],
        out: Sequence[int],
        by_sizes: bool,
        policy: str,
    ) -> None:
        self.axis, self.axes, self.shape, self.out = axis, axes, shape, out
        self.by_sizes, self.policy = by_sizes, policy
        self.mode = site.attribute("mode", "nearest")
        default = "half_pixel" if site.opset >= 11 else "asymmetric"
        self.how = site.attribute("coordinate_transformation_mode", default)
        self.nearest = site.attribute("nearest_mode", "round_prefer_floor" if site.opset >= 11 else "floor")
        self.cubic = site.attribute("cubic_coeff_a", -0.75)
        self.excludes = bool(site.attribute("exclude_outside", 0))
        self.beyond = site.attribute("extrapolation_value", 0.0)

    def _scale(self, amounts: Any) -> Any:
        def of(position: int) -> Any:
            value = tirx.Cast(_F, amounts[position])
            return value / f(self.shape[self.axes[position]]) if self.by_sizes else value

        if self.policy == "stretch":
            return of(self.axes.index(self.axis))
        scales = [of(position) for position in range(len(self.axes))]
        best = scales[0]
        for scale in scales[1:]:
            best = tirx.min(best, scale) if self.policy == "not_larger" else tirx.max(best, scale)
        return best

    def _source(self, place: Any, scale: Any, region: Sequence[Any]) -> Any:
        """Where a place of the result lies in the data."""
        size, extent = self.shape[self.axis], self.out[self.axis]
        x = tirx.Cast(_F, place)
        width = scale * f(size) if not self.by_sizes else f(extent)
        half = (x + f(0.5)) / scale - f(0.5)
        match self.how:
            case "asymmetric":
                return x / scale
            case "align_corners":
                return f(0) if extent == 1 else x * f(size - 1) / (width - f(1))
            case "tf_half_pixel_for_nn":
                return (x + f(0.5)) / scale
            case "pytorch_half_pixel":
                return f(-0.5) if extent == 1 else half
            case "half_pixel_symmetric":
                return f(size / 2) * (f(1) - f(extent) / width) + half
            case "tf_crop_and_resize":
                position = self.axes.index(self.axis)
                low = tirx.Cast(_F, region[0][position])
                high = tirx.Cast(_F, region[0][position + len(self.axes)])
                span = (high - low) * f(size - 1)
                inner = span / f(2) if extent == 1 else x * span / (width - f(1))
                return inner + low * f(size - 1)
        return half

    def apply(self, x: Any, amounts: Any, *region: Any) -> Any:
        """The data with one axis resized."""
        shape = [int(size) for size in x.shape]
        shape[self.axis] = self.out[self.axis]
        size = self.shape[self.axis]
        scale = self._scale(amounts)

        def one(*i: Any) -> Any:
            source = self._source(i[self.axis], scale, region)

            def at(index: Any) -> Any:
                kept = tirx.max(tirx.min(index, tirx.const(size - 1, "int32")), tirx.const(0, "int32"))
                return x[tuple(kept if d == self.axis else p for d, p in enumerate(i))]

            value = self._value(source, at, size, dtype_of(x))
            if self.how != "tf_crop_and_resize":
                return value
            outside = tirx.any(source < f(0), source > f(size - 1))
            return tirx.Select(outside, tirx.const(self.beyond, dtype_of(x)), value)

        return te.compute(shape, one)

    def _value(self, source: Any, at: Callable[[Any], Any], size: int, dtype: str) -> Any:
        if self.mode == "nearest":
            rounded = {
                "floor": tirx.floor(source),
                "ceil": tirx.ceil(source),
                "round_prefer_floor": tirx.ceil(source - f(0.5)),
                "round_prefer_ceil": tirx.floor(source + f(0.5)),
            }[self.nearest]
            return at(tirx.Cast("int32", rounded))
        low = tirx.floor(source)
        first = tirx.Cast("int32", low)
        ratio = source - low
        if self.mode == "linear":
            weights, begin = [f(1) - ratio, ratio], 0
        else:
            weights, begin = cubic_weights(ratio, self.cubic), -1
        if self.excludes:
            inside = [tirx.all(first + (begin + k) >= 0, first + (begin + k) < size) for k in range(len(weights))]
            weights = [tirx.Select(own, w, f(0)) for own, w in zip(inside, weights, strict=True)]
            total = weights[0]
            for weight in weights[1:]:
                total = total + weight
            weights = [weight / total for weight in weights]
        value = None
        for k, weight in enumerate(weights):
            term = at(first + (begin + k)) * tirx.Cast(dtype, weight)
            value = term if value is None else value + term
        return value


def cubic_weights(ratio: Any, a: float) -> list[Any]:
    """Weights of four neighbours (Keys 1981), the second of which lies ``ratio`` before the point."""

    def near(t: Any) -> Any:
        return (f(a + 2) * t - f(a + 3)) * t * t + f(1)

    def far(t: Any) -> Any:
        return ((f(a) * t - f(5 * a)) * t + f(8 * a)) * t - f(4 * a)

    return [far(ratio + f(1)), near(ratio), near(f(1) - ratio), far(f(2) - ratio)]


def _upsample(site: Site) -> Exprs | None:
    """Opsets 7 to 9: scales from the origin."""
    if site.result is None or site.attribute("mode", "nearest") != "nearest":
        return None
    shape, out = site.shape(0), site.result.shape
    scales = site.attribute("scales") if site.opset < 9 else site.constant(1)
    tensors = [] if scales is not None else [site.operands[1]]

    def whole(x: Any, *extra: Any) -> Any:
        def one(*i: Any) -> Any:
            places = []
            for d, place in enumerate(i):
                scale = f(float(np.ravel(scales)[d])) if scales is not None else tirx.Cast(_F, extra[0][d])
                at = tirx.Cast("int32", tirx.floor(tirx.Cast(_F, place) / scale))
                places.append(tirx.min(at, tirx.const(shape[d] - 1, "int32")))
            return x[tuple(places)]

        return te.compute(out, one)

    return [site.te(whole, site.operands[0], *tensors)]


def _grid_sample(site: Site) -> Exprs | None:
    if site.dtype(0) != "float32" or site.dtype(1) != "float32":
        return None
    shape, grid = site.shape(0), site.shape(1)
    sizes = shape[2:]
    rank = len(sizes)
    mode = site.attribute("mode", "linear").removeprefix("bi")
    padding = site.attribute("padding_mode", "zeros")
    corners = bool(site.attribute("align_corners", 0))
    if math.prod(grid) == 0 or math.prod(shape) == 0:
        return None

    def whole(x: Any, places: Any) -> Any:
        def one(*i: Any) -> Any:
            where = [_denormal(places[(i[0], *i[2:], rank - 1 - d)], sizes[d], corners) for d in range(rank)]
            if mode == "nearest":
                where = [tirx.nearbyint(at) for at in where]
            if mode != "cubic":
                where = [_held(at, size, padding, corners) for at, size in zip(where, sizes, strict=True)]

            def pixel(index: Sequence[Any]) -> Any:
                kept = []
                inside = []
                for at, size in zip(index, sizes, strict=True):
                    inside += [at >= 0, at < size]
                    if padding == "reflection" and mode == "cubic":
                        at = tirx.Cast("int32", _held(tirx.Cast(_F, at), size, padding, corners))
                    kept.append(tirx.max(tirx.min(at, tirx.const(size - 1, "int32")), tirx.const(0, "int32")))
                value = x[(i[0], i[1], *kept)]
                return tirx.if_then_else(tirx.all(*inside), value, f(0)) if padding == "zeros" else value

            return _mixed([tirx.Cast(_F, at) for at in where], pixel, mode)

        return te.compute((*shape[:2], *grid[1:-1]), one)

    return [site.te(whole, site.operands[0], site.operands[1])]


def _denormal(place: Any, size: int, corners: bool) -> Any:
    """From [-1, 1] to indices."""
    if corners:
        return (place + f(1)) / f(2) * f(size - 1)
    return ((place + f(1)) * f(size) - f(1)) / f(2)


def _held(at: Any, size: int, padding: str, corners: bool) -> Any:
    """A coordinate brought inside."""
    if padding == "border":
        return tirx.max(tirx.min(at, f(size - 1)), f(0))
    if padding != "reflection":
        return at
    low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
    span = high - low
    if span == 0:
        return f(0)
    away = tirx.abs(at - f(low))
    turns = tirx.floor(away / f(span))
    rest = away - turns * f(span)
    odd = turns - f(2) * tirx.floor(turns / f(2)) > f(0.5)
    folded = tirx.Select(odd, f(span) - rest, rest) + f(low)
    return tirx.Select(tirx.any(at < f(low), at > f(high)), folded, at)


def _mixed(where: Sequence[Any], pixel: Callable[[Sequence[Any]], Any], mode: str) -> Any:
    """Neighbours weighted along every axis in turn."""
    if mode == "nearest":
        return pixel([tirx.Cast("int32", at) for at in where])
    taps: list[list[tuple[Any, Any]]] = []
    for at in where:
        low = tirx.floor(at)
        first, ratio = tirx.Cast("int32", low), at - low
        if mode == "cubic":
            taps.append([(first + (k - 1), weight) for k, weight in enumerate(cubic_weights(ratio, -0.75))])
        else:
            taps.append([(first, f(1) - ratio), (first + 1, ratio)])

    def mix(chosen: list[Any], rest: Sequence[list[tuple[Any, Any]]]) -> Any:
        if not rest:
            return pixel(chosen)
        total = None
        for index, weight in rest[0]:
            term = mix([*chosen, index], rest[1:]) * weight
            total = term if total is None else total + term
        return total

    return mix([], taps)


LOWERINGS: Mapping[str, Lowering] = {"Resize": _resize, "Upsample": _upsample, "GridSample": _grid_sample}
