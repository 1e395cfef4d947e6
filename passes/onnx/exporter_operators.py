"""How each operator is written in ONNX; `EXPORTERS` has an entry for every one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    Node,
    Opaque,
    Operator,
    Pad,
    PlacedConcat,
    PooledConv2d,
    Reshape,
    Softmax,
    Split,
    Transpose,
    Weight,
)
from joulec.passes.graph.node import Operand
from joulec.passes.onnx import exporter_opaque
from joulec.passes.onnx.exporter_writer import ExportError, Writer

_ACTIVATIONS: Mapping[str, str] = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exp",
    "sqrt": "Sqrt",
    "erf": "Erf",
    "gelu": "Gelu",
    "hard_swish": "HardSwish",
}
"""Activations without parameters."""
_BINARIES: Mapping[str, str] = {"sub": "Sub", "mul": "Mul", "div": "Div"}

Write = Callable[[Writer, Node, Sequence[str]], None]


@dataclass(frozen=True)
class Exporter:
    """Writes the anchor of nodes of one operator.

    Attributes:
        plain: writes it to the outputs' names.
        biased: writes it with a bias added, where ONNX's operator takes one.
        biasable: whether ``biased`` can write this node.
    """

    plain: Write
    biased: Callable[[Writer, Node, Sequence[str], Operand], None] | None = None
    biasable: Callable[[Node], bool] = lambda node: True

    def takes_bias(self, node: Node) -> bool:
        """Whether a bias can be part of the operator itself."""
        return self.biased is not None and self.biasable(node)

    def write(self, writer: Writer, node: Node, outputs: Sequence[str], bias: Operand | None) -> None:
        """Write the anchor to the outputs' names."""
        if bias is None:
            self.plain(writer, node, outputs)
            return
        assert self.biased is not None
        self.biased(writer, node, outputs, bias)


def write_activation(writer: Writer, kind: str, params: Sequence[float], source: str, target: str, name: str) -> None:
    """An activation.

    Raises:
        ExportError: there is no counterpart in ONNX.
    """
    if kind == "clip":
        low, high = (writer.constant(np.array(bound, np.float32), "bound") for bound in params)
        writer.emit("Clip", [source, low, high], [target], name=name)
    elif kind == "leaky_relu":
        writer.emit("LeakyRelu", [source], [target], name=name, alpha=params[0])
    elif kind == "hard_sigmoid":
        writer.emit("HardSigmoid", [source], [target], name=name, alpha=params[0], beta=params[1])
    elif kind == "silu":  # ONNX has had Swish since opset 24 only
        gate = writer.fresh(f"{target}/sigmoid")
        writer.emit("Sigmoid", [source], [gate], name=f"{name}/sigmoid" if name else "")
        writer.emit("Mul", [source, gate], [target], name=name)
    elif kind in _ACTIVATIONS:
        writer.emit(_ACTIVATIONS[kind], [source], [target], name=name)
    else:
        raise ExportError(f"cannot write {name or kind} to ONNX: there is no exporter for the activation {kind}")


def add_bias(writer: Writer, bias: Operand, rank: int, source: str, target: str, name: str) -> None:
    """A vector added along the channels: axis 1 of a 4-d result, the last axis otherwise."""
    vector = _shaped(writer, bias, (-1, 1, 1)) if rank == 4 else writer.operand(bias)
    writer.emit("Add", [source, vector], [target], name=name)


def _shaped(writer: Writer, operand: Operand, shape: tuple[int, ...]) -> str:
    """An operand in another shape."""
    if isinstance(operand, Weight):
        return writer.constant(operand.value().reshape(shape))
    return writer.emit("Reshape", [writer.operand(operand), _integers(writer, shape)])


def _integers(writer: Writer, numbers: Sequence[int]) -> str:
    return writer.constant(np.array(numbers, np.int64), "shape")


def _anchors(writer: Writer, node: Node) -> list[str]:
    return [writer.operand(operand) for operand in node.anchor_operands]


def _activation(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    assert isinstance(node.op, Activation)
    write_activation(writer, node.op.kind, node.op.params, _anchors(writer, node)[0], outputs[0], node.name)


def _add(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    operands = _anchors(writer, node)
    writer.emit({1: "Identity", 2: "Add"}.get(len(operands), "Sum"), operands, outputs, name=node.name)


def _binary(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    assert isinstance(node.op, Binary)
    writer.emit(_BINARIES[node.op.kind], _anchors(writer, node), outputs, name=node.name)


def _channel_affine(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    channels = node.anchor_operands[1].type
    mean = writer.constant(np.zeros(channels.shape, channels.dtype))
    variance = writer.constant(np.ones(channels.shape, channels.dtype))
    inputs = [*_anchors(writer, node), mean, variance]
    writer.emit("BatchNormalization", inputs, outputs, name=node.name, epsilon=0.0)


def _conv(writer: Writer, node: Node, outputs: Sequence[str], bias: Operand | None = None) -> None:
    op = node.op
    assert isinstance(op, Conv2d)
    inputs = _anchors(writer, node) + ([] if bias is None else [writer.operand(bias)])
    writer.emit(
        "Conv", inputs, outputs, name=node.name, kernel_shape=node.anchor_operands[1].type.shape[2:],
        strides=op.strides, pads=op.padding, dilations=op.dilation, group=op.groups,
    )  # fmt: skip


def _pooled_conv(writer: Writer, node: Node, outputs: Sequence[str], bias: Operand | None = None) -> None:
    op = node.op
    assert isinstance(op, PooledConv2d)
    convolved = [writer.fresh(f"{node.name or 'conv'}.convolved")]
    bare = Node.make(op.convolution, node.anchor_operands, name=node.name)
    _conv(writer, bare, convolved, bias)
    _write_max_pool(writer, op.pooling, convolved, outputs, f"{node.name or 'conv'}.pool")


def _matrices(node: Node) -> bool:
    return all(len(operand.type.shape) == 2 for operand in node.anchor_operands)


def _matmul(writer: Writer, node: Node, outputs: Sequence[str], bias: Operand | None = None) -> None:
    op = node.op
    assert isinstance(op, MatMul)
    if _matrices(node) and (op.transpose_b or bias is not None):
        inputs = _anchors(writer, node) + ([] if bias is None else [writer.operand(bias)])
        writer.emit("Gemm", inputs, outputs, name=node.name, transB=int(op.transpose_b))
        return
    left, right = node.anchor_operands
    second = _transposed(writer, right) if op.transpose_b else writer.operand(right)
    writer.emit("MatMul", [writer.operand(left), second], outputs, name=node.name)


def _transposed(writer: Writer, operand: Operand) -> str:
    """The last two axes exchanged."""
    if isinstance(operand, Weight):
        return writer.constant(np.swapaxes(operand.value(), -1, -2))
    rank = len(operand.type.shape)
    order = (*range(rank - 2), rank - 1, rank - 2)
    return writer.emit("Transpose", [writer.operand(operand)], perm=order)


def _max_pool(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    op = node.op
    assert isinstance(op, MaxPool2d)
    _write_max_pool(writer, op, _anchors(writer, node), outputs, node.name)


def _write_max_pool(writer: Writer, op: MaxPool2d, inputs: Sequence[str], outputs: Sequence[str], name: str) -> None:
    writer.emit(
        "MaxPool", inputs, outputs, name=name, kernel_shape=op.kernel, strides=op.strides,
        pads=op.padding, dilations=op.dilation, ceil_mode=int(op.ceil_mode),
    )  # fmt: skip


def _avg_pool(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    op = node.op
    assert isinstance(op, AvgPool2d)
    writer.emit(
        "AveragePool", _anchors(writer, node), outputs, name=node.name, kernel_shape=op.kernel, strides=op.strides,
        pads=op.padding, dilations=op.dilation, ceil_mode=int(op.ceil_mode),
        count_include_pad=int(op.count_include_pad),
    )  # fmt: skip


def _softmax(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    assert isinstance(node.op, Softmax)
    writer.emit("Softmax", _anchors(writer, node), outputs, name=node.name, axis=node.op.axis)


def _layer_norm(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    op, data = node.op, node.anchor_operands[0].type
    assert isinstance(op, LayerNorm)
    inputs = _anchors(writer, node)
    if len(inputs) == 1:
        inputs.append(writer.constant(np.ones(data.shape[op.axis :], data.dtype)))
    writer.emit("LayerNormalization", inputs, outputs, name=node.name, axis=op.axis, epsilon=op.epsilon)


def _pad(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    op = node.op
    assert isinstance(op, Pad)
    before, after = ([pair[side] for pair in op.pads] for side in (0, 1))
    value = writer.constant(np.array(op.value, node.outputs[0].type.dtype), "value")
    inputs = [*_anchors(writer, node), _integers(writer, [*before, *after]), value]
    writer.emit("Pad", inputs, outputs, name=node.name)


def _local_response_norm(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    op = node.op
    assert isinstance(op, LocalResponseNorm)
    writer.emit(
        "LRN", _anchors(writer, node), outputs, name=node.name,
        size=op.size, alpha=op.alpha, beta=op.beta, bias=op.bias,
    )  # fmt: skip


def _concat(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    assert isinstance(node.op, Concat)
    writer.emit("Concat", _anchors(writer, node), outputs, name=node.name, axis=node.op.axis)


def _split(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    assert isinstance(node.op, Split)
    inputs = [*_anchors(writer, node), _integers(writer, node.op.sizes)]
    writer.emit("Split", inputs, outputs, name=node.name, axis=node.op.axis)


def _reshape(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    assert isinstance(node.op, Reshape)
    inputs = [*_anchors(writer, node), _integers(writer, node.op.shape)]
    zero = {"allowzero": 1} if 0 in node.op.shape else {}
    writer.emit("Reshape", inputs, outputs, name=node.name, **zero)


def _transpose(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    assert isinstance(node.op, Transpose)
    writer.emit("Transpose", _anchors(writer, node), outputs, name=node.name, perm=node.op.permutation)


EXPORTERS: Mapping[type[Operator], Exporter] = {
    Activation: Exporter(_activation),
    Add: Exporter(_add),
    AvgPool2d: Exporter(_avg_pool),
    Binary: Exporter(_binary),
    ChannelAffine: Exporter(_channel_affine),
    Concat: Exporter(_concat),
    Conv2d: Exporter(_conv, _conv),
    LayerNorm: Exporter(_layer_norm),
    LocalResponseNorm: Exporter(_local_response_norm),
    MatMul: Exporter(_matmul, _matmul, _matrices),
    MaxPool2d: Exporter(_max_pool),
    Opaque: Exporter(exporter_opaque.write),
    Pad: Exporter(_pad),
    PlacedConcat: Exporter(_concat),
    PooledConv2d: Exporter(_pooled_conv, _pooled_conv),
    Reshape: Exporter(_reshape),
    Softmax: Exporter(_softmax),
    Split: Exporter(_split),
    Transpose: Exporter(_transpose),
}
