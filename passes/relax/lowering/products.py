"""Products of matrices and convolutions of any rank and type that the graph's own operators do not cover."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from joulec.passes.relax.lowering.binary import broadcast
from joulec.passes.relax.lowering.pooling import Window, window_of
from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of
from joulec.passes.relax.lowering.unary import c


def matmul(site: Site, left: Any, right: Any) -> Any:
    """numpy's matmul, vectors included."""
    return site.emit(relax.op.matmul(left, right))


def _matmul(site: Site) -> Exprs | None:
    return [matmul(site, site.operands[0], site.operands[1])]


def _gemm(site: Site) -> Exprs | None:
    left, right = site.operands[:2]
    alpha, beta = site.attribute("alpha", 1.0), site.attribute("beta", 1.0)
    if not site.dtype(0).startswith("float") and (alpha != 1 or beta != 1):
        return None
    left = site.emit(relax.op.permute_dims(left)) if site.attribute("transA", 0) else left
    right = site.emit(relax.op.permute_dims(right)) if site.attribute("transB", 0) else right
    found = matmul(site, left, right)
    if not site.has(2):
        return [broadcast(site, lambda x: x * c(x, alpha), [found])]
    return [broadcast(site, lambda x, y: x * c(x, alpha) + y * c(y, beta), [found, site.operands[2]])]


def convolve(
    site: Site, data: Any, kernel: Any, window: Window, groups: int, extents: Sequence[int], dtype: str
) -> Any:
    """A convolution over any number of spatial axes, accumulated in a type."""
    shape = [int(size) for size in data.ty.shape.values]
    outputs, inner = (int(size) for size in kernel.ty.shape.values[:2])
    per_group = outputs // groups
    sizes = shape[2:]

    def whole(x: Any, w: Any) -> Any:
        channel = te.reduce_axis((0, inner), "c")
        k = [te.reduce_axis((0, size), f"k{axis}") for axis, size in enumerate(window.kernel)]

        def one(*i: Any) -> Any:
            at = [
                place * stride + own * dilation - front
                for place, own, stride, dilation, front in zip(
                    i[2:], k, window.strides, window.dilations, window.before, strict=True
                )
            ]
            inside = [bound for place, size in zip(at, sizes, strict=True) for bound in (place >= 0, place < size)]
            source = i[1] // per_group * inner + channel
            value = tirx.if_then_else(tirx.all(*inside), x[(i[0], source, *at)], tirx.const(0, dtype_of(x)))
            return te.sum(tirx.Cast(dtype, value) * tirx.Cast(dtype, w[(i[1], channel, *k)]), axis=[channel, *k])

        return te.compute((shape[0], outputs, *extents), one)

    return site.te(whole, data, kernel)


def conv_extents(window: Window, sizes: Sequence[int]) -> list[int]:
    """Spatial sizes of a convolution's result."""
    return [
        (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
        for size, before, after, dilation, kernel, stride in zip(
            sizes, window.before, window.after, window.dilations, window.kernel, window.strides, strict=True
        )
    ]


def _conv(site: Site) -> Exprs | None:
    if len(site.shape(0)) < 3:
        return None
    sizes = site.shape(0)[2:]
    window = window_of(site, site.shape(1)[2:], sizes)
    if window is None:
        return None
    data, kernel, bias = site.operands[0], site.operands[1], site.operands[2] if site.has(2) else None
    groups = site.attribute("group", 1)
    found = convolve(site, data, kernel, window, groups, conv_extents(window, sizes), site.dtype(0))
    return [_biased(site, found, bias)]


def _biased(site: Site, found: Any, bias: Any) -> Any:
    if bias is None:
        return found
    rank = len(found.ty.shape.values)
    return broadcast(site, lambda x, b: x + b, [found, site.reshape(bias, (-1, *[1] * (rank - 2)))])


def _conv_transpose(site: Site) -> Exprs | None:
    """Each place of the result gathers what reaches it: those whose distance is a whole number of strides."""
    if site.result is None or len(site.shape(0)) < 3:
        return None
    shape, kernel = site.shape(0), site.shape(1)
    out, rank = site.result.shape, len(kernel) - 2
    strides = tuple(site.attribute("strides", (1,) * rank))
    dilations = tuple(site.attribute("dilations", (1,) * rank))
    extra = tuple(site.attribute("output_padding", (0,) * rank))
    reach = [(kernel[2 + d] - 1) * dilations[d] + 1 for d in range(rank)]
    totals = [strides[d] * (shape[2 + d] - 1) + extra[d] + reach[d] - out[2 + d] for d in range(rank)]
    automatic = site.attribute("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "") and site.attribute("output_shape") is None:
        before = tuple(site.attribute("pads", (0,) * (2 * rank)))[:rank]
    elif automatic == "VALID":
        before = (0,) * rank
    else:
        before = tuple(t // 2 if automatic == "SAME_UPPER" else t - t // 2 for t in totals)
    groups = site.attribute("group", 1)
    per_group, inner = kernel[1], shape[1] // groups

    def whole(x: Any, w: Any) -> Any:
        channel = te.reduce_axis((0, inner), "c")
        k = [te.reduce_axis((0, size), f"k{axis}") for axis, size in enumerate(kernel[2:])]

        def one(image: Any, group: Any, output: Any, *i: Any) -> Any:
            moved = [i[d] + before[d] - k[d] * dilations[d] for d in range(rank)]
            at = [tirx.floordiv(moved[d], strides[d]) for d in range(rank)]
            inside = [
                bound
                for d in range(rank)
                for bound in (moved[d] >= 0, tirx.floormod(moved[d], strides[d]) == 0, at[d] < shape[2 + d])
            ]
            source = group * inner + channel
            value = tirx.if_then_else(tirx.all(*inside), x[(image, source, *at)], tirx.const(0, dtype_of(x)))
            return te.sum(value * w[(source, output, *k)], axis=[channel, *k])

        return te.compute((out[0], groups, per_group, *out[2:]), one)

    found = site.reshape(site.te(whole, site.operands[0], site.operands[1]), out)
    return [_biased(site, found, site.operands[2] if site.has(2) else None)]


def _einsum(site: Site) -> Exprs | None:
    """Sums of products over the letters that the result lacks."""
    equation = site.attribute("equation").replace(" ", "")
    shapes = [site.shape(index) for index in range(len(site.operands))]
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        return None
    spare = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    most = max(
        (len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True) if "..." in term),
        default=0,
    )
    hidden = "".join(spare[:most])
    named = [
        term.replace("...", hidden[most - (len(shape) - len(term.replace("...", ""))) :])
        for term, shape in zip(terms, shapes, strict=True)
    ]
    if "->" in equation:
        wanted = right.replace("...", hidden)
    else:
        letters = "".join(named)
        wanted = hidden + "".join(sorted(one for one in set(letters) - set(hidden) if letters.count(one) == 1))
    sizes: dict[str, int] = {}
    for term, shape in zip(named, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)

    def whole(*tensors: Any) -> Any:
        summed = {letter: te.reduce_axis((0, size), letter) for letter, size in sizes.items() if letter not in wanted}

        def one(*i: Any) -> Any:
            where = {**dict(zip(wanted, i, strict=True)), **summed}
            product = None
            for x, term, shape in zip(tensors, named, shapes, strict=True):
                places = tuple(0 if size == 1 else where[letter] for letter, size in zip(term, shape, strict=True))
                product = x[places] if product is None else product * x[places]
            return te.sum(product, axis=list(summed.values())) if summed else product

        return te.compute([sizes[letter] for letter in wanted], one)

    return [site.te(whole, *site.operands)]


def _det(site: Site) -> Exprs | None:
    """By the rule of Leibniz, for matrices up to 3 × 3."""
    shape = site.shape(0)
    size = shape[-1]
    if size > 3 or not site.dtype(0).startswith("float"):
        return None

    def minor(x: Any, lead: tuple[Any, ...], rows: list[int], columns: list[int]) -> Any:
        if len(rows) == 1:
            return x[(*lead, rows[0], columns[0])]
        total = None
        for position, column in enumerate(columns):
            rest = [other for other in columns if other != column]
            term = x[(*lead, rows[0], column)] * minor(x, lead, rows[1:], rest)
            term = term if position % 2 == 0 else -term
            total = term if total is None else total + term
        return total

    def whole(x: Any) -> Any:
        return te.compute(shape[:-2], lambda *i: minor(x, i, list(range(size)), list(range(size))))

    return [site.te(whole, site.operands[0])]


def _col2im(site: Site) -> Exprs | None:
    """Columns of blocks summed back to the image that they were cut from."""
    if site.result is None:
        return None
    block = site.constant(2)
    image, out = site.result.shape[2:], site.result.shape
    rank = len(image)
    strides = tuple(site.attribute("strides", (1,) * rank))
    dilations = tuple(site.attribute("dilations", (1,) * rank))
    pads = tuple(site.attribute("pads", (0,) * (2 * rank)))
    if block is None:
        return None
    kernel = tuple(int(size) for size in np.ravel(block))
    steps = [
        (image[d] + pads[d] + pads[d + rank] - dilations[d] * (kernel[d] - 1) - 1) // strides[d] + 1
        for d in range(rank)
    ]
    if math.prod(steps) != site.shape(0)[2]:
        return None

    def whole(x: Any) -> Any:
        k = [te.reduce_axis((0, size), f"k{axis}") for axis, size in enumerate(kernel)]

        def one(*i: Any) -> Any:
            moved = [i[2 + d] + pads[d] - k[d] * dilations[d] for d in range(rank)]
            at = [tirx.floordiv(moved[d], strides[d]) for d in range(rank)]
            inside = [
                bound
                for d in range(rank)
                for bound in (moved[d] >= 0, tirx.floormod(moved[d], strides[d]) == 0, at[d] < steps[d])
            ]
            row: Any = i[1]
            for d in range(rank):
                row = row * kernel[d] + k[d]
            column: Any = 0
            for d in range(rank):
                column = column * steps[d] + at[d]
            return te.sum(
                tirx.if_then_else(tirx.all(*inside), x[i[0], row, column], tirx.const(0, dtype_of(x))), axis=k
            )

        return te.compute(out, one)

    return [site.te(whole, site.operands[0])]


LOWERINGS: Mapping[str, Lowering] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Det": _det,
    "Col2Im": _col2im,
}
