"""What goes wrong is told in one line: what, where, what to do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from joulec.passes.onnx import ModelError, import_onnx
from joulec.passes.onnx.engines import engine_for


def _refused(*arguments, **options) -> str:
    with pytest.raises(ModelError) as caught:
        import_onnx(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def relu(make):
    return make([helper.make_node("Relu", ["x"], ["y"])], {"x": ("N", 3)})


def test_missing_file(tmp_path):
    assert "no such file" in _refused(tmp_path / "absent.onnx")


def test_folder(tmp_path):
    assert "cannot be read" in _refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, this is no model at all", bytes(range(256))])
def test_garbage(content, tmp_path):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    assert str(path) in _refused(path)


def test_truncated(tmp_path, make):
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (2, 300)}, {"w": np.ones((2, 300), np.float32)})
    content = model.SerializeToString()
    path = tmp_path / "short.onnx"
    for length in (10, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:length])
        assert "short.onnx" in _refused(path)


def test_external_weights(tmp_path, make):
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (2, 300)}, {"w": np.ones((2, 300), np.float32)})
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert import_onnx(path).graph.nodes[0].operands[1].value().sum() == 600
    assert "kept outside the model" in _refused(onnx.load(path, load_external_data=False))
    (tmp_path / "weights.bin").unlink()
    assert "external weights cannot be read" in _refused(path)


def test_invalid_model():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["z"], ["y"])], "bad", [value("x", 1, [2])], [value("y", 1, [2])]
    )
    assert "not a valid ONNX model" in _refused(helper.make_model(graph))
    graph = helper.make_graph(
        [helper.make_node("Nope", ["x"], ["y"])], "bad", [value("x", 1, [2])], [value("y", 1, [2])]
    )
    assert "Nope" in _refused(helper.make_model(graph))


def test_damaged_weight(make):
    model = make([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (2,)}, {"w": np.ones(2, np.float32)})
    model.graph.initializer[0].raw_data = b"123"
    assert "a weight is damaged" in _refused(model)


def test_unknown_dimension(relu):
    message = _refused(relu)
    assert "input 'x' has no size for dimension 0 ('N')" in message
    assert "--input-shapes 'x:[1,3]'" in message


def test_unknown_input_and_wrong_rank(relu):
    assert "no input 'data'; its inputs are x" in _refused(relu, {"data": [1, 3]})
    assert "has 2 dimensions, not 3" in _refused(relu, {"x": [1, 3, 4]})
    assert "whole numbers from 0" in _refused(relu, {"x": [-1, 3]})
    assert "a batch of 0" in _refused(relu, batch=0)


def test_operands_that_do_not_fit(make):
    model = make([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("N", "K")}, {"w": np.ones((4, 2), np.float32)})
    assert "shapes do not fit for inputs x[1, 5]" in _refused(model, {"x": [1, 5]})


def test_ceil_mode_on_which_onnx_and_runtimes_differ(make):
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], name="pool", kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1
    )
    assert "node 'pool' (MaxPool): in ceil mode" in _refused(make([node], {"x": (2, 6, 9, 8)}, opset=12))


def test_foreign_operator():
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Magic", ["x"], ["y"], domain="com.example", name="trick")]
    graph = helper.make_graph(nodes, "foreign", [value("x", 1, [2])], [value("y", 1, [2])])
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.example", 1)]
    (node,) = import_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=8)).graph.nodes
    with pytest.raises(ModelError, match=r"nothing here computes com\.example\.Magic"):
        engine_for(node.op)


def test_weights_that_are_also_inputs_are_constants(make, agree):
    model = make(
        [helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 2, 4, 4)}, {"w": np.ones((3, 2, 1, 1), np.float32)}
    )
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [3, 2, 1, 1]))
    assert agree(model).input_names == ("x",)


def test_local_functions_are_inlined(agree):
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Add", ["r", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("mine", 1)]
    function = helper.make_function("mine", "Twice", ["a"], ["b"], body, opsets[:1])
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="mine")]
    graph = helper.make_graph(nodes, "functions", [value("x", 1, [2, 3])], [value("y", 1, [2, 3])])
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    assert sorted(node.op.name for node in agree(model).graph.nodes) == ["activation", "add"]


def test_quantised_weights_are_unpacked(make, agree):
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    constants = {"q": np.arange(12, dtype=np.int8).reshape(3, 4), "s": np.float32(0.5).reshape(())}
    imported = agree(make(nodes, {"x": (2, 3)}, constants, opset=19))
    assert [node.op.name for node in imported.graph.nodes] == ["matmul"]
    assert numpy_helper.to_array(imported.model.graph.initializer[0]).dtype == np.float32


def test_an_opset_from_the_future(make):
    model = make([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)})
    model.opset_import[0].version = 999
    with pytest.raises(ModelError, match="opset 999 is newer than what the installed onnx knows"):
        import_onnx(model)
