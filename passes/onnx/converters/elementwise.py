"""Activations and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from joulec.passes.graph import Activation, Add, Binary, ChannelAffine, literal
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Converter, Source
from joulec.passes.onnx.program import Array

_FLOAT_MAX = float(np.finfo(np.float32).max)


def _activation(kind: str) -> Converter:
    return lambda source: source.emit(Activation(kind), source.operand(0))


def gelu(source: Source) -> Sequence[Operand] | None:
    """The exact form; the one with tanh is another function."""
    return (
        None
        if source.attribute("approximate", "none") != "none"
        else source.emit(Activation("gelu"), source.operand(0))
    )


def leaky_relu(source: Source) -> Sequence[Operand] | None:
    """The slope of the negative side is 0.01 where none is given."""
    return source.emit(Activation("leaky_relu", (float(source.attribute("alpha", 0.01)),)), source.operand(0))


def hard_sigmoid(source: Source) -> Sequence[Operand] | None:
    """Slope 0.2 and offset 0.5 where none are given."""
    params = (float(source.attribute("alpha", 0.2)), float(source.attribute("beta", 0.5)))
    return source.emit(Activation("hard_sigmoid", params), source.operand(0))


def swish(source: Source) -> Sequence[Operand] | None:
    """x · sigmoid(alpha · x), which is silu for 1."""
    if float(source.attribute("alpha", 1.0)) != 1:
        return None
    return source.emit(Activation("silu"), source.operand(0))


def clip(source: Source) -> Sequence[Operand] | None:
    """The bounds are attributes before opset 11 and constant operands since; from zero up it is relu."""
    if source.opset < 11:
        low, high = source.attribute("min", -_FLOAT_MAX), source.attribute("max", _FLOAT_MAX)
    else:
        bounds = []
        for index, missing in ((1, -_FLOAT_MAX), (2, _FLOAT_MAX)):
            bound = source.constant(index)
            if bound is None and source.has(index):
                return None
            bounds.append(missing if bound is None else bound.item())
        low, high = bounds
    if low == 0 and high >= _FLOAT_MAX:
        return source.emit(Activation("relu"), source.operand(0))
    return source.emit(Activation("clip", (float(low), float(high))), source.operand(0))


def channels(constant: Array, shape: tuple[int, ...]) -> Array | None:
    """A constant that broadcasts to x[N,C,...] as a vector [C], None where it varies along another axis.

    A single number counts as such a vector only for matrices and images, where axis 1 is known to hold channels.
    """
    rank = len(shape)
    if rank < 2 or constant.ndim > rank:
        return None
    aligned = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for axis, size in enumerate(aligned) if axis != 1) or aligned[1] not in (1, shape[1]):
        return None
    if aligned[1] != shape[1] and rank not in (2, 4):
        return None
    return np.broadcast_to(constant.reshape(-1), (shape[1],)).astype(np.float32)


def _affine(
    source: Source, scale: Callable[[Array], Array], shift: Callable[[Array], Array], places: tuple[int, ...]
) -> Sequence[Operand] | None:
    """x op c for a constant c per channel, c standing at one of the places."""
    if len(source.node.input) != 2:
        return None
    for place in places:
        constant = source.constant(place)
        data = source.operand(1 - place)
        if constant is None or source.constant(1 - place) is not None:
            continue
        vector = channels(constant, data.type.shape)
        if vector is not None and data.type == source.result_types[0]:
            return source.emit(ChannelAffine(), data, literal(scale(vector)), literal(shift(vector)))
    return None


def add(source: Source) -> Sequence[Operand] | None:
    """Add and Sum."""
    if len(source.node.input) == 1:
        return [source.operand(0)]
    return _affine(source, np.ones_like, np.copy, (0, 1)) or source.emit(Add(), *source.operands)


def mul(source: Source) -> Sequence[Operand] | None:
    """Product."""
    return _affine(source, np.copy, np.zeros_like, (0, 1)) or source.emit(Binary("mul"), *source.operands)


def sub(source: Source) -> Sequence[Operand] | None:
    """Difference: x - c is x + (-c), exactly."""
    return _affine(source, np.ones_like, np.negative, (1,)) or source.emit(Binary("sub"), *source.operands)


def div(source: Source) -> Sequence[Operand] | None:
    """Quotient; a reciprocal would be rounded, so a constant divisor stays one."""
    return source.emit(Binary("div"), *source.operands)


CONVERTERS: Mapping[str, Converter] = {
    "Relu": _activation("relu"),
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Exp": _activation("exp"),
    "Sqrt": _activation("sqrt"),
    "Erf": _activation("erf"),
    "Gelu": gelu,
    "LeakyRelu": leaky_relu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": _activation("hard_swish"),
    "Swish": swish,
    "Clip": clip,
    "Add": add,
    "Sum": add,
    "Mul": mul,
    "Sub": sub,
    "Div": div,
}
