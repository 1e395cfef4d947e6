"""Convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from joulec.passes.graph import Add, Conv2d, Reshape, Step, Transpose, literal
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Converter, Source, is_literal
from joulec.passes.onnx.converters.geometry import as_before, as_planes, geometry


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
    """Windows that lie side by side: a 1×1 convolution computes all places of a window as channels, which then move.

    y[n, m, s·h + i, t·w + j] = Σ_c x[n, c, h, w] · k[c, m, i, j] where the kernel is [s, t] and so are the strides.
    """
    data, weight = source.operand(0), source.constant(1)
    if weight is None or weight.ndim != 4 or source.attribute("group", 1) != 1:
        return None
    batch, _, height, width = data.type.shape
    channels, outputs, rows, columns = weight.shape
    bias = source.constant(2)
    plain = (
        tuple(source.attribute("strides", (1, 1))) == (rows, columns)
        and source.result_types[0].shape == (batch, outputs, height * rows, width * columns)
        and not any(source.attribute("pads", ()))
        and not any(source.attribute("output_padding", ()))
        and source.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )
    if not plain or (source.has(2) and bias is None):
        return None
    kernel = weight.transpose(1, 2, 3, 0).reshape(outputs * rows * columns, channels, 1, 1)
    operands = [data, literal(np.ascontiguousarray(kernel))]
    if bias is None:
        (found,) = source.emit(Conv2d(), *operands)
    else:
        shift = literal(np.ascontiguousarray(np.repeat(bias, rows * columns)))
        (found,) = source.emit(Conv2d(), *operands, shift, epilogue=(Step("bias"),))
    (parts,) = source.emit(Reshape((batch, outputs, rows, columns, height, width)), found)
    (moved,) = source.emit(Transpose((0, 1, 4, 2, 5, 3)), parts)
    return source.emit(Reshape(source.result_types[0].shape), moved)


CONVERTERS: Mapping[str, Converter] = {"Conv": conv, "ConvTranspose": conv_transpose}
