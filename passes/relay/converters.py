"""Which of the graph's operators each of Relay's is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    Node,
    Operator,
    Reshape,
    Softmax,
    Split,
    Transpose,
    Value,
    Weight,
    literal,
)
from joulec.passes.relay.types import tensor_type

Operand = Value | Weight


class NotModelled(Exception):
    """Attributes or operands that the graph's operator does not cover."""


class Reader(Protocol):
    """What is reading the function, and the nodes it has so far."""

    nodes: list[Node]

    def emit(self, op: Operator, operands: Sequence[Operand]) -> Value:
        """Add a node with one result.

        Raises:
            NotModelled: an operand is not float32, or none is computed.
        """

    def operands(self, call: Any) -> list[Any]:
        """The call's arguments."""


def _require(condition: bool) -> None:
    if not condition:
        raise NotModelled


Reading = Callable[[Reader, Any], Any]
"""What a call of one Relay operator is in the graph: a value, a weight, or a tuple of them."""


def _ints(values: Any) -> Any:
    return tuple(int(value) for value in values)


def _pads(values: Any) -> Any:
    """Relay's padding of one, two or four numbers as (top, left, bottom, right)."""
    found = _ints(values)
    return found if len(found) == 4 else found * (4 // len(found))


def _conv2d(reader: Reader, call: Any) -> Value:
    attrs = call.attrs
    _require((attrs.data_layout, attrs.kernel_layout) == ("NCHW", "OIHW") and attrs.out_layout in ("", "NCHW"))
    op = Conv2d(_ints(attrs.strides), _pads(attrs.padding), _ints(attrs.dilation), int(attrs.groups))
    return reader.emit(op, reader.operands(call))


def _dense(reader: Reader, call: Any) -> Value:
    data, weight = reader.operands(call)
    _require(len(data.type.shape) == 2 and len(weight.type.shape) == 2)
    return reader.emit(MatMul(transpose_b=True), [data, weight])


def _batch_matmul(reader: Reader, call: Any) -> Value:
    _require(not call.attrs.transpose_a)
    return reader.emit(MatMul(transpose_b=bool(call.attrs.transpose_b)), reader.operands(call))


def _pool(cls: type[MaxPool2d] | type[AvgPool2d]) -> Reading:
    def read(reader: Reader, call: Any) -> Value:
        attrs = call.attrs
        _require(attrs.layout == "NCHW" and attrs.out_layout in ("", "NCHW"))
        given: dict[str, Any] = {
            "kernel": _ints(attrs.pool_size),
            "strides": _ints(attrs.strides),
            "padding": _pads(attrs.padding),
            "dilation": _ints(attrs.dilation),
            "ceil_mode": bool(attrs.ceil_mode),
        }
        if cls is AvgPool2d:
            given["count_include_pad"] = bool(attrs.count_include_pad)
        return reader.emit(cls(**given), reader.operands(call))

    return read


def _global_average(reader: Reader, call: Any) -> Value:
    (data,) = reader.operands(call)
    _require(call.attrs.layout == "NCHW")
    return reader.emit(AvgPool2d(data.type.shape[2:]), [data])


def _activation(kind: str) -> Reading:
    return lambda reader, call: reader.emit(Activation(kind), reader.operands(call))


def _leaky(reader: Reader, call: Any) -> Value:
    return reader.emit(Activation("leaky_relu", (float(call.attrs.alpha),)), reader.operands(call))


def _clip(reader: Reader, call: Any) -> Value:
    bounds = float(call.attrs.a_min), float(call.attrs.a_max)
    return reader.emit(Activation("clip", bounds), reader.operands(call))


def _bias_add(reader: Reader, call: Any) -> Value:
    data, bias = reader.operands(call)
    rank = len(data.type.shape)
    axis = int(call.attrs.axis) % rank
    shape = (*bias.type.shape, *([1] * (rank - axis - 1)))
    return reader.emit(Add(), [data, _shaped(reader, bias, shape)])


def _shaped(reader: Reader, data: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(data, Weight):
        return literal(data.value().reshape(shape))
    return reader.emit(Reshape(shape), [data])


def _binary(kind: str) -> Reading:
    return lambda reader, call: reader.emit(Binary(kind), reader.operands(call))


def _batch_norm(reader: Reader, call: Any) -> Any:
    data, *statistics = reader.operands(call)
    _require(int(call.attrs.axis) == 1 and all(isinstance(part, Weight) for part in statistics))
    gamma, beta, mean, variance = (part.value().astype(np.float64) for part in statistics)
    gamma = gamma if call.attrs.scale else np.ones_like(gamma)
    beta = beta if call.attrs.center else np.zeros_like(beta)
    scale = gamma / np.sqrt(variance + float(call.attrs.epsilon))
    factors = [literal(part.astype(np.float32)) for part in (scale, beta - mean * scale)]
    return (reader.emit(ChannelAffine(), [data, *factors]), *statistics[2:])


def _lrn(reader: Reader, call: Any) -> Value:
    attrs = call.attrs
    _require(int(attrs.axis) == 1)
    op = LocalResponseNorm(int(attrs.size), float(attrs.alpha), float(attrs.beta), float(attrs.bias))
    return reader.emit(op, reader.operands(call))


def _softmax(reader: Reader, call: Any) -> Value:
    (data,) = reader.operands(call)
    return reader.emit(Softmax(int(call.attrs.axis) % len(data.type.shape)), [data])


def _concat(reader: Reader, call: Any) -> Value:
    (parts,) = reader.operands(call)
    return reader.emit(Concat(int(call.attrs.axis) % len(parts[0].type.shape)), list(parts))


def _split(reader: Reader, call: Any) -> Any:
    (data,) = reader.operands(call)
    _require(data.type.dtype == "float32" and isinstance(data, Value))
    axis = int(call.attrs.axis) % len(data.type.shape)
    node = Node.make(Split(axis, tuple(tensor_type(part).shape[axis] for part in call.checked_type.fields)), (data,))
    reader.nodes.append(node)
    return node.outputs


def _reshape(reader: Reader, call: Any) -> Any:
    return _shaped(reader, reader.operands(call)[0], tensor_type(call.checked_type).shape)


def _transpose(reader: Reader, call: Any) -> Any:
    data = reader.operands(call)[0]
    rank = len(data.type.shape)
    axes = call.attrs.axes
    order = tuple(reversed(range(rank))) if axes is None or not len(axes) else tuple(int(a) % rank for a in axes)
    return _transposed(reader, data, order)


def _transposed(reader: Reader, data: Any, order: tuple[int, ...]) -> Any:
    if isinstance(data, Weight):
        return literal(np.ascontiguousarray(data.value().transpose(order)))
    return reader.emit(Transpose(order), [data])


def _layout_transform(reader: Reader, call: Any) -> Any:
    data = reader.operands(call)[0]
    source, target = str(call.attrs.src_layout), str(call.attrs.dst_layout)
    _require(source.isalpha() and sorted(source) == sorted(target) and len(source) == len(data.type.shape))
    return _transposed(reader, data, tuple(source.index(axis) for axis in target))


def _dropout(reader: Reader, call: Any) -> Any:
    data = reader.operands(call)[0]
    return (data, literal(np.ones(data.type.shape, data.type.dtype)))


READINGS: dict[str, Reading] = {
    "nn.conv2d": _conv2d,
    "nn.dense": _dense,
    "nn.batch_matmul": _batch_matmul,
    "nn.max_pool2d": _pool(MaxPool2d),
    "nn.avg_pool2d": _pool(AvgPool2d),
    "nn.global_avg_pool2d": _global_average,
    "nn.relu": _activation("relu"),
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "exp": _activation("exp"),
    "sqrt": _activation("sqrt"),
    "erf": _activation("erf"),
    "nn.leaky_relu": _leaky,
    "clip": _clip,
    "add": lambda reader, call: reader.emit(Add(), reader.operands(call)),
    "nn.bias_add": _bias_add,
    "subtract": _binary("sub"),
    "multiply": _binary("mul"),
    "divide": _binary("div"),
    "nn.batch_norm": _batch_norm,
    "nn.lrn": _lrn,
    "nn.softmax": _softmax,
    "concatenate": _concat,
    "split": _split,
    "reshape": _reshape,
    "nn.batch_flatten": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "layout_transform": _layout_transform,
    "nn.dropout": _dropout,
    "copy": lambda reader, call: reader.operands(call)[0],
}
