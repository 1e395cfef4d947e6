"""Scaling and linear models of ONNX's classical machine learning, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from joulec.passes.graph import Opaque
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import import_onnx

RNG = np.random.default_rng(11)


def model(nodes, kind, results, weights=()):
    x = helper.make_tensor_value_info("x", kind, [5, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, results])
    graph = helper.make_graph(nodes, "classical", [x], [y], weights)
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def scaler(**attributes):
    return helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", **attributes)


def check(source, run, distance, dtype="float32"):
    imported = import_onnx(source)
    x = (RNG.standard_normal((5, 3)) * 4).astype(dtype)
    (wanted,) = run(source, {"x": x})
    (got,) = evaluate(imported.graph, {"x": x})
    assert distance(got, wanted) < 1e-5
    return [node.op.kind if isinstance(node.op, Opaque) else node.op.name for node in imported.graph.nodes]


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.FLOAT, "float32"), (TensorProto.INT64, "int64")])
@pytest.mark.parametrize("offset", [[1.0, -2.0, 0.5], [0.5]])
def test_what_follows_a_scaler_is_of_the_graph(kind, dtype, offset, run, distance):
    weights = [numpy_helper.from_array(RNG.standard_normal((3, 4)).astype("float32"), "w")]
    nodes = [scaler(offset=offset, scale=[2.0] * len(offset)), helper.make_node("MatMul", ["s", "w"], ["y"])]
    kinds = check(model(nodes, kind, 4, weights), run, distance, dtype)
    assert "matmul" in kinds
    assert "Scaler" not in kinds


@pytest.mark.parametrize("targets", [1, 2])
def test_a_linear_regressor_is_a_product(targets, run, distance):
    coefficients = RNG.standard_normal(3 * targets).astype("float32").tolist()
    node = helper.make_node(
        "LinearRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        coefficients=coefficients,
        intercepts=[0.5] * targets,
        targets=targets,
    )
    assert "matmul" in check(model([node], TensorProto.FLOAT, targets), run, distance)


def test_one_that_transforms_its_result_stays(run, distance):
    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0], post_transform="LOGISTIC"
    )
    kinds = [one.op.kind for one in import_onnx(model([node], TensorProto.FLOAT, 1)).graph.nodes]
    assert kinds == ["LinearRegressor"]
