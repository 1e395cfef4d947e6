"""Products between dequantisation and quantisation, as products of bytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import import_onnx

RNG = np.random.default_rng(5)


def model(
    op, shape, weights, axis=None, bias=None, data_type="uint8", weight_type="int8", bias_scale=1.0, **attributes
):
    """x (bytes) dequantised, multiplied by dequantised weights, and quantised."""
    channels = weights[axis] if axis is not None else 1
    limits = np.iinfo(weight_type)
    scales = RNG.uniform(0.01, 0.02, channels if axis is not None else ()).astype(np.float32)
    constants = {
        "x_scale": np.float32(0.05),
        "x_zero": np.array(3, data_type),
        "w": RNG.integers(limits.min, limits.max + 1, weights).astype(weight_type),
        "w_scale": scales,
        "w_zero": np.zeros(scales.shape, weight_type),
        "y_scale": np.float32(0.9),
        "y_zero": np.array(100, np.uint8),
    }
    where = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["wide"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wide_w"], **where),
    ]
    operands = ["wide", "wide_w"]
    if bias is not None:
        constants["b"] = RNG.integers(-900, 900, weights[0]).astype(np.int32)
        constants["b_scale"] = np.float32(0.05) * np.broadcast_to(scales, weights[0]) * np.float32(bias_scale)
        nodes.append(helper.make_node("DequantizeLinear", ["b", "b_scale"], ["wide_b"], axis=0))
        operands.append("wide_b")
    nodes += [
        helper.make_node(op, operands, ["sums"], name="product", **attributes),
        helper.make_node("QuantizeLinear", ["sums", "y_scale", "y_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", getattr(TensorProto, data_type.upper()), shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


@pytest.mark.parametrize(
    "made",
    [
        model("Conv", (2, 5, 9, 8), (6, 5, 3, 3), axis=0, bias=True, pads=[1, 1, 1, 1], strides=[2, 1]),
        model("Conv", (2, 6, 9, 8), (6, 1, 3, 3), group=6),
        model("Conv", (1, 5, 20), (6, 5, 3), bias=True, data_type="int8", weight_type="uint8"),
        model("MatMul", (2, 4, 30), (30, 7), axis=1),
        model("MatMul", (4, 30), (30, 7), data_type="int8"),
    ],
    ids=["each", "groups", "rows", "products", "one"],
)
def test_they_are_products_of_bytes_and_what_onnx_runtime_computes(made, run):
    graph = import_onnx(made, integers=True).graph
    (node,) = graph.nodes
    assert node.op.kind.startswith("QLinear")
    assert node.name == "product"
    limits = np.iinfo(graph.inputs[0].type.dtype)
    feeds = {"x": RNG.integers(limits.min, limits.max + 1, graph.inputs[0].type.shape).astype(limits.dtype)}
    (wanted,) = run(made, feeds)
    (found,) = evaluate(graph, feeds)
    assert found.dtype == wanted.dtype
    apart = np.abs(found.astype(int) - wanted.astype(int))
    assert apart.max() <= 1, "where float32 rounds the sum to the other side of the middle"
    assert (apart > 0).mean() < 0.01
    assert len(np.unique(wanted)) > 20


def test_only_where_asked():
    made = model("MatMul", (4, 30), (30, 7))
    assert [node.op.name for node in import_onnx(made).graph.nodes][1] == "matmul"


@pytest.mark.parametrize(
    "made",
    [
        model("Conv", (2, 5, 9, 8), (6, 5, 3, 3), bias=True, bias_scale=1.5),
        model("Conv", (1, 2, 4, 5, 6), (3, 2, 2, 2, 2)),
        model("MatMul", (30, 40), (40, 30), axis=0),
    ],
    ids=["bias of another scale", "volumes", "scales along the depth"],
)
def test_others_stay_in_float32(made):
    kinds = [getattr(node.op, "kind", node.op.name) for node in import_onnx(made, integers=True).graph.nodes]
    assert not any(kind.startswith("QLinear") for kind in kinds)


def test_a_product_that_others_read_too_stays_in_float32():
    made = model("MatMul", (4, 30), (30, 7))
    made.graph.output.append(helper.make_tensor_value_info("sums", TensorProto.FLOAT, (4, 7)))
    assert "matmul" in [node.op.name for node in import_onnx(made, integers=True).graph.nodes]
