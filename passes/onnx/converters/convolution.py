"""Convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from joulec.passes.graph import Add, Conv2d, Reshape, Split, Step, Transpose, Value, literal
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Converter, Source, is_literal
from joulec.passes.onnx.converters.geometry import as_before, as_four, as_planes, geometry
from joulec.passes.onnx.program import Array


def conv(source: Source) -> Sequence[Operand] | None:
    """Over planes or rows. A constant bias goes into the epilogue; one computed at run time is added."""
    rank = len(source.operand(0).type.shape)
    window = geometry(source, source.operand(1).type.shape[2:])
    if window is None:
        return None
    data, kernel = (as_planes(source, source.operand(index)) for index in (0, 1))
    op = Conv2d(window.strides, window.padding, window.dilation, source.attribute("group", 1))
    if not source.has(2):
        (result,) = source.emit(op, data, kernel)
    elif is_literal(bias := source.operand(2)):
        (result,) = source.emit(op, data, kernel, bias, epilogue=(Step("bias"),))
    else:
        (convolved,) = source.emit(op, data, kernel)
        (column,) = source.emit(Reshape((1, bias.type.size, 1, 1)), bias)
        (result,) = source.emit(Add(), convolved, column)
    return [as_before(source, result, rank)]


def conv_transpose(source: Source) -> Sequence[Operand] | None:
    """Over planes or rows: one convolution computes all places of a window as channels, which then move.

    Along one axis, y[s·q + r] = Σ_d x[q - d] · k[s·d + r] for r below the stride s: a convolution whose kernel holds
    every s-th element of k, in reverse. What `pads` leave out at the beginning is as far as possible not computed, the
    rest cut off.
    """
    weight, data = source.constant(1), source.operand(0)
    plain = source.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not source.attribute("output_shape")
    bias = source.constant(2)
    if weight is None or not plain or source.attribute("group", 1) != 1 or (source.has(2) and bias is None):
        return None
    window = geometry(source, weight.shape[2:])
    if window is None or window.dilation != (1, 1):
        return None
    planes = as_planes(source, data)
    kernel = weight.reshape(*weight.shape[:2], *window.kernel)
    sizes = as_four(source.result_types[0].shape)[2:]
    axes = [
        _Phases.of(planes.type.shape[2 + i], sizes[i], window.kernel[i], window.strides[i], window.padding[i])
        for i in (0, 1)
    ]
    rows, columns = axes
    operands = [planes, literal(_by_phases(kernel, rows, columns))]
    op = Conv2d(padding=(rows.before, columns.before, rows.after, columns.after))
    if bias is None:
        (found,) = source.emit(op, *operands)
    else:
        shift = literal(np.ascontiguousarray(np.repeat(bias, rows.stride * columns.stride)))
        (found,) = source.emit(op, *operands, shift, epilogue=(Step("bias"),))
    batch, outputs = data.type.shape[0], weight.shape[1]
    if (rows.stride, columns.stride) != (1, 1):
        (parts,) = source.emit(Reshape((batch, outputs, rows.stride, columns.stride, rows.count, columns.count)), found)
        (moved,) = source.emit(Transpose((0, 1, 4, 2, 5, 3)), parts)
        (found,) = source.emit(
            Reshape((batch, outputs, rows.count * rows.stride, columns.count * columns.stride)), moved
        )
    for axis, along in enumerate(axes, 2):
        found = along.cut(source, found, axis)
    return [as_before(source, found, len(data.type.shape))]


@dataclass(frozen=True)
class _Phases:
    """A transposed convolution along one axis, as a convolution that computes `stride` places at each step.

    Attributes:
        taps: length of the convolution's kernel.
        before: the convolution's padding at the beginning, `after` that at the end.
        count: places of its result.
        skip: how much of the result lies before the part that is wanted, which has `size`.
    """

    stride: int
    taps: int
    before: int
    after: int
    count: int
    skip: int
    size: int

    @staticmethod
    def of(extent: int, size: int, kernel: int, stride: int, pad: int) -> _Phases:
        taps = -(-kernel // stride)
        left_out = min(pad // stride, taps - 1)
        before, skip = taps - 1 - left_out, pad - stride * left_out
        after = max(-(-(skip + size) // stride) - extent - before + taps - 1, 0)
        return _Phases(stride, taps, before, after, extent + before + after - taps + 1, skip, size)

    def cut(self, source: Source, found: Value, axis: int) -> Value:
        """The part that is wanted."""
        rest = self.count * self.stride - self.skip - self.size
        sizes = [size for size in (self.skip, self.size, rest) if size]
        if len(sizes) == 1:
            return found
        return source.emit(Split(axis, tuple(sizes)), found)[1 if self.skip else 0]


def _by_phases(kernel: Array, rows: _Phases, columns: _Phases) -> Array:
    """A kernel [C,M,kH,kW] as [M·sH·sW,C,tapsH,tapsW]."""
    channels, outputs = kernel.shape[:2]
    whole = np.zeros((channels, outputs, rows.taps * rows.stride, columns.taps * columns.stride), kernel.dtype)
    whole[:, :, : kernel.shape[2], : kernel.shape[3]] = kernel
    split = whole.reshape(channels, outputs, rows.taps, rows.stride, columns.taps, columns.stride)
    turned = split[:, :, ::-1, :, ::-1].transpose(1, 3, 5, 0, 2, 4)
    return np.ascontiguousarray(turned.reshape(-1, channels, rows.taps, columns.taps))


CONVERTERS: Mapping[str, Converter] = {"Conv": conv, "ConvTranspose": conv_transpose}
