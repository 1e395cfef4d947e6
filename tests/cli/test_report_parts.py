"""What the report's page is made of: matching both graphs, and laying them out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from joulec.costdb.cost import Cost
from joulec.page import drawing
from joulec.page.compare import compare
from joulec.page.drawing import draw
from joulec.page.write import _beats
from joulec.passes.graph import Activation, Binary, Concat, Graph, Node, TensorType, Value
from joulec.passes.search.choices import Choice
from joulec.passes.search.results import Plan
from joulec.passes.search.totals import Totals


@dataclass(frozen=True)
class Named:
    """An algorithm of which the page needs the name alone."""

    name: str


def plan(graph, algorithm=lambda node: "ours"):
    """Every node takes a microsecond, measured, and an unknown energy."""
    cost = Cost(1e-6, None, "measured", None, spread=0.01, samples=9)
    choices = tuple(Choice(Named(algorithm(node)), cost) for node in graph.nodes)
    return Plan(graph, choices, Totals(1e-6 * len(choices), float("nan")))


def value(name="x", rows=1):
    return Value.input(name, TensorType((rows, 4)))


def relu(operand, outputs=None, name=""):
    return Node.make(Activation("relu"), (operand,), outputs=outputs, name=name)


def built(x, *nodes):
    return Graph.build((x,), nodes[-1].outputs, nodes, ("y",))


def statuses(before, after, **algorithms):
    return [row.status for row in compare(plan(before), plan(after, **algorithms)).rows]


def test_operators_are_matched_by_what_they_compute():
    x = value()
    (first,) = [relu(x, name="first")]
    second = Node.make(Activation("sigmoid"), first.outputs, name="second")
    third = relu(second.outputs[0], name="third")
    before = built(x, first, second, third)
    assert statuses(before, before) == ["same"] * 3
    other = {"algorithm": lambda node: "theirs" if node.name == "second" else "ours"}
    assert statuses(before, before, **other) == ["same", "algorithm", "same"]
    around = Node.make(Activation("tanh"), (x,), outputs=second.outputs, name="another way")
    assert statuses(before, built(x, around, third)) == ["removed", "rewritten", "same"]
    fresh = Node.make(Activation("tanh"), first.outputs, name="fresh")
    back = Node.make(Activation("sigmoid"), fresh.outputs, outputs=second.outputs)
    assert statuses(before, built(x, first, fresh, back, third)) == ["same", "added", "same", "same"]


def test_sources_are_told_for_each_operator():
    x = value()
    (row,) = compare(plan(built(x, relu(x))), plan(built(x, relu(x)))).rows
    side = row.side
    assert (side.time_source, side.energy_j, side.energy_source, side.spread) == ("measured", None, "", 0.01)


def dense(x, blocks):
    """Blocks that each read all before them, as DenseNet's do."""
    nodes, known = [], [x]
    for _ in range(blocks):
        joined = Node.make(Concat(1), tuple(known)) if len(known) > 1 else relu(x)
        step = relu(joined.outputs[0])
        nodes += [joined, step]
        known.append(step.outputs[0])
    return built(x, *nodes)


def test_a_graph_with_hundreds_of_edges_is_laid_out_without_overlaps():
    graph = dense(value(), 24)
    whole = plan(graph)
    compared = compare(whole, whole)
    drawn = draw(graph, compared.rows, compared.after, after=True)
    assert len(drawn.boxes) == len(graph.nodes) + 2
    assert len(drawn.paths) > 290
    for box in drawn.boxes:
        assert box.width / 2 - 1 <= box.x <= drawn.width - box.width / 2 + 1
        assert 0 <= box.y <= drawn.height
    heights = sorted((box.y, box.x, box.width) for box in drawn.boxes)
    for (y, x, width), (below, beside, other) in pairwise(heights):
        assert below - y > 30 or abs(beside - x) >= (width + other) / 2 - 1
    sums = [box for box in drawn.boxes if box.row is not None]
    assert {box.row for box in sums} == set(range(len(graph.nodes)))


def test_a_graph_of_thousands_is_not_drawn(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_NODES", 3)
    graph = dense(value(), 2)
    compared = compare(plan(graph), plan(graph))
    assert draw(graph, compared.rows, compared.after, after=True) is None


def test_a_value_that_is_both_input_and_output_has_an_edge():
    x, y = value("x"), value("y")
    total = Node.make(Binary("sub"), (x, y))
    graph = Graph.build((x, y), (total.outputs[0], x), (total,), ("sum", "same"))
    compared = compare(plan(graph), plan(graph))
    drawn = draw(graph, compared.rows, compared.after, after=True)
    assert len(drawn.paths) == 4


def test_a_point_beats_another_in_both_alone():
    def at(time_s, energy_j):
        return Plan(built(value(), relu(value())), (), Totals(time_s, energy_j))

    assert _beats(at(1.0, 1.0), at(2.0, 2.0))
    assert not _beats(at(1.0, 2.0), at(2.0, 2.0))
    assert not _beats(at(2.0, 2.0), at(2.0, 2.0))
