"""Poolings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from joulec.passes.graph import AvgPool2d, MaxPool2d, Reshape
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Converter, Source
from joulec.passes.onnx.converters.geometry import as_before, as_planes, geometry
from joulec.passes.onnx.errors import ModelError


def max_pool(source: Source) -> Sequence[Operand] | None:
    """The indices of the maxima, where asked for, are not modelled."""
    window = geometry(source, tuple(source.attribute("kernel_shape")))
    if window is None or len(source.outputs) != 1:
        return None
    ceil_mode = bool(source.attribute("ceil_mode", 0))
    return _pooled(source, MaxPool2d(window.kernel, window.strides, window.padding, window.dilation, ceil_mode))


def average_pool(source: Source) -> Sequence[Operand] | None:
    """Mean over windows."""
    window = geometry(source, tuple(source.attribute("kernel_shape")))
    if window is None:
        return None
    ceil_mode = bool(source.attribute("ceil_mode", 0))
    counted = bool(source.attribute("count_include_pad", 0))
    return _pooled(
        source, AvgPool2d(window.kernel, window.strides, window.padding, window.dilation, ceil_mode, counted)
    )


def _pooled(source: Source, op: MaxPool2d | AvgPool2d) -> Sequence[Operand]:
    """Planes or rows, pooled.

    Shape inference keeps a last window that starts in the trailing padding; runtimes, and joulec, leave it out.
    """
    data = source.operand(0)
    rank = len(data.type.shape)
    (pooled,) = source.emit(op, as_planes(source, data))
    result = as_before(source, pooled, rank)
    if rank == 4 and result.type != source.result_types[0]:
        raise ModelError(
            f"node '{source.title}' ({source.node.op_type}): in ceil mode its last window lies in the padding, which "
            f"ONNX's shape inference counts and its runtimes do not; export it with ceil_mode=0 and explicit pads"
        )
    return [result]


def _global(kind: type[MaxPool2d] | type[AvgPool2d]) -> Converter:
    """The window is the whole plane, or the whole row."""

    def converter(source: Source) -> Sequence[Operand] | None:
        data = source.operand(0)
        rank = len(data.type.shape)
        if rank not in (3, 4):
            return None
        planes = as_planes(source, data)
        height, width = planes.type.shape[2:]
        (pooled,) = source.emit(kind((height, width)), planes)
        return [as_before(source, pooled, rank)]

    return converter


def reduce_mean(source: Source) -> Sequence[Operand] | None:
    """The mean over the plane is global average pooling."""
    shape = source.operand(0).type.shape
    axes = source.constant(1) if source.opset >= 18 else source.attribute("axes")
    if len(shape) != 4 or axes is None or sorted(int(axis) % 4 for axis in np.asarray(axes).ravel()) != [2, 3]:
        return None
    pooled = source.emit(AvgPool2d(shape[2:]), source.operand(0))
    return pooled if source.attribute("keepdims", 1) else source.emit(Reshape(shape[:2]), *pooled)


CONVERTERS: Mapping[str, Converter] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": _global(AvgPool2d),
    "GlobalMaxPool": _global(MaxPool2d),
    "ReduceMean": reduce_mean,
}
