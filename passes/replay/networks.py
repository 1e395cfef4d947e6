"""The networks whose operators were measured, as ONNX models with seeded random weights.

What an operator costs does not depend on its weights, so a network is published as its layers alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from joulec.passes.replay.rows import ReplayError

Pair = Sequence[int]


class Layers:
    """Layers of convolutional networks in ONNX's operators; every method returns its result's name."""

    def __init__(self, channels: int, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = {"data": channels}
        self._rng = np.random.default_rng(seed)

    def emit(self, kind: str, inputs: Sequence[str], channels: int, **attributes: Any) -> str:
        """A node whose result has so many channels."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        self.channels[name] = channels
        return name

    def conv(self, x: str, out: int, kernel: Pair, strides: Pair = (1, 1), pads: Pair | None = None) -> str:
        """A convolution with He-normal weights and a bias; the padding keeps the size unless it is given."""
        pads = [size // 2 for size in kernel] if pads is None else pads
        shape = (out, self.channels[x], *kernel)
        kernels = self._rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        biases = self._rng.standard_normal(out, np.float32) * np.float32(0.1)
        names = [f"t{len(self.nodes)}_{part}" for part in ("kernel", "bias")]
        self.weights += map(onnx.numpy_helper.from_array, (kernels, biases), names)
        return self.emit("Conv", [x, *names], out, kernel_shape=kernel, strides=strides, pads=[*pads, *pads])

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.emit("Relu", [x], self.channels[x])

    def pool(self, x: str, kind: str, kernel: Pair, strides: Pair, pads: Pair = (0, 0)) -> str:
        """``MaxPool``, or ``AveragePool`` that leaves the padding out."""
        return self.emit(kind, [x], self.channels[x], kernel_shape=kernel, strides=strides, pads=[*pads, *pads])

    def concat(self, *parts: str) -> str:
        """Along the channels."""
        return self.emit("Concat", parts, sum(self.channels[part] for part in parts), axis=1)

    def model(self, name: str, shape: Sequence[int], output: str) -> onnx.ModelProto:
        """The model with the one input ``data`` and one output."""
        graph = onnx.helper.make_graph(
            self.nodes,
            name,
            [onnx.helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, shape)],
            [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
            self.weights,
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def read_network(path: Path, seed: int = 0) -> onnx.ModelProto:
    """Read a network's layers (``graph_*.json``) and give it seeded random weights.

    Raises:
        ReplayError: the file cannot be read or does not describe a network.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        layers = Layers(described["input"][1], seed)
        names = {0: "data"}
        for node in described["nodes"]:
            names[node["id"]] = _layer(layers, node, [names[source] for source, _ in node["inputs"]])
        return layers.model(described["name"], described["input"], names[described["outputs"][0]])
    except OSError as error:
        raise ReplayError(f"cannot read a network from {path}: {error.strerror}") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ReplayError(f"{path} does not describe a network's layers ({reason})") from error


def _layer(layers: Layers, node: Mapping[str, Any], inputs: Sequence[str]) -> str:
    params, first = node["params"], inputs[0]
    match node["op"]:
        case "noop":
            return layers.emit("Identity", inputs, layers.channels[first])
        case "concat":
            return layers.concat(*inputs)
        case "ew_add":
            return layers.emit("Add", inputs, layers.channels[first])
        case "conv":
            result = layers.conv(first, params["outC"], params["kernel"], params["stride"], params["pad"])
        case "pool_max" | "pool_avg" as op:
            kind = "MaxPool" if op == "pool_max" else "AveragePool"
            result = layers.pool(first, kind, params["kernel"], params["stride"], params["pad"])
        case other:
            raise ValueError(f"unknown operator {other}")
    return layers.relu(result) if params.get("relu") else result
