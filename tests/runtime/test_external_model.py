"""From an ONNX file with operators that joulec does not model to answers: with ONNX Runtime, and without it."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import joulec


@pytest.fixture
def network(tmp_path):
    """Conv, Relu, Resize with an antialiasing filter, which nothing native computes, CumSum, Conv."""
    generator = np.random.default_rng(0)

    def weight(name, shape):
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((scale * generator.standard_normal(shape)).astype("float32"), name)

    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Resize", ["b", "", "", "sizes"], ["c"], mode="linear", antialias=1),
        helper.make_node("CumSum", ["c", "axis"], ["d"]),
        helper.make_node("Conv", ["d", "second"], ["y"], pads=[1, 1, 1, 1]),
    ]
    axis = numpy_helper.from_array(np.array(3, dtype="int64"), "axis")
    sizes = numpy_helper.from_array(np.array([1, 8, 6, 6]), "sizes")
    weights = [weight("first", (8, 3, 3, 3)), sizes, weight("second", (4, 8, 3, 3)), axis]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 10, 10])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])
    graph = helper.make_graph(nodes, "network", [x], [y], weights)
    path = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("onnxruntime", [True, False])
def test_operators_outside_of_the_library_compile_and_run(network, tmp_path, monkeypatch, onnxruntime):
    if onnxruntime:
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        monkeypatch.setitem(sys.modules, "onnxruntime.capi", None)
    with joulec.compile(str(network), costs="model", budget=0, threads=1) as model:
        path = model.save(tmp_path / "network.joulec")
    x = np.random.default_rng(1).standard_normal((1, 3, 10, 10)).astype("float32")
    (expected,) = ReferenceEvaluator(str(network)).run(None, {"x": x})
    with joulec.load(path) as model:
        np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        algorithms = {assigned.operator: assigned.algorithm for assigned in model.entry(1).assignment}
        engine = "onnxruntime" if onnxruntime else "onnx.reference"
        assert (algorithms["opaque.Resize"], algorithms["opaque.CumSum"]) == (engine, "tvm")
        assert model.work(1).register_bytes > 0
