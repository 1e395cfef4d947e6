"""Nodes of one integer product with seeded weights, as the importer makes them of ONNX models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from joulec.passes.graph import Node
from joulec.passes.onnx.importer import import_onnx

_TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
}

Arrays = dict[str, Any]


def numbers(shape: Sequence[int], dtype: str, seed: int, extremes: bool = False) -> Any:
    """Random bytes of the whole range, or only its ends."""
    limits, generator = np.iinfo(dtype), np.random.default_rng(seed)
    if extremes:
        return generator.choice([limits.min, limits.max], shape).astype(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def imported(
    nodes: Sequence[onnx.NodeProto], inputs: Arrays, constants: Arrays, result: str, name: str = "y"
) -> tuple[Node, Arrays]:
    """The only node of the graph of a model of these nodes, and its inputs by name."""
    given = [helper.make_tensor_value_info(key, _TYPES[str(a.dtype)], a.shape) for key, a in inputs.items()]
    held = [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()]
    made = [helper.make_tensor_value_info(name, _TYPES[result], None)]
    graph = helper.make_graph(list(nodes), "integer", given, made, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (node,) = import_onnx(onnx.shape_inference.infer_shapes(model)).graph.nodes
    return node, inputs


def integer_node(
    op: str,
    shape: Sequence[int],
    weights: Sequence[int],
    dtypes: tuple[str, str] = ("uint8", "int8"),
    zeros: tuple[Any, Any] = (None, None),
    extremes: bool = False,
    **attributes: Any,
) -> tuple[Node, Arrays]:
    """ConvInteger or MatMulInteger; the data's zero point is an input, the weights' (one or one each) a constant."""
    data, kernel = numbers(shape, dtypes[0], 1, extremes), numbers(weights, dtypes[1], 2, extremes)
    inputs, constants = {"x": data}, {"w": kernel}
    if zeros[0] is not None:
        inputs["x_zero"] = np.array(zeros[0], dtypes[0])
    if zeros[1] is not None:
        constants["w_zero"] = np.array(zeros[1], dtypes[1])
    names = ["x", "w", "x_zero" if "x_zero" in inputs else "", "w_zero" if "w_zero" in constants else ""]
    return imported([helper.make_node(op, names, ["y"], **attributes)], inputs, constants, "int32")


def requantised_node(
    op: str,
    shape: Sequence[int],
    weights: Sequence[int],
    dtypes: tuple[str, str, str] = ("uint8", "int8", "uint8"),
    per_channel: bool = False,
    bias: bool = False,
    **attributes: Any,
) -> tuple[Node, Arrays]:
    """QLinearConv or QLinearMatMul with constant scales and zero points."""
    channels = weights[0] if op == "QLinearConv" else weights[-1]
    depth = np.prod(weights) / channels
    generator = np.random.default_rng(3)
    scales = generator.uniform(0.5, 1.5, channels if per_channel else ()).astype(np.float32)
    zeros = numbers((channels,) if per_channel else (), dtypes[1], 4) if dtypes[1] == "uint8" else 0
    constants = {
        "x_scale": np.float32(0.5),
        "x_zero": np.array(numbers((), dtypes[0], 5)),
        "w": numbers(weights, dtypes[1], 2),
        "w_scale": scales,
        "w_zero": np.broadcast_to(np.array(zeros, dtypes[1]), scales.shape).copy(),
        "y_scale": np.float32(60 * np.sqrt(depth)),
        "y_zero": np.array(numbers((), dtypes[2], 6)),
    }
    names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    if bias:
        constants["bias"] = generator.integers(-9000, 9000, channels).astype(np.int32)
        names.append("bias")
    node = helper.make_node(op, names, ["y"], **attributes)
    return imported([node], {"x": numbers(shape, dtypes[0], 1)}, constants, dtypes[2])
