"""Conv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from joulec.passes.graph import Add, Conv2d, Reshape, Step
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Converter, Source, is_literal
from joulec.passes.onnx.converters.geometry import geometry


def conv(source: Source) -> Sequence[Operand] | None:
    """A constant bias goes into the epilogue; one computed at run time is added."""
    data, kernel = source.operand(0), source.operand(1)
    window = geometry(source, kernel.type.shape[2:])
    if window is None:
        return None
    op = Conv2d(window.strides, window.padding, window.dilation, source.attribute("group", 1))
    if not source.has(2):
        return source.emit(op, data, kernel)
    bias = source.operand(2)
    if is_literal(bias):
        return source.emit(op, data, kernel, bias, epilogue=(Step("bias"),))
    (result,) = source.emit(op, data, kernel)
    (column,) = source.emit(Reshape((1, bias.type.size, 1, 1)), bias)
    return source.emit(Add(), result, column)


CONVERTERS: Mapping[str, Converter] = {"Conv": conv}
