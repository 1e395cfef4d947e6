"""Shapes that no inference tells: operators that ONNX does not define, branches of unknown shape, quantised models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import joulec
from joulec.passes.graph import Opaque
from joulec.passes.onnx import import_onnx
from joulec.runtime.external import ExternalError

pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(3)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((RNG.standard_normal(shape) / np.sqrt(shape[0])).astype("float32"), name)


def model(nodes, inputs, outputs, weights=(), opset=17):
    def typed(name, shape, kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(nodes, "g", [typed(*one) for one in inputs], [typed(*one) for one in outputs], weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def compiled(source: onnx.ModelProto, warning: str, **options):
    """The model, compiled in a hurry; the user is warned."""
    with pytest.warns(UserWarning, match=warning):
        return joulec.compile(source, costs="model", budget=0, threads=1, measure=False, **options)


def foreign():
    """A product of ONNX Runtime's own between two of ONNX's, and a reshape that asks for its result's shape."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("FusedMatMul", ["p", "b"], ["q"], domain="com.microsoft", transB=1, name="fused"),
        helper.make_node("Shape", ["q"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Concat", ["rows", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["q", "target"], ["r"]),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("MatMul", ["s", "c"], ["y"]),
    ]
    numbers = [numpy_helper.from_array(np.array([value]), name) for name, value in (("zero", 0), ("minus", -1))]
    weights = [weight("a", 6, 8), weight("b", 5, 8), weight("c", 15, 7), *numbers]
    return model(nodes, [("x", ["n", 3, 6])], [("y", ["n", "k"])], weights)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_operator_that_onnx_does_not_define_is_the_only_one_outside(batch, run, distance):
    source = foreign()
    imported = import_onnx(source, batch=batch)
    assert imported.batch == batch
    assert [node.op.kind for node in imported.graph.nodes if isinstance(node.op, Opaque)] == ["FusedMatMul"]
    assert imported.seen == (f"'q' of fused (FusedMatMul) as float32[{batch},3,5]",)
    given = {"x": RNG.standard_normal((batch, 3, 6)).astype("float32")}
    with compiled(source, "no rule tells the shape of 'q' of fused", batch_sizes=[batch]) as made:
        algorithms = {one.operator: one.algorithm for one in made.entry(batch).assignment}
        assert {name for name, algorithm in algorithms.items() if algorithm == "onnxruntime"} == {"opaque.FusedMatMul"}
        assert distance(made(given["x"]), run(source, given)[0]) <= 1e-5


def branching(mode: int = 16000):
    """Which branch is taken depends on an input; no branch states the shape of what it gives."""

    def branch(name, width):
        """Two reductions to a number of elements that a value decides."""
        nodes = [
            helper.make_node("Constant", [], [f"{name}_w"], value=weight(f"{name}_v", width, 4)),
            helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_p"]),
            helper.make_node("Cast", ["mode"], [f"{name}_one"], to=TensorProto.BOOL),
            helper.make_node("Cast", [f"{name}_one"], [f"{name}_n"], to=TensorProto.INT64),
            helper.make_node("Constant", [], [f"{name}_axis"], value=numpy_helper.from_array(np.array([0]))),
            helper.make_node("Unsqueeze", [f"{name}_n", f"{name}_axis"], [f"{name}_m"]),
            helper.make_node("Constant", [], [f"{name}_r"], value=numpy_helper.from_array(np.array([-1]))),
            helper.make_node("Concat", [f"{name}_m", f"{name}_r"], [f"{name}_target"], axis=0),
            helper.make_node("Reshape", [f"{name}_p", f"{name}_target"], [f"{name}_y"]),
        ]
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [out])

    nodes = [
        helper.make_node("Constant", [], ["known"], value=numpy_helper.from_array(np.array(mode))),
        helper.make_node("Equal", ["mode", "known"], ["is"]),
        helper.make_node("If", ["is"], ["z"], then_branch=branch("then", 6), else_branch=branch("other", 7), name="if"),
        helper.make_node("Identity", ["z"], ["y"]),
    ]
    return model(nodes, [("x", ["n", "m"]), ("mode", [], TensorProto.INT64)], [("y", ["n", "k"])])


def test_branches_of_unknown_shape_of_which_one_takes_these_inputs(run, distance):
    """The other branch multiplies by a matrix that does not fit: only the number that the model holds is taken."""
    source = branching()
    with compiled(source, r"'y' of Identity_y .* as float32\[1,12\]", input_shapes={"x": [3, 6]}) as made:
        engines = {one.operator: one.algorithm for one in made.entry(1).assignment}
        assert engines["opaque.If"] == "onnxruntime"
        given = {"x": RNG.standard_normal((3, 6)).astype("float32"), "mode": np.array(16000)}
        assert distance(made(**given), run(source, given)[0]) <= 1e-5


def test_outputs_whose_shape_the_data_decide_are_none_of_the_graph():
    unique = [helper.make_node("Unique", ["x"], ["y"])]
    counted = [
        helper.make_node("Squeeze", ["x"], ["n"]),
        helper.make_node("Range", ["zero", "n", "one"], ["y"]),
    ]
    numbers = [numpy_helper.from_array(np.array(value), name) for name, value in (("zero", 0), ("one", 1))]
    for nodes, kind, shape, weights in (
        (unique, TensorProto.FLOAT, [8], []),
        (counted, TensorProto.INT64, [1], numbers),
    ):
        source = model(nodes, [("x", shape, kind)], [("y", ["k"], kind)], weights)
        imported = import_onnx(source)
        assert "y" not in imported.output_names
        assert imported.whole.partition.tail.outputs == ("y",)


def test_a_call_with_data_of_another_shape_ends_in_an_error():
    """The shape was the same in all runs: the data that give another are rarer than that."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=1),
        helper.make_node("Greater", ["m", "limit"], ["far"]),
        helper.make_node("Cast", ["far"], ["count"], to=TensorProto.INT64),
        helper.make_node("Add", ["count", "one"], ["times"]),
        helper.make_node("Tile", ["x", "times"], ["y"]),
    ]
    numbers = [
        numpy_helper.from_array(np.array([1e6], "float32"), "limit"),
        numpy_helper.from_array(np.array([1]), "one"),
    ]
    source = model(nodes, [("x", [4])], [("y", ["k"])], numbers)
    with compiled(source, r"'y' of Tile_y \(Tile\) as float32\[4\]") as made:
        x = np.ones(4, "float32")
        np.testing.assert_array_equal(made(x), x)
        assert {one.algorithm for one in made.entry(4).assignment if "Tile" in one.operator} == {"onnxruntime"}
        with pytest.raises(ExternalError, match=r"does not take these inputs: .*shape for this run is \{8\}"):
            made(x * 1e7)


def quantised():
    """Sigmoids between dynamic quantisations, five times: rounding decides levels."""
    nodes, weights = [], []
    last = "x"
    for step in range(5):
        weights.append(numpy_helper.from_array(RNG.integers(-99, 99, (32, 32)).astype("int8"), f"w{step}"))
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [last], [f"q{step}", f"s{step}", f"z{step}"]),
            helper.make_node("MatMulInteger", [f"q{step}", f"w{step}", f"z{step}"], [f"i{step}"]),
            helper.make_node("Cast", [f"i{step}"], [f"f{step}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"f{step}", f"s{step}"], [f"m{step}"]),
            helper.make_node("Mul", [f"m{step}", "small"], [f"n{step}"]),
            helper.make_node("Tanh", [f"n{step}"], [f"t{step}"]),
        ]
        last = f"t{step}"
    weights.append(numpy_helper.from_array(np.array(0.01, "float32"), "small"))
    return model(nodes, [("x", [16, 32])], [(last, [16, 32])], weights)


def test_a_quantised_model_is_met_to_within_its_own_steps(distance):
    """Beside the reference: on processors with AVX2 alone ONNX Runtime's integer products differ from it."""
    source = quantised()
    with joulec.compile(source, costs="model", budget=0, threads=1, measure=False) as made:
        x = RNG.standard_normal((16, 32)).astype("float32")
        assert distance(made(x), ReferenceEvaluator(source).run(None, {"x": x})[0]) < 0.05
