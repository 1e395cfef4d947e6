"""Write a convolutional network and a transformer block with seeded weights, quantised by onnxruntime.quantization.

    python tests/benchmarks/quantise.py FOLDER

writes ``squeezenet-qdq.onnx``, ``squeezenet-dynamic.onnx``, ``block-qdq.onnx`` and ``block-dynamic.onnx``; then
``bench_models.py`` runs them beside ONNX Runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import example_input, prepare
from onnx import helper, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

DEPTH, HIDDEN, LENGTH, HEADS = 256, 1024, 64, 4
Feeds = Mapping[str, Any]


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Hands out inputs one by one."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._rest = iter(feeds)

    def get_next(self) -> Feeds | None:
        """The next inputs, None behind the last."""
        return next(self._rest, None)


def quantise(model: onnx.ModelProto, name: str, folder: Path, feeds: Iterable[Feeds]) -> None:
    """Write both quantised forms of a model."""
    plain = folder / f"{name}.onnx"
    onnx.save(model, plain)
    dynamic, static = folder / f"{name}-dynamic.onnx", folder / f"{name}-qdq.onnx"
    quantize_dynamic(plain, dynamic, weight_type=QuantType.QUInt8)
    quantize_static(plain, static, Calibration(feeds), quant_format=QuantFormat.QDQ, per_channel=True)


def transformer_block(random: np.random.Generator) -> onnx.ModelProto:
    """Attention written out and two products with ReLU between them, normalised before each."""
    held: dict[str, Any] = {
        "split": np.array([1, LENGTH, HEADS, DEPTH // HEADS]),
        "joined": np.array([1, LENGTH, DEPTH]),
        "scale": np.float32((DEPTH // HEADS) ** -0.5),
    }
    nodes = []

    def node(op: str, operands: list[str], result: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, operands, [result], name=result, **attributes))
        return result

    def linear(x: str, result: str, rows: int, columns: int) -> str:
        held[f"{result}_w"] = (random.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)
        held[f"{result}_b"] = (random.standard_normal(columns) / 10).astype(np.float32)
        return node("Add", [node("MatMul", [x, f"{result}_w"], f"{result}_m"), f"{result}_b"], result)

    def normal(x: str, result: str) -> str:
        held[f"{result}_gain"], held[f"{result}_offset"] = np.ones(DEPTH, np.float32), np.zeros(DEPTH, np.float32)
        return node("LayerNormalization", [x, f"{result}_gain", f"{result}_offset"], result, axis=-1)

    first = normal("x", "first")
    for name in "qkv":
        split = node("Reshape", [linear(first, name, DEPTH, DEPTH), "split"], f"{name}_split")
        node("Transpose", [split], f"{name}_heads", perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])
    scores = node("Mul", [node("MatMul", ["q_heads", "k_heads"], "scores"), "scale"], "scaled")
    mixed = node("MatMul", [node("Softmax", [scores], "shares", axis=-1), "v_heads"], "mixed")
    joined = node("Reshape", [node("Transpose", [mixed], "turned", perm=[0, 2, 1, 3]), "joined"], "whole")
    middle = node("Add", [linear(joined, "out", DEPTH, DEPTH), "x"], "middle")
    wide = node("Relu", [linear(normal(middle, "second"), "wide", DEPTH, HIDDEN)], "active")
    node("Add", [linear(wide, "narrow", HIDDEN, DEPTH), middle], "y")
    edges = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, LENGTH, DEPTH]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "block", edges[:1], edges[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write all."""
    folder, random = Path(sys.argv[1]), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    network = version_converter.convert_version(prepare("squeezenet"), 13)
    example = example_input(network)
    pictures = [{name: array * np.float32(size) for name, array in example.items()} for size in (0.7, 1.0, 1.3)]
    quantise(network, "squeezenet", folder, pictures)
    sequences = [{"x": random.standard_normal((1, LENGTH, DEPTH)).astype(np.float32)} for _ in range(3)]
    quantise(transformer_block(random), "block", folder, sequences)


if __name__ == "__main__":
    main()
