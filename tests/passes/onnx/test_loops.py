"""Loops that state no condition, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from joulec.passes.graph.evaluate import evaluate
from joulec.passes.onnx import import_onnx
from joulec.passes.onnx.engines import engine_for

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def loop(result, taken):
    """Adds to x as often as times says."""
    nodes = [helper.make_node("Add", ["before", taken], ["after"]), helper.make_node("Identity", ["go"], ["on"])]
    inputs = [value("step", INT64), value("go", BOOL), value("before", FLOAT, 2)]
    body = helper.make_graph(nodes, "body", inputs, [value("on", BOOL), value("after", FLOAT, 2)])
    return helper.make_node("Loop", ["times", "", "x"], [result], body=body)


def within_a_branch():
    inner = loop("left", "x")
    body = helper.make_graph([inner], "then", [], [value("left", FLOAT, 2)])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["right"])], "else", [], [value("right", FLOAT, 2)])
    some = helper.make_node("Cast", ["times"], ["some"], to=BOOL)
    return [some, helper.make_node("If", ["some"], ["y"], then_branch=body, else_branch=other)]


def test_names_inside_of_a_loop_meet_none_outside(run):
    """The body's values are called like those that joulec names by position."""
    swap = [helper.make_node("Identity", [one], [other]) for one, other in (("b", "x1"), ("a", "y0"), ("go", "t0"))]
    inputs = [value("step", INT64), value("go", BOOL), value("a", FLOAT, 2), value("b", FLOAT, 2)]
    body = helper.make_graph(swap, "body", inputs, [value("t0", BOOL), value("x1", FLOAT, 2), value("y0", FLOAT, 2)])
    nodes = [helper.make_node("Loop", ["times", "", "x", "w"], ["r", "s"], body=body)]
    source = helper.make_model(
        helper.make_graph(
            nodes,
            "loops",
            [value("times", INT64), value("x", FLOAT, 2), value("w", FLOAT, 2)],
            [value("r", FLOAT, 2), value("s", FLOAT, 2)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    (node,) = import_onnx(source).graph.nodes
    assert engine_for(node.op) == "onnxruntime"
    given = {"times": np.array(3), "x": np.float32([1, -2]), "w": np.float32([3, 4])}
    np.testing.assert_array_equal(run(onnx.load_from_string(node.op.definition), given), run(source, given))


@pytest.mark.parametrize("nodes", [[loop("y", "x")], within_a_branch()], ids=["alone", "in a branch"])
@pytest.mark.parametrize("times", [0, 3])
def test_a_loop_without_a_condition_runs_as_often_as_it_says(nodes, times, run):
    inputs = [value("x", FLOAT, 2), value("times", INT64)]
    source = helper.make_model(
        helper.make_graph(nodes, "loops", inputs, [value("y", FLOAT, 2)]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    given = {"x": np.float32([1, -2]), "times": np.array(times)}
    imported = import_onnx(source)
    for made in (evaluate(imported.graph, given), run(imported.model, given)):
        np.testing.assert_array_equal(made[0], run(source, given)[0])
