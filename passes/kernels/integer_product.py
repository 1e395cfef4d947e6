"""Integer convolutions and matrix products as ONNX defines them, read from nodes that the graph does not model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper

from joulec.passes.graph import NodeSpec, Opaque
from joulec.passes.kernels.conv_tir import Geometry

Array = npt.NDArray[Any]

_BYTES = ("int8", "uint8")
_PLACES: Mapping[str, tuple[int, int, int, int]] = {
    "ConvInteger": (0, 1, 2, 3),
    "MatMulInteger": (0, 1, 2, 3),
    "QLinearConv": (0, 3, 2, 5),
    "QLinearMatMul": (0, 3, 2, 5),
}
"""By operator: the positions of data, weights, and the zero points of both."""


@dataclass(frozen=True)
class Requantised:
    """How a sum becomes a byte: times a factor per channel in float32, rounded to even, plus the zero point.

    Attributes:
        factors: one, or one per channel.
        zero: zero point of the result.
        dtype: ``int8`` or ``uint8``.
    """

    factors: Array
    zero: int
    dtype: str


@dataclass(frozen=True)
class IntegerProduct:
    """A product of bytes less their zero points, accumulated in int32.

    Attributes:
        node: the ONNX node of the product itself.
        data_type: ``int8`` or ``uint8``.
        weight_type: the same of the constant factor, which is the node's second operand.
        data_zero: the data's zero point, None where it is an operand.
        zero_operand: which operand it is, None where it is known.
        weight_zeros: the weights' zero points, one or one per channel.
        bias: added to the sums, one or one per channel; None where nothing is.
        bias_operand: which operand is added too, of one element or one per channel; None where none is.
        requantised: what becomes of the sums; None where they, or the same numbers in float32, are the result.
        depth: products per sum.
        channels: output channels, or columns.
    """

    node: onnx.NodeProto
    data_type: str
    weight_type: str
    data_zero: int | None
    zero_operand: int | None
    weight_zeros: Array
    bias: Array | None
    bias_operand: int | None
    requantised: Requantised | None
    depth: int
    channels: int

    @staticmethod
    def of(spec: NodeSpec) -> IntegerProduct | None:
        """The product that a node is; None where it is none of bytes with constant weights and parameters."""
        if not isinstance(spec.op, Opaque) or spec.op.dialect != "onnx":
            return None
        return _read(spec) if any(name in spec.op.kind for name in _PLACES) else None

    @staticmethod
    def required(spec: NodeSpec) -> IntegerProduct:
        """The product of a spec for which a kernel named schedules.

        Raises:
            ValueError: it is none.
        """
        product = IntegerProduct.of(spec)
        if product is None:
            raise ValueError(f"no integer product with constant weights: {spec}")
        return product

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution."""
        return "Conv" in self.node.op_type

    def per_channel(self, values: Array) -> Array:
        """One value or one per channel as one per channel."""
        return np.broadcast_to(values.reshape(-1), (self.channels,))


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a definition by name: where they come from, and what they hold if that is known."""

    positions: Mapping[str, int]
    arrays: Mapping[str, Array]
    names: Sequence[str]

    def name(self, index: int) -> str:
        return self.names[index] if len(self.names) > index else ""

    def array(self, index: int) -> Array | None:
        return self.arrays.get(self.name(index))

    def position(self, index: int) -> int | None:
        return self.positions.get(self.name(index))


@lru_cache(maxsize=4096)
def _read(spec: NodeSpec) -> IntegerProduct | None:
    assert isinstance(spec.op, Opaque)
    graph = onnx.load_from_string(spec.op.definition).graph
    node, *following = graph.node
    if node.op_type not in _PLACES or any(one.domain not in ("", "ai.onnx") for one in graph.node):
        return None
    tensors = _Tensors(
        {value.name: index for index, value in enumerate(graph.input)},
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer},
        list(node.input),
    )
    data, weights, data_zero, weight_zero = _PLACES[node.op_type]
    if (tensors.position(data), tensors.position(weights)) != (0, 1) or not spec.operands[1].constant:
        return None
    types = [operand.type for operand in spec.operands[:2]]
    if any(type.dtype not in _BYTES or not type.size for type in types) or len(spec.results) != 1:
        return None
    sizes = _sizes(node, spec)
    zeros = _zero_points(tensors, spec, data_zero, weight_zero)
    if sizes is None or zeros is None:
        return None
    depth, channels = sizes
    finish = _finish(node, tensors, channels)
    if finish is None or zeros[2].size not in (1, channels):
        return None
    bias, requantised = finish
    place = None
    if following:
        added = _added(following, tensors, spec, channels)
        if requantised is not None or added is None:
            return None
        bias, place = added
    return IntegerProduct(node, types[0].dtype, types[1].dtype, *zeros, bias, place, requantised, depth, channels)


def _added(
    nodes: Sequence[onnx.NodeProto], tensors: _Tensors, spec: NodeSpec, channels: int
) -> tuple[Array | None, int | None] | None:
    """What is added to the sums, as array or operand; None where it is not per channel, or more is done to them."""
    if [node.op_type for node in nodes] not in (["Add"], ["Cast"], ["Add", "Cast"]):
        return None
    if nodes[0].op_type == "Cast":
        return None, None
    (name,) = (name for name in nodes[0].input if name in tensors.arrays or name in tensors.positions)
    array, place = tensors.arrays.get(name), tensors.positions.get(name)
    shape = array.shape if array is not None else spec.operands[place or 0].type.shape
    rank = len(spec.operands[0].type.shape)
    axis = 1 if "Conv" in spec.op.name else rank - 1
    aligned = (1,) * (rank - len(shape)) + shape
    if len(shape) > rank or any(size not in (1, channels if d == axis else 1) for d, size in enumerate(aligned)):
        return None
    return (array.reshape(-1), None) if array is not None else (None, place)


def _sizes(node: onnx.NodeProto, spec: NodeSpec) -> tuple[int, int] | None:
    data, weights = (operand.type.shape for operand in spec.operands[:2])
    if "Conv" in node.op_type:
        return (math.prod(weights[1:]), weights[0]) if len(weights) in (3, 4) else None
    if len(weights) < 2 or math.prod(weights[:-2]) != 1 or not data or len(data) < 2 or len(weights) > len(data):
        return None
    return weights[-2], weights[-1]


def _zero_points(
    tensors: _Tensors, spec: NodeSpec, data_zero: int, weight_zero: int
) -> tuple[int | None, int | None, Array] | None:
    """The data's zero point or which operand it is, and the weights'; None where they are of another kind."""
    weights = np.zeros(1, np.int32)
    if tensors.name(weight_zero):
        known = tensors.array(weight_zero)
        if known is None:
            return None
        weights = known.astype(np.int32).reshape(-1)
    if not tensors.name(data_zero):
        return 0, None, weights
    known, place = tensors.array(data_zero), tensors.position(data_zero)
    if known is not None:
        return (int(known.reshape(-1)[0]), None, weights) if known.size == 1 else None
    if place is None or spec.operands[place].type.size != 1:
        return None
    return None, place, weights


def _finish(node: onnx.NodeProto, tensors: _Tensors, channels: int) -> tuple[Array | None, Requantised | None] | None:
    """Bias and requantisation of the operators that have them; None where they are not known."""
    if not node.op_type.startswith("QLinear"):
        return None, None
    found = [tensors.array(index) for index in (1, 4, 6, 7)]
    bias = tensors.array(8) if tensors.name(8) else np.zeros(1, np.int32)
    if bias is None or any(one is None for one in found):
        return None
    data, weight, result, zero = (one for one in found if one is not None)
    scales = (data, weight, result)
    if any(scale.dtype != np.float32 for scale in scales) or str(zero.dtype) not in _BYTES:
        return None
    if data.size != 1 or result.size != 1 or zero.size != 1 or weight.size not in (1, channels):
        return None
    factors = data.reshape(-1) * weight.reshape(-1) / result.reshape(-1)
    return (bias if tensors.name(8) else None), Requantised(factors, int(zero.reshape(-1)[0]), str(zero.dtype))


def integer_flops(spec: NodeSpec) -> int:
    """Multiplications and additions of an integer product, two each; 0 for any other node."""
    product = IntegerProduct.of(spec)
    return 2 * product.depth * spec.results[0].size if product else 0


def conv_geometry(product: IntegerProduct, spec: NodeSpec) -> Geometry | None:
    """The numbers of a convolution over planes, or over rows as planes of height one; None of any other."""
    if not product.is_conv:
        return None
    data, weights, result = spec.operands[0].type.shape, spec.operands[1].type.shape, spec.results[0].shape
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in product.node.attribute}
    rank = len(weights) - 2
    strides = tuple(attributes.get("strides", (1,) * rank))
    dilation = tuple(attributes.get("dilations", (1,) * rank))
    before = _before(attributes, data[2:], weights[2:], result[2:], strides, dilation)
    if min(before) < 0 or len(data) != len(weights):
        return None
    rows = (1,) * (2 - rank)
    height, width = (*rows, *data[2:])
    out_height, out_width = (*rows, *result[2:])
    kernel = (*rows, *weights[2:])
    return Geometry(
        batch=data[0],
        channels=data[1],
        height=height,
        width=width,
        out_channels=weights[0],
        out_height=out_height,
        out_width=out_width,
        kernel=(kernel[0], kernel[1]),
        strides=_pair(rows, strides),
        dilation=_pair(rows, dilation),
        top=(*((0,) * len(rows)), *before)[0],
        left=before[-1],
        groups=int(attributes.get("group", 1)),
    )


def _pair(rows: Sequence[int], values: Sequence[int]) -> tuple[int, int]:
    first, second = (*rows, *values)
    return first, second


def _before(
    attributes: Mapping[str, Any],
    data: Sequence[int],
    kernel: Sequence[int],
    result: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Padding before the first element of each axis."""
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    if automatic in ("NOTSET", "VALID"):
        stated = attributes.get("pads", (0,) * len(kernel)) if automatic == "NOTSET" else (0,) * len(kernel)
        return list(stated[: len(kernel)])
    totals = [
        max((out - 1) * stride + (size - 1) * step + 1 - extent, 0)
        for extent, size, out, stride, step in zip(data, kernel, result, strides, dilation, strict=True)
    ]
    return [total // 2 if automatic == "SAME_UPPER" else total - total // 2 for total in totals]
