"""Products of half precision are computed in float32."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from joulec.passes.graph import Conv2d, MatMul, Opaque
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import import_onnx

RNG = np.random.default_rng(7)


def half(name, *shape):
    return numpy_helper.from_array((RNG.standard_normal(shape) / 4).astype("float16"), name)


def model(nodes, shape, weights):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    graph = helper.make_graph(nodes, "half", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("nodes", "shape", "weights", "kinds"),
    [
        (
            [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
            (1, 4, 6, 6),
            [half("w", 8, 4, 3, 3), half("b", 8)],
            [Conv2d],
        ),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], (3, 8), [half("w", 8, 5)], [MatMul]),
        (
            [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "x"], ["y"])],
            (8, 8),
            [half("w", 8, 8)],
            [MatMul, MatMul],
        ),
    ],
)
def test_products_are_wide_between_casts(nodes, shape, weights, kinds, run, distance):
    source = model(nodes, shape, weights)
    imported = import_onnx(source)
    found = [type(node.op) for node in imported.graph.nodes]
    assert [kind for kind in found if kind in (Conv2d, MatMul)] == kinds
    assert not any(isinstance(node.op, Opaque) and node.op.kind in ("Conv", "MatMul") for node in imported.graph.nodes)
    x = RNG.standard_normal(shape).astype("float16")
    (wanted,) = run(source, {"x": x})
    (got,) = evaluate(imported.graph, {"x": x})
    assert distance(got, wanted) < 2e-3


def test_what_is_no_product_stays_as_it_is(run):
    source = model([helper.make_node("Relu", ["x"], ["y"])], (2, 3), [])
    (node,) = import_onnx(source).graph.nodes
    assert isinstance(node.op, Opaque)
    assert node.op.kind == "Relu"


def test_the_model_to_compare_with_stays_as_it_is():
    source = model([helper.make_node("MatMul", ["x", "w"], ["y"])], (3, 8), [half("w", 8, 5)])
    assert [node.op_type for node in import_onnx(source).model.graph.node] == ["MatMul"]
