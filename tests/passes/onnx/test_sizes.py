"""Tensors that no memory holds are refused before anything tries to make them."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from joulec.passes.onnx import ModelError, import_onnx


def model(nodes, channels: int) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, channels, 4, 4])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [helper.make_tensor("far", onnx.TensorProto.INT64, [1], [1 << 44])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("channels", [1 << 40, 1 << 60])
def test_an_input(channels):
    with pytest.raises(ModelError, match=r"input 'x' is float32.*takes .* GiB; this machine has .* check the shapes"):
        import_onnx(model([helper.make_node("Relu", ["x"], ["y"])], channels))


def test_a_result():
    nodes = [helper.make_node("ConstantOfShape", ["far"], ["z"]), helper.make_node("ReduceSum", ["z"], ["s"])]
    nodes.append(helper.make_node("Add", ["x", "s"], ["y"]))
    with pytest.raises(ModelError, match=r"\(ConstantOfShape\) makes float32.*takes .* GiB; this machine has"):
        import_onnx(model(nodes, 1))
