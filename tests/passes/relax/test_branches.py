"""Branches of an If: both are compiled, and the one that the condition asks for runs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import joulec
from joulec.passes.onnx import import_onnx

pytest.importorskip("onnxruntime")

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(5)
W = RNG.standard_normal((8, 8)).astype("float32")


def tensor(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def body(name, nodes, outputs, weights=()):
    results = [helper.make_tensor_value_info(one, FLOAT, None) for one in outputs]
    return helper.make_graph(nodes, name, [], results, weights)


def chosen(condition, outputs, then, otherwise, name="if"):
    return helper.make_node("If", [condition], outputs, then_branch=then, else_branch=otherwise, name=name)


def model(nodes, inputs, outputs, weights=(), opset=17):
    shapes = [helper.make_tensor_value_info(*one) for one in inputs]
    results = [helper.make_tensor_value_info(*one) for one in outputs]
    graph = helper.make_graph(nodes, "g", shapes, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def compiled(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return joulec.compile(source, costs="model", budget=0, threads=1, measure=False)


def by_onnxruntime(source, *arrays):
    import onnxruntime

    session = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([one.name for one in session.get_inputs()], arrays, strict=True)))


def outside(built):
    """The operators that run in another engine."""
    return [one.operator for one in built.manifest.entries[0].assignment if one.algorithm.startswith("onnx")]


def check(source, *sets, engines=0):
    """The compiled model equals ONNX Runtime on all inputs, step by step too."""
    with compiled(source) as built:
        assert len(outside(built)) == engines
        for arrays in sets:
            wanted = by_onnxruntime(source, *arrays)
            for found, one in zip(built.run(arrays), wanted, strict=True):
                assert found.shape == one.shape
                assert found.dtype == one.dtype
                np.testing.assert_allclose(found, one, rtol=1e-4, atol=1e-5)
        return [
            [step.function for step in built.profile(built.batch_sizes[0], repeats=2, inputs=arrays)] for arrays in sets
        ]


def rates():
    """A model that does one thing or another for a rate; the branches' values have equal names."""
    then = body(
        "then",
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Add", ["b", "one"], ["c"]),
        ],
        ["c", "b"],
        [tensor("one", np.float32(1))],
    )
    otherwise = body(
        "else",
        [helper.make_node("Mul", ["x", "one"], ["a"]), helper.make_node("Tanh", ["a"], ["b"])],
        ["a", "b"],
        [tensor("one", np.float32(3))],
    )
    nodes = [
        helper.make_node("Equal", ["rate", "number"], ["same"]),
        chosen("same", ["y", "z"], then, otherwise),
        helper.make_node("Add", ["y", "z"], ["sum"]),
    ]
    weights = [tensor("number", np.int64(16000)), tensor("w", W)]
    inputs = [("x", FLOAT, [3, 8]), ("rate", INT64, [])]
    return model(nodes, inputs, [("sum", FLOAT, [3, 8]), ("z", FLOAT, [3, 8])], weights)


X = RNG.standard_normal((3, 8)).astype("float32")
RATES = (X, np.asarray(16000)), (X, np.asarray(8000))


def test_both_branches_are_native_and_one_runs():
    first, second = check(rates(), *RATES)
    assert any("matmul" in step for step in first)
    assert not any("matmul" in step for step in second)


def test_a_graph_for_onnx_keeps_the_if():
    assert [node.op.name for node in import_onnx(rates()).graph.nodes] == ["opaque.Equal", "opaque.If", "add"]


def test_an_if_inside_an_if():
    inner = chosen(
        "positive",
        ["r"],
        body("a", [helper.make_node("Exp", ["x"], ["p"])], ["p"]),
        body("b", [helper.make_node("MatMul", ["x", "w"], ["p"])], ["p"]),
        "inner",
    )
    then = body("then", [inner, helper.make_node("Relu", ["r"], ["s"])], ["s"])
    otherwise = body("else", [helper.make_node("Neg", ["x"], ["s"])], ["s"])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=1),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        chosen("first", ["y"], then, otherwise, "outer"),
    ]
    weights = [tensor("zero", np.float32(0)), tensor("w", W)]
    source = model(nodes, [("x", FLOAT, [3, 8]), ("first", BOOL, [])], [("y", FLOAT, [3, 8])], weights)
    sets = [(np.abs(X) * sign, np.asarray(first)) for sign in (1, -1) for first in (True, False)]
    ran = check(source, *sets)
    assert [sum("matmul" in step for step in steps) for steps in ran] == [0, 0, 1, 0]


def test_one_condition_twice_and_a_value_that_both_need():
    def pair(name, left, right, source):
        return chosen(
            "first",
            [name],
            body("a", [helper.make_node(left, [source], ["p"])], ["p"]),
            body("b", [helper.make_node(right, [source], ["p"])], ["p"]),
            name,
        )

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["shared"]),
        pair("u", "Relu", "Tanh", "shared"),
        pair("v", "Exp", "Sigmoid", "u"),
        helper.make_node("Add", ["v", "shared"], ["y"]),
    ]
    source = model(nodes, [("x", FLOAT, [3, 8]), ("first", BOOL, [])], [("y", FLOAT, [3, 8])], [tensor("w", W)])
    check(source, *((X, np.asarray(first)) for first in (True, False)))


def test_branches_that_give_inputs_and_constants():
    then = body(
        "then", [helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Identity", ["x"], ["i"])], ["t", "i"]
    )
    held = tensor("k", RNG.standard_normal((3, 8)).astype("float32"))
    otherwise = body("else", [helper.make_node("MatMul", ["x", "w"], ["t"])], ["t", "k"], [held])
    source = model(
        [chosen("first", ["y", "z"], then, otherwise)],
        [("x", FLOAT, [3, 8]), ("first", BOOL, [])],
        [("y", FLOAT, [3, 8]), ("z", FLOAT, [3, 8])],
        [tensor("w", W)],
    )
    check(source, *((X, np.asarray(first)) for first in (True, False)))


def test_a_branch_that_does_not_fit_stays_outside():
    """Its product has no such operand; where it is asked for, a call ends as ONNX Runtime's does."""
    then = body("then", [helper.make_node("MatMul", ["x", "w"], ["t"])], ["t"])
    otherwise = body("else", [helper.make_node("MatMul", ["x", "other"], ["t"])], ["t"])
    weights = [tensor("w", W), tensor("other", RNG.standard_normal((5, 8)).astype("float32"))]
    inputs = [("x", FLOAT, ["n", "k"]), ("first", BOOL, [])]
    source = model([chosen("first", ["y"], then, otherwise)], inputs, [("y", FLOAT, ["n", 8])], weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = joulec.compile(
            source, costs="model", budget=0, threads=1, measure=False, input_shapes={"x": [3, 8], "first": []}
        )
    with built:
        assert outside(built) == ["opaque.If"]
        (found,) = built.run([X, np.asarray(True)])
        np.testing.assert_allclose(found, X @ W, rtol=1e-4, atol=1e-5)
        with pytest.raises(RuntimeError, match="does not take these inputs"):
            built.run([X, np.asarray(False)])


def test_branches_of_different_shapes_stay_outside():
    then = body("then", [helper.make_node("Relu", ["x"], ["t"])], ["t"])
    otherwise = body("else", [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0])], ["t"])
    total = [chosen("first", ["z"], then, otherwise), helper.make_node("ReduceSum", ["z"], ["y"], keepdims=1)]
    source = model(total, [("x", FLOAT, [3, 8]), ("first", BOOL, [])], [("y", FLOAT, [1, 1])])
    check(source, *((X, np.asarray(first)) for first in (True, False)), engines=1)


def test_known_conditions_with_equal_names_inside():
    def known(name, source, factor):
        half = [helper.make_node("Mul", [source, "k"], ["t"]), helper.make_node("Relu", ["t"], ["r"])]
        branch = body("taken", half, ["r"], [tensor("k", np.float32(factor))])
        other = body("other", [helper.make_node("Neg", [source], ["r"])], ["r"])
        return chosen("yes", [name], branch, other, name)

    nodes = [known("u", "x", 2), known("v", "u", 5)]
    source = model(nodes, [("x", FLOAT, [3, 8])], [("v", FLOAT, [3, 8])], [tensor("yes", np.asarray(True))])
    check(source, (X,))
    assert import_onnx(source).graph.nodes[0].op.name != "opaque.If"


@pytest.mark.parametrize("joined", [["s", "a"], ["a", "b"]])
def test_concats_in_place_inside_and_across_branches(joined):
    """An operand of the branch's concat may be computed outside of it, where its place in the result is not."""
    weights = [
        tensor(f"k{n}", RNG.standard_normal((8, c, 1, 1)).astype("float32")) for n, c in enumerate((8, 8, 8, 16))
    ]
    then = body(
        "then",
        [
            helper.make_node("Conv", ["s", "k1"], ["a"]),
            helper.make_node("Conv", ["a", "k2"], ["b"]),
            helper.make_node("Concat", joined, ["c"], axis=1),
            helper.make_node("Conv", ["c", "k3"], ["t"]),
        ],
        ["t"],
    )
    otherwise = body("else", [helper.make_node("Conv", ["s", "k2"], ["t"])], ["t"])
    nodes = [helper.make_node("Conv", ["x", "k0"], ["s"]), chosen("first", ["y"], then, otherwise)]
    shape = [1, 8, 6, 6]
    source = model(nodes, [("x", FLOAT, shape), ("first", BOOL, [])], [("y", FLOAT, shape)], weights)
    image = RNG.standard_normal(shape).astype("float32")
    check(source, *((image, np.asarray(first)) for first in (True, False)))
