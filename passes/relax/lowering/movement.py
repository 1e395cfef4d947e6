"""Operators that move data: slices, pads, tiles, joins. Amounts may be known at run time only, result shapes not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from joulec.passes.relax.lowering.binary import element
from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of
from joulec.passes.relax.lowering.unary import c


def _reshaped(site: Site) -> Exprs | None:
    """The result's shape says all: Reshape, Flatten, Squeeze, Unsqueeze."""
    if site.result is None or math.prod(site.result.shape) != math.prod(site.shape(0)):
        return None
    return [site.reshape(site.operands[0], site.result.shape)]


def _expand(site: Site) -> Exprs | None:
    if site.result is None:
        return None
    shape = site.result.shape
    return [site.te(lambda x: te.compute(shape, lambda *i: element(x, i)), site.operands[0])]


def _transpose(site: Site) -> Exprs:
    rank = len(site.shape(0))
    order = [int(axis) for axis in site.attribute("perm", range(rank)[::-1])]
    return [site.emit(relax.op.permute_dims(site.operands[0], order))]


def _concat(site: Site) -> Exprs:
    axis = site.attribute("axis", 1) % len(site.shape(0))
    filled = [site.operands[index] for index in range(len(site.operands)) if math.prod(site.shape(index))]
    return [site.emit(relax.op.concat(filled, axis=axis))]


def cut(site: Site, operand: Any, axis: int, begin: int, size: int) -> Any:
    """A slice along one axis."""
    shape = [int(d) for d in operand.ty.shape.values]
    shape[axis] = size

    def whole(x: Any) -> Any:
        return te.compute(shape, lambda *i: x[tuple(p + begin if a == axis else p for a, p in enumerate(i))])

    return site.te(whole, operand)


def _split(site: Site) -> Exprs | None:
    axis = site.attribute("axis", 0) % len(site.shape(0))
    if any(result is None for result in site.results):
        return None
    found, begin = [], 0
    for name, result in zip(site.node.output, site.results, strict=True):
        assert result is not None
        if not name:
            return None
        found.append(cut(site, site.operands[0], axis, begin, result.shape[axis]))
        begin += result.shape[axis]
    return found if begin == site.shape(0)[axis] else None


def _slice(site: Site) -> Exprs | None:
    """Starts, axes and steps as constants or as tensors; ends matter for the result's shape alone."""
    if site.result is None:
        return None
    shape, out = site.shape(0), site.result.shape
    rank = len(shape)
    if site.opset < 10:
        starts: Any = site.attribute("starts")
        count = len(starts)
        given: list[Any] = [starts, site.attribute("axes", range(count)), [1] * count]
    else:
        count = site.shape(1)[0]
        given = [
            site.constant(index) if site.constant(index) is not None else site.operands[index] if site.has(index) else d
            for index, d in ((1, None), (3, range(count)), (4, [1] * count))
        ]
    tensors = [one for one in given if _is_expression(one)]
    fixed = [None if _is_expression(one) else [int(v) for v in np.ravel(np.asarray(one))] for one in given]

    def whole(x: Any, *extra: Any) -> Any:
        rest = list(extra)
        starts, axes, steps = (_reader(rest.pop(0)) if known is None else known.__getitem__ for known in fixed)
        begins: list[Any] = [tirx.const(0, "int64")] * rank
        strides: list[Any] = [tirx.const(1, "int64")] * rank
        for k in range(count):
            step, axis = steps(k), axes(k)
            for d in range(rank):
                begin = _start(starts(k), step, shape[d])
                if isinstance(axis, int):
                    if axis % rank == d:
                        begins[d], strides[d] = begin, step
                    continue
                chosen = tirx.any(axis == c(axis, d), axis == c(axis, d - rank))
                begins[d] = tirx.Select(chosen, _wide(begin), _wide(begins[d]))
                strides[d] = tirx.Select(chosen, _wide(step), _wide(strides[d]))

        def one(*i: Any) -> Any:
            places = [_wide(begins[d]) + tirx.Cast("int64", i[d]) * _wide(strides[d]) for d in range(rank)]
            if tensors:  # a value that gives another shape than was compiled must not read elsewhere
                places = [tirx.max(tirx.min(p, c(p, n - 1)), c(p, 0)) for p, n in zip(places, shape, strict=True)]
            return x[tuple(places)]

        return te.compute(out, one)

    return [site.te(whole, site.operands[0], *tensors)]


def _reader(tensor: Any) -> Callable[[int], Any]:
    return lambda k: tirx.Cast("int64", tensor[k])


def _is_expression(value: Any) -> bool:
    return value is not None and hasattr(value, "ty")


def _wide(value: Any) -> Any:
    return tirx.const(value, "int64") if isinstance(value, int) else tirx.Cast("int64", value)


def _start(start: Any, step: Any, size: int) -> Any:
    """Where a slice begins: counted from the end where negative, and kept inside."""
    if isinstance(start, int) and isinstance(step, int):
        begin = start + size if start < 0 else start
        return min(max(begin, 0), size) if step > 0 else min(max(begin, 0), size - 1)
    start, step = _wide(start), _wide(step)
    begin = tirx.Select(start < c(start, 0), start + c(start, size), start)
    last = tirx.Select(step > c(step, 0), c(step, size), c(step, size - 1))
    return tirx.max(tirx.min(begin, last), c(begin, 0))


def _pad(site: Site) -> Exprs | None:
    """All modes; amounts as constants or as a tensor, negative ones crop."""
    if site.result is None:
        return None
    shape, out = site.shape(0), site.result.shape
    rank = len(shape)
    mode = site.attribute("mode", "constant")
    if site.opset < 11:
        amounts: Any = np.asarray(site.attribute("pads", site.attribute("paddings")))
        fill: Any = site.const(site.attribute("value", 0.0), site.dtype(0))
    else:
        amounts = site.constant(1) if site.constant(1) is not None else site.operands[1]
        fill = site.operands[2] if site.has(2) else site.const(0, site.dtype(0))
    axes: Any = np.arange(rank)
    if site.has(3):
        axes = site.constant(3)
        if axes is None:
            return None
    axes = [int(axis) % rank for axis in np.ravel(axes)]
    tensors = [amounts] if _is_expression(amounts) else []
    if math.prod(shape) == 0:
        return None
    least = min((shape[axis] for axis in axes), default=1) - 1
    near = not tensors and bool(np.all(np.abs(np.ravel(amounts)) <= least))

    def whole(x: Any, value: Any, *extra: Any) -> Any:
        before: list[Any] = [tirx.const(0, "int64")] * rank
        for k, axis in enumerate(axes):
            before[axis] = tirx.Cast("int64", extra[0][k]) if extra else tirx.const(int(np.ravel(amounts)[k]), "int64")

        def one(*i: Any) -> Any:
            places = [tirx.Cast("int64", i[d]) - before[d] for d in range(rank)]
            sizes = [tirx.const(size, "int64") for size in shape]
            if mode == "constant":
                inside = [
                    bound
                    for place, size in zip(places, sizes, strict=True)
                    for bound in (place >= c(place, 0), place < size)
                ]
                return tirx.if_then_else(tirx.all(*inside), x[tuple(places)], value[()]) if rank else x[()]
            return x[tuple(_within(p, n, s, mode, near) for p, n, s in zip(places, sizes, shape, strict=True))]

        return te.compute(out, one)

    return [site.te(whole, site.operands[0], site.reshape(fill, ()), *tensors)]


def _within(place: Any, size: Any, known: int, mode: str, near: bool) -> Any:
    """The place inside of an axis that a padded place copies.

    Where it is known to lie near, it is found without remainders: LLVM misreads some gathers by them on AVX-512.
    """
    if mode == "wrap" and near:
        return place + tirx.Select(place < c(place, 0), size, tirx.Select(place >= size, -size, c(place, 0)))
    if mode == "wrap":
        return tirx.floormod(place, size)
    if mode == "reflect" and known > 1:
        period = c(place, 2 * (known - 1))
        folded = tirx.abs(place) if near else tirx.floormod(place, period)
        return tirx.min(folded, period - folded)
    return tirx.max(tirx.min(place, c(place, known - 1)), c(place, 0))


def _tile(site: Site) -> Exprs | None:
    """Broadcast over an axis before each: LLVM misreads gathers by remainders on AVX-512 (seen with four axes)."""
    if site.result is None or math.prod(site.shape(0)) == 0:
        return None
    shape, out = site.shape(0), site.result.shape
    repeats = [whole // own for whole, own in zip(out, shape, strict=True)]
    if any(own * count != whole for own, count, whole in zip(shape, repeats, out, strict=True)):
        return None
    apart = site.reshape(site.operands[0], [side for own in shape for side in (1, own)])
    pairs = [side for pair in zip(repeats, shape, strict=True) for side in pair]
    return [site.reshape(site.emit(relax.op.broadcast_to(apart, pairs)), out)]


def _depth_to_space(site: Site) -> Exprs | None:
    n, channels, height, width = site.shape(0)
    block = site.attribute("blocksize")
    inner = channels // (block * block)
    if site.attribute("mode", "DCR") == "DCR":
        parts, order = (n, block, block, inner, height, width), [0, 3, 4, 1, 5, 2]
    else:
        parts, order = (n, inner, block, block, height, width), [0, 1, 4, 2, 5, 3]
    moved = site.emit(relax.op.permute_dims(site.reshape(site.operands[0], parts), order))
    return [site.reshape(moved, (n, inner, height * block, width * block))]


def _space_to_depth(site: Site) -> Exprs | None:
    n, channels, height, width = site.shape(0)
    block = site.attribute("blocksize")
    if site.attribute("mode", "DCR") != "DCR":
        parts, order = (n, channels, height // block, block, width // block, block), [0, 1, 3, 5, 2, 4]
    else:
        parts, order = (n, channels, height // block, block, width // block, block), [0, 3, 5, 1, 2, 4]
    moved = site.emit(relax.op.permute_dims(site.reshape(site.operands[0], parts), order))
    return [site.reshape(moved, (n, channels * block * block, height // block, width // block))]


def _triangle(site: Site) -> Exprs | None:
    """The part of each matrix on and above (or below) the k-th diagonal."""
    upper = bool(site.attribute("upper", 1))
    diagonal = [site.reshape(site.operands[1], ())] if site.has(1) else []
    if math.prod(site.shape(0)) == 0:
        return None

    def whole(x: Any, *extra: Any) -> Any:
        shift = extra[0][()] if extra else tirx.const(0, "int64")

        def one(*i: Any) -> Any:
            reach = tirx.Cast("int64", i[-1]) - tirx.Cast("int64", i[-2])
            kept = reach >= shift if upper else reach <= shift
            return tirx.Select(kept, x[i], c(x[i], 0))

        return te.compute(x.shape, one)

    return [site.te(whole, site.operands[0], *diagonal)]


def _eye_like(site: Site) -> Exprs | None:
    result = site.result
    if result is None:
        return None
    shift = site.attribute("k", 0)
    return [site.const(np.eye(result.shape[0], result.shape[1], k=shift), result.dtype)]


def _constant_of_shape(site: Site) -> Exprs | None:
    result = site.result
    if result is None:
        return None
    value = site.attribute("value")
    import onnx.numpy_helper

    number = 0 if value is None else onnx.numpy_helper.to_array(value).ravel()[0]
    return [site.emit(relax.op.full(result.shape, site.const(number, result.dtype), result.dtype))]


def _range(site: Site) -> Exprs | None:
    result = site.result
    if result is None:
        return None

    def whole(start: Any, step: Any) -> Any:
        return te.compute(result.shape, lambda i: start[()] + tirx.Cast(dtype_of(start), i) * step[()])

    return [site.te(whole, site.reshape(site.operands[0], ()), site.reshape(site.operands[2], ()))]


def _reverse_sequence(site: Site) -> Exprs:
    time, batch = site.attribute("time_axis", 0), site.attribute("batch_axis", 1)

    def whole(x: Any, lengths: Any) -> Any:
        def one(*i: Any) -> Any:
            length = tirx.Cast("int64", lengths[i[batch]])
            place = tirx.Cast("int64", i[time])
            turned = tirx.Select(place < length, length - c(length, 1) - place, place)
            return x[tuple(turned if axis == time else p for axis, p in enumerate(i))]

        return te.compute(x.shape, one)

    return [site.te(whole, site.operands[0], site.operands[1])]


def _center_crop_pad(site: Site) -> Exprs | None:
    """What is too long loses its ends, what is too short is padded, the odd one at the end of a pad."""
    if site.result is None:
        return None
    shape, out = site.shape(0), site.result.shape
    shifts = [
        (size - wanted) // 2 if size >= wanted else -((wanted - size) // 2)
        for size, wanted in zip(shape, out, strict=True)
    ]

    def whole(x: Any) -> Any:
        def one(*i: Any) -> Any:
            places = [p + shift for p, shift in zip(i, shifts, strict=True)]
            inside = [b for p, n in zip(places, shape, strict=True) for b in (p >= 0, p < n)]
            return tirx.if_then_else(tirx.all(*inside), x[tuple(places)], tirx.const(0, dtype_of(x)))

        return te.compute(out, one)

    return [site.te(whole, site.operands[0])]


def _shape(site: Site) -> Exprs:
    bounds = slice(site.attribute("start"), site.attribute("end"))
    return [site.const(np.asarray(site.shape(0)[bounds], np.int64), "int64")]


LOWERINGS: Mapping[str, Lowering] = {
    "Reshape": _reshaped,
    "Flatten": _reshaped,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Expand": _expand,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Trilu": _triangle,
    "EyeLike": _eye_like,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ReverseSequence": _reverse_sequence,
    "CenterCropPad": _center_crop_pad,
    "Shape": _shape,
    "Size": lambda site: [site.const(math.prod(site.shape(0)), "int64")],
}
