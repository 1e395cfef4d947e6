"""Where a model is cut into head, compiled part and tail."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from joulec.passes.onnx import import_onnx

sys.path.append(str(Path(__file__).parents[2] / "support"))

from part_models import FLOAT, INT64, STRING, build, detector, looped, nested, normal, text_classifier, value


def cut(source):
    """Operators of each part: head, compiled, tail."""
    imported = import_onnx(source)
    if imported.whole is None:
        return None
    found = imported.whole.partition
    kinds = [
        [] if graph is None else [node.op_type for node in graph]
        for graph in (
            found.head and found.head.model.graph.node,
            found.core.nodes,
            found.tail and found.tail.model.graph.node,
        )
    ]
    for part in (found.head, found.tail):
        if part is not None:
            onnx.checker.check_model(part.model)
    return kinds


def test_a_model_of_tensors_is_not_cut():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert cut(build([node], [value("x", [2, 3])], [value("y", [2, 4])], {"w": normal(3, 4)})) is None


def test_what_follows_from_a_size_that_depends_on_data_is_the_tail():
    head, core, tail = cut(detector())
    assert head == []
    assert core[:2] == ["Conv", "Relu"]
    assert tail == ["NonMaxSuppression", "Gather", "Gather", "Shape"]
    tail_of = import_onnx(detector()).whole.partition.tail
    assert tail_of.inputs == ("boxes", "scores", "all")
    assert tail_of.outputs == ("found", "count")
    assert tail_of.first == "'nms' (NonMaxSuppression)"
    assert cut(looped())[2] == ["NonZero", "Squeeze", "Size", "Loop"]


def test_a_size_that_is_fixed_again_before_the_end_stays_inside_of_a_node():
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["float"], to=FLOAT),
        helper.make_node("ReduceSum", ["float"], ["y"], keepdims=0),
    ]
    assert cut(build(nodes, [value("x", [2, 3])], [value("y", [])])) is None


def test_text_is_read_before_and_written_after():
    assert cut(text_classifier()) == [
        ["StringNormalizer", "LabelEncoder"],
        ["Gather", "MatMul", "ArgMax"],
        ["LabelEncoder"],
    ]


def test_text_that_meets_what_a_network_computes_goes_to_the_tail():
    """The fewer nodes leave the compiled function."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("Greater", ["r", "zero"], ["above"]),
        helper.make_node("Where", ["above", "left", "right"], ["y"]),
    ]
    texts = [value(name, [2, 4], STRING) for name in ("left", "right")]
    source = build(
        nodes,
        [value("x", [2, 3]), *texts],
        [value("y", [2, 4], STRING), value("r", [2, 4])],
        {"w": normal(3, 4), "zero": 0.5 + normal() * 0},
    )
    assert cut(source) == [[], ["MatMul", "Relu", "Greater"], ["Where"]]


def test_nodes_that_a_head_needs_go_with_it():
    nodes = [
        helper.make_node("Add", ["place", "one"], ["next"]),
        helper.make_node("SequenceAt", ["many", "next"], ["text"]),
        helper.make_node("Equal", ["text", "text"], ["same"]),
        helper.make_node("Cast", ["same"], ["x"], to=FLOAT),
        helper.make_node("Reshape", ["x", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["y"]),
    ]
    inputs = [nested("many", STRING, "sequence"), value("place", [], INT64)]
    head, core, tail = cut(build(nodes, inputs, [value("y", [2, 4])], {"one": 1, "shape": [2, 3], "w": normal(3, 4)}))
    assert head[:2] == ["Add", "SequenceAt"]
    assert core == ["MatMul", "Relu"]
    assert tail == []


@pytest.mark.parametrize("kind", ["sequence", "optional"])
def test_a_model_that_hands_its_input_on(kind):
    source = build([helper.make_node("Identity", ["x"], ["y"])], [nested("x", FLOAT, kind)], [nested("y", FLOAT, kind)])
    assert cut(source) == [["Identity"], [], []]
