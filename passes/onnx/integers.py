"""Products between dequantisation and quantisation, as the products of bytes that they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper

from joulec.passes.graph import TensorType
from joulec.passes.onnx.program import Array, Dequantised, Program, references

_BYTES = ("int8", "uint8")
_DEEPEST = (2**31 - 1) // 255**2
_SAME_SCALE = 1e-5
"""Relative difference up to which a bias's scale is that of the sums: exporters multiply in other precisions."""


def in_bytes(program: Program, types: Mapping[str, TensorType]) -> tuple[Program, dict[str, TensorType]]:
    """The program with convolutions and products of quantised numbers as QLinearConv and QLinearMatMul.

    Quantise(Dequantise(x) * Dequantise(w) + Dequantise(b)) is rounded from a sum in float32; here the sum is exact. The
    results are the same but where rounding in float32 decides between two levels.

    Args:
        types: of the program's values.

    Returns:
        The program given and its types where there is no such product.
    """
    known = _Known.of(program, types)
    fused = {node.output[0]: found for node in program.nodes if (found := known.product(node)) is not None}
    if not fused:
        return program, dict(types)
    renewed = program.copy()
    quantised = {known.readers[name].output[0]: product for name, product in fused.items()}
    renewed.nodes = []
    for node in program.nodes:
        if node.output[0] in fused:
            continue
        product = quantised.get(node.output[0])
        renewed.nodes.append(node if product is None else product.node(node, renewed.constants))
    renewed.prune()
    added = {name: array for name, array in renewed.constants.items() if name not in program.constants}
    return renewed, {**types, **{name: TensorType(one.shape, str(one.dtype)) for name, one in added.items()}}


@dataclass(frozen=True)
class _Product:
    """A product with the bytes of its factors.

    Attributes:
        original: Conv or MatMul.
        data: name of the data's bytes.
        step: scale and zero point of the data.
        weights: the constant factor.
        bias: in int32, or None.
    """

    original: onnx.NodeProto
    data: str
    step: tuple[Array, Array]
    weights: Dequantised
    bias: Array | None

    def node(self, quantise: onnx.NodeProto, constants: dict[str, Array]) -> onnx.NodeProto:
        """The operator on bytes, in place of the node that quantises its result; its constants are added."""
        title = self.original.name or self.original.output[0]
        scale = np.asarray(self.weights.scale).reshape(-1 if self.weights.scale.size > 1 else ())
        zero = np.zeros((), self.weights.array.dtype) if self.weights.zero is None else self.weights.zero
        made: dict[str, Any] = {
            "data_scale": self.step[0],
            "data_zero": self.step[1],
            "weights": self.weights.array,
            "weights_scale": scale,
            "weights_zero": np.broadcast_to(zero.reshape(-1 if zero.size > 1 else ()), scale.shape).copy(),
        }
        if self.bias is not None:
            made["bias"] = self.bias
        names = {key: f"{self.original.output[0]}/{key}" for key in made}
        constants.update((names[key], np.asarray(array)) for key, array in made.items())
        first, second = ["data_scale", "data_zero"], ["weights", "weights_scale", "weights_zero"]
        inputs = [self.data, *(names[key] for key in (*first, *second)), *quantise.input[1:3]]
        inputs += [names["bias"]] if self.bias is not None else []
        found = onnx.helper.make_node(f"QLinear{self.original.op_type}", inputs, quantise.output, name=title)
        found.attribute.extend(self.original.attribute)
        return found


@dataclass(frozen=True)
class _Known:
    """What decides whether a product can be of bytes.

    Attributes:
        makers: the node that makes a value.
        readers: the only node that reads a value.
    """

    program: Program
    types: Mapping[str, TensorType]
    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, onnx.NodeProto]

    @staticmethod
    def of(program: Program, types: Mapping[str, TensorType]) -> _Known:
        counts = Counter(name for node in program.nodes for name in references(node))
        counts.update(value.name for value in program.outputs)
        makers = {name: node for node in program.nodes for name in node.output}
        readers = {name: node for node in program.nodes for name in node.input if counts[name] == 1}
        return _Known(program, types, makers, readers)

    def product(self, node: onnx.NodeProto) -> _Product | None:
        """The product of bytes that a node stands for; None where it is none."""
        if node.op_type not in ("Conv", "MatMul") or node.domain not in ("", "ai.onnx"):
            return None
        weights, data = self.program.dequantised.get(node.input[1]), self.makers.get(node.input[0])
        reader = self.readers.get(node.output[0])
        if weights is None or data is None or reader is None or reader.op_type != "QuantizeLinear":
            return None
        step = self._step(data, "DequantizeLinear")
        if step is None or self._step(reader, "QuantizeLinear") is None or not self._fits(node, data, weights):
            return None
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = _as_sums(self.program.dequantised.get(node.input[2]), step[0], weights.scale)
            if bias is None:
                return None
        return _Product(node, data.input[0], step, weights, bias)

    def _step(self, node: onnx.NodeProto, kind: str) -> tuple[Array, Array] | None:
        """Scale and zero point of a node of the kind that has one each, known ahead."""
        if node.op_type != kind or node.domain not in ("", "ai.onnx") or len(node.input) < 3 or not node.input[2]:
            return None
        scale, zero = (self.program.constants.get(name) for name in node.input[1:3])
        if scale is None or zero is None or scale.size != 1 or zero.size != 1:
            return None
        if scale.dtype != np.float32 or str(zero.dtype) not in _BYTES:
            return None
        return scale.reshape(()), zero.reshape(())

    def _fits(self, node: onnx.NodeProto, data: onnx.NodeProto, weights: Dequantised) -> bool:
        """Whether kernels multiply bytes of such shapes, with a scale for all or for each output channel."""
        shape, source = weights.array.shape, self.types.get(data.input[0])
        conv = node.op_type == "Conv"
        axis, depth = (0, int(np.prod(shape[1:]))) if conv else (len(shape) - 1, shape[0])
        sizes = (len(shape) in (3, 4)) if conv else len(shape) == 2
        if source is None or source.dtype not in _BYTES or str(weights.array.dtype) not in _BYTES or not sizes:
            return False
        ranks = len(source.shape) == len(shape) if conv else len(source.shape) >= 2
        one, each = weights.scale.size == 1, weights.axis % len(shape) == axis and weights.scale.size == shape[axis]
        pads = [value for one in node.attribute if one.name == "pads" for value in one.ints]
        plain = weights.scale.dtype == np.float32 and min(pads, default=0) >= 0
        return plain and ranks and (one or each) and 0 < depth <= _DEEPEST


def _as_sums(bias: Dequantised | None, data: Array, weights: Array) -> Array | None:
    """A bias in int32 whose scale is that of the sums."""
    if (
        bias is None
        or bias.array.dtype != np.int32
        or bias.array.ndim != 1
        or (bias.zero is not None and bias.zero.any())
    ):
        return None
    wanted = data.astype(np.float64) * weights.reshape(-1).astype(np.float64)
    same = np.allclose(bias.scale.reshape(-1).astype(np.float64), wanted, rtol=_SAME_SCALE, atol=0)
    return bias.array if same else None
