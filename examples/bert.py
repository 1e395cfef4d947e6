"""A BERT encoder with seeded weights, written out in plain ONNX operators as exporters write it.

    python examples/bert.py bert.onnx --layers 12 --hidden 768 --heads 12 --sequence 128 --batch 1

The input is what the embedding hands to the first layer: float32 [batch, sequence, hidden].
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper

OPSET = 17
"""The first with LayerNormalization."""


@dataclass
class _Writer:
    """Collects nodes and weights; every node is named after its one output."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def node(self, kind: str, name: str, *operands: str, **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(kind, list(operands), [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        self.weights[name] = np.asarray(array, dtype)
        return name

    def linear(self, name: str, data: str, depth: int, width: int) -> str:
        """data · W + b, W of a variance that keeps the data's."""
        weight = self.constant(f"{name}/weight", self.rng.standard_normal((depth, width)) / math.sqrt(depth))
        bias = self.constant(f"{name}/bias", 0.1 * self.rng.standard_normal(width))
        return self.node("Add", f"{name}/sum", self.node("MatMul", f"{name}/product", data, weight), bias)

    def norm(self, name: str, data: str, hidden: int) -> str:
        scale = self.constant(f"{name}/scale", 1 + 0.1 * self.rng.standard_normal(hidden))
        shift = self.constant(f"{name}/shift", 0.1 * self.rng.standard_normal(hidden))
        return self.node("LayerNormalization", name, data, scale, shift, axis=-1, epsilon=1e-12)

    def gelu(self, name: str, data: str) -> str:
        """x · (1 + erf(x / sqrt 2)) · 0.5"""
        root = self.constant("root_two", math.sqrt(2.0))
        one, half = self.constant("one", 1.0), self.constant("half", 0.5)
        error = self.node("Erf", f"{name}/erf", self.node("Div", f"{name}/div", data, root))
        gated = self.node("Mul", f"{name}/gated", data, self.node("Add", f"{name}/add", error, one))
        return self.node("Mul", name, gated, half)


def encoder(
    layers: int = 12,
    hidden: int = 768,
    heads: int = 12,
    sequence: int = 128,
    batch: int = 1,
    *,
    intermediate: int | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    """A BERT encoder: attention and feed-forward network, each with a residual sum and a normalisation after it.

    Args:
        hidden: width of the residual stream, a multiple of ``heads``.
        intermediate: width of the feed-forward network; four times ``hidden`` when omitted.
        seed: decides all weights.

    Raises:
        ValueError: the heads do not divide the width.
    """
    if hidden % heads:
        raise ValueError(f"a width of {hidden} does not divide into {heads} heads")
    wide = 4 * hidden if intermediate is None else intermediate
    writer = _Writer(np.random.default_rng(seed))
    data = "embeddings"
    for index in range(layers):
        data = _layer(writer, f"layer{index}", data, (batch, sequence, hidden), heads, wide)
    graph = onnx.helper.make_graph(
        writer.nodes,
        "bert",
        [onnx.helper.make_tensor_value_info("embeddings", onnx.TensorProto.FLOAT, (batch, sequence, hidden))],
        [onnx.helper.make_tensor_value_info(data, onnx.TensorProto.FLOAT, (batch, sequence, hidden))],
        [onnx.numpy_helper.from_array(array, name) for name, array in writer.weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)


def _layer(writer: _Writer, name: str, data: str, shape: tuple[int, int, int], heads: int, wide: int) -> str:
    batch, sequence, hidden = shape
    split = writer.constant("to_heads", [batch, sequence, heads, hidden // heads], np.int64)
    whole = writer.constant("from_heads", list(shape), np.int64)

    def part(kind: str, permutation: list[int]) -> str:
        flat = writer.linear(f"{name}/{kind}", data, hidden, hidden)
        apart = writer.node("Reshape", f"{name}/{kind}/apart", flat, split)
        return writer.node("Transpose", f"{name}/{kind}/heads", apart, perm=permutation)

    query, key, value = part("query", [0, 2, 1, 3]), part("key", [0, 2, 3, 1]), part("value", [0, 2, 1, 3])
    root = writer.constant("root_width", math.sqrt(hidden // heads))
    scores = writer.node("Div", f"{name}/scores", writer.node("MatMul", f"{name}/products", query, key), root)
    weights = writer.node("Softmax", f"{name}/softmax", scores, axis=-1)
    mixed = writer.node("MatMul", f"{name}/mixed", weights, value)
    together = writer.node("Transpose", f"{name}/together", mixed, perm=[0, 2, 1, 3])
    attended = writer.linear(f"{name}/output", writer.node("Reshape", f"{name}/flat", together, whole), hidden, hidden)
    inner = writer.norm(f"{name}/norm1", writer.node("Add", f"{name}/residual1", attended, data), hidden)
    raised = writer.gelu(f"{name}/gelu", writer.linear(f"{name}/up", inner, hidden, wide))
    lowered = writer.linear(f"{name}/down", raised, wide, hidden)
    return writer.norm(f"{name}/norm2", writer.node("Add", f"{name}/residual2", lowered, inner), hidden)


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    for option, default in (("layers", 12), ("hidden", 768), ("heads", 12), ("sequence", 128), ("batch", 1)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = encoder(
        arguments.layers,
        arguments.hidden,
        arguments.heads,
        arguments.sequence,
        arguments.batch,
        seed=arguments.seed,
    )
    onnx.save(model, arguments.path)


if __name__ == "__main__":
    main()
