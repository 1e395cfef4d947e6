"""Batch, layer and local response normalisation, softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from joulec.passes.graph import ChannelAffine, LayerNorm, LocalResponseNorm, Reshape, Softmax, literal
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Converter, Source


def batch_normalization(source: Source) -> Sequence[Operand] | None:
    """With constant statistics it is a scale and a shift per channel."""
    statistics = [source.constant(index) for index in range(1, 5)]
    training = source.attribute("training_mode", 0) or len(source.outputs) != 1 or not source.attribute("spatial", 1)
    if training or any(array is None for array in statistics):
        return None
    scale, bias, mean, variance = (np.asarray(array, np.float64) for array in statistics)
    factor = scale / np.sqrt(variance + source.attribute("epsilon", 1e-5))
    shift = bias - mean * factor
    return source.emit(
        ChannelAffine(), source.operand(0), literal(factor.astype(np.float32)), literal(shift.astype(np.float32))
    )


def lrn(source: Source) -> Sequence[Operand] | None:
    """Local response normalisation."""
    op = LocalResponseNorm(
        source.attribute("size"),
        source.attribute("alpha", 1e-4),
        source.attribute("beta", 0.75),
        source.attribute("bias", 1.0),
    )
    return source.emit(op, source.operand(0))


def layer_normalization(source: Source) -> Sequence[Operand] | None:
    """Scale and shift of the very shape of the normalised axes; mean and deviation are not asked for."""
    data = source.operand(0)
    shape = data.type.shape
    axis = source.attribute("axis", -1) % len(shape)
    operands = [source.operand(index) for index in (1, 2) if source.has(index)]
    if len(source.outputs) != 1 or any(operand.type.shape != shape[axis:] for operand in operands):
        return None
    return source.emit(LayerNorm(axis, source.attribute("epsilon", 1e-5)), data, *operands)


def softmax(source: Source) -> Sequence[Operand] | None:
    """Before opset 13 the operand is flattened to a matrix at ``axis``, which matters where a later axis is longer."""
    data = source.operand(0)
    shape = data.type.shape
    if not shape:
        return None
    modern = source.opset >= 13
    axis = source.attribute("axis", -1 if modern else 1)
    axis = axis % len(shape) if axis < len(shape) else axis
    if axis < len(shape) and (modern or math.prod(shape[axis + 1 :]) == 1):
        return source.emit(Softmax(axis), data)
    (matrix,) = source.emit(Reshape((math.prod(shape[:axis]), math.prod(shape[axis:]))), data)
    return source.emit(Reshape(shape), *source.emit(Softmax(1), matrix))


CONVERTERS: Mapping[str, Converter] = {
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "LRN": lrn,
    "Softmax": softmax,
}
