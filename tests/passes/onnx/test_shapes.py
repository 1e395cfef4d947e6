"""Fixed shapes, folded shape arithmetic, and other batches."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from joulec.passes.canonical import canonicalise
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import ModelError, import_onnx

_RNG = np.random.default_rng(5)


def _f(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _i(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def _head(target: np.ndarray | None) -> list[onnx.NodeProto]:
    """Convolution, flattening (by shape arithmetic where no target is given), product."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])]
    if target is None:
        nodes += [
            helper.make_node("Shape", ["c"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["rows"], axis=0),
            helper.make_node("Concat", ["rows", "minus"], ["target"], axis=0),
        ]
    nodes += [helper.make_node("Reshape", ["c", "target"], ["flat"], name="flatten")]
    return [*nodes, helper.make_node("Gemm", ["flat", "m"], ["y"])]


def _network(make, lead, target=None):
    constants = {"w": _f(4, 3, 3, 3), "m": _f(4 * 25, 7), "zero": _i(0), "minus": _i(-1)}
    if target is not None:
        constants["target"] = target
    return make(_head(target), {"x": (lead, 3, 5, 5)}, constants)


def _rows_agree(model, batch, run, distance, **options):
    """A graph for a batch computes, row by row, what the model computes for one."""
    imported = import_onnx(model, batch=batch, **options)
    assert imported.batch == batch
    single = import_onnx(model, batch=1, **options).model
    feeds = {value.name: _f(*value.type.shape) for value in imported.graph.inputs}
    rows = [run(single, {name: array[i : i + 1] for name, array in feeds.items()}) for i in range(batch)]
    for graph in (imported.graph, canonicalise(imported.graph, lambda spec, step: True)):
        for got, *want in zip(evaluate(graph, feeds), *rows, strict=True):
            assert distance(got, np.concatenate(want)) <= 1e-5
    for got, *want in zip(run(imported.model, feeds), *rows, strict=True):
        assert distance(got, np.concatenate(want)) <= 1e-5


@pytest.mark.parametrize("target", [None, _i(1, 100), _i(1, -1), _i(-1, 100), _i(0, -1)], ids=str)
@pytest.mark.parametrize("lead", [1, "N"])
@pytest.mark.parametrize("batch", [2, 5])
def test_rebatched_rows_agree(lead, target, batch, make, run, distance):
    _rows_agree(_network(make, lead, target), batch, run, distance)


def test_batch_two_becomes_one_and_six(make, run, distance):
    model = _network(make, 2, _i(2, 100))
    for batch in (1, 6):
        _rows_agree(model, batch, run, distance)


def test_shape_arithmetic_is_folded(make):
    graph = import_onnx(_network(make, 1)).graph
    assert [node.op.name for node in graph.nodes] == ["conv2d", "reshape", "matmul"]
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.nodes[1].name == "flatten"
    assert graph.nodes[0].outputs[0].name == "c"


def test_own_batch_is_recognised_only_where_all_agree(make):
    assert import_onnx(_network(make, 3)).batch == 3
    merged = make([helper.make_node("Flatten", ["x"], ["y"], axis=2)], {"x": (2, 3, 4)})
    assert import_onnx(merged).batch is None
    assert import_onnx(merged, batch=2).batch is None, "the shapes already match: nothing is rebatched or checked"
    with pytest.raises(ModelError, match=r"no common leading dimension \(x: 2, y: 6\)"):
        import_onnx(merged, batch=4)


def test_a_node_that_mixes_rows_is_named(make):
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["t"]),
        helper.make_node("Transpose", ["t"], ["u"], name="mixer", perm=[1, 0]),
        helper.make_node("Reshape", ["u", "back"], ["y"]),
    ]
    model = make(nodes, {"x": (1, 3, 4)}, {"target": _i(3, 4), "back": _i(1, 4, 3)})
    with pytest.raises(ModelError, match=r"output 'y' \[1, 4, 3\] of node 'Reshape_y' \(Reshape\) does not"):
        import_onnx(model, batch=2)
    across = make([helper.make_node("Softmax", ["x"], ["y"], name="across", axis=0)], {"x": (1, 3)})
    with pytest.raises(ModelError, match=r"node 'across' \(Softmax\) does not treat its examples one by one"):
        import_onnx(across, batch=2)
    summed = make([helper.make_node("ReduceSum", ["x", "axes"], ["y"], name="total")], {"x": (1, 3)}, {"axes": _i(0)})
    with pytest.raises(ModelError, match=r"node 'total' \(ReduceSum\)"):
        import_onnx(summed, batch=2)


def test_sizes_of_a_resize_are_mended(make, run, distance):
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest")
    _rows_agree(make([node], {"x": (1, 2, 3, 3)}, {"sizes": _i(1, 2, 6, 6)}), 3, run, distance)


def test_named_dimensions_settle_each_other(make):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    model = make(nodes, {"a": ("N", 3, "H"), "b": ("N", 3, "H")})
    imported = import_onnx(model, {"a": [2, 3, 5]})
    assert [value.type.shape for value in imported.graph.inputs] == [(2, 3, 5)] * 2
    assert imported.batch == 2
    assert import_onnx(model, {"a": [2, 3, 5]}, batch=4).graph.outputs[0].type.shape == (4, 3, 5)
    with pytest.raises(ModelError, match="dimension 'H' cannot be both 5 and 6"):
        import_onnx(model, {"a": [2, 3, 5], "b": [2, 3, 6]})


def test_shapes_may_replace_fixed_ones(make):
    model = make([helper.make_node("GlobalAveragePool", ["x"], ["y"])], {"x": (1, 3, 8, 8)})
    assert import_onnx(model, {"x": [1, 3, 5, 7]}).graph.nodes[0].op.kernel == (5, 7)
    with pytest.raises(ModelError, match=r"shapes do not fit for inputs x\[1, 3, 9, 9\]"):
        import_onnx(_network(make, 1, _i(1, 100)), {"x": [1, 3, 9, 9]})


def test_a_branch_with_known_condition_is_taken(make, agree):
    def branch(name: str, operator: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(f"{name}_out", 1, [2, 3])
        return helper.make_graph([helper.make_node(operator, ["x"], [f"{name}_out"])], name, [], [result])

    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Tanh"))
    imported = agree(make([node], {"x": (2, 3)}, {"yes": np.asarray(True)}))
    assert [node.op.kind for node in imported.graph.nodes] == ["relu"]


def test_constant_and_passed_through_outputs(make, run):
    nodes = [
        helper.make_node("Add", ["one", "one"], ["two"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    model = make(nodes, {"x": (2,)}, {"one": np.ones(2, np.float32)}, outputs=["two", "same", "y"])
    imported = import_onnx(model)
    feeds = {"x": np.asarray([-1, 2], np.float32)}
    for results in (evaluate(imported.graph, feeds), run(imported.model, feeds)):
        assert [result.tolist() for result in results] == [[2, 2], [-1, 2], [0, 2]]
    assert imported.output_names == ("two", "same", "y")


def test_the_model_given_is_not_changed(make):
    model = _network(make, 1, _i(1, 100))
    before = model.SerializeToString(deterministic=True)
    import_onnx(model, batch=3)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("unsaid", ["shape", "type"])
def test_outputs_without_a_stated_shape_or_type(unsaid, make, run):
    model = make([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)})
    model.graph.output[0].type.Clear()
    if unsaid == "shape":
        model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    imported = import_onnx(model)
    assert [value.type.shape for value in imported.graph.outputs] == [(2, 3)]
    x = _f(2, 3)
    assert (run(imported.model, {"x": x})[0] == run(model, {"x": x})[0]).all()


def test_an_input_without_a_stated_shape_takes_the_one_given(make):
    model = make([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert import_onnx(model, {"x": [4, 5]}).graph.outputs[0].type.shape == (4, 5)
    with pytest.raises(ModelError, match="input 'x' has no shape; give one with --input-shapes"):
        import_onnx(model)


@pytest.mark.parametrize("opset", [10, 13, 18])
def test_quantised_weights_of_old_operator_sets_are_constants(make, opset, agree):
    weights = np.random.default_rng(1).integers(-128, 127, (3, 4)).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wide"]),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    constants = {"w": weights, "scale": np.float32(0.02), "zero": np.int8(3)}
    (node,) = agree(make(nodes, {"x": (2, 3)}, constants, opset=opset)).graph.nodes
    assert node.op.name == "matmul"
