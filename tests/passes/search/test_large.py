"""Cutting graphs, searching the parts, and joining them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from joulec.passes.graph import Conv2d, Graph, Node, Opaque, TensorType, Value, literal
from joulec.passes.rules import RULES
from joulec.passes.search.objective import as_objective
from joulec.passes.search.partition import cut
from joulec.passes.search.totals import Bounds

from .chains import blocks, by_parts, same_meaning, whole


@pytest.mark.parametrize("objective", ["time", "energy", "power", "0.5*energy + 0.5*time", "energy**0.5 * time**0.5"])
def test_parts_reach_what_one_search_reaches(objective):
    graph = blocks(9)
    parts, one = by_parts(graph, objective), whole(graph, objective, budget=2000)
    value = as_objective(objective)
    origin = one.origin.totals
    assert value.value(parts.best.totals, origin) <= value.value(one.best.totals, origin) * (1 + 1e-9)
    assert parts.origin.totals == one.origin.totals
    same_meaning(graph, parts.best.graph)


def test_a_chain_longer_than_the_budget_is_optimised_to_its_end():
    graph = blocks(60)
    result = by_parts(graph)
    merged = [node for node in result.best.graph.nodes if isinstance(node.op, Conv2d)]
    assert len(merged) == 60
    assert dict(result.substitutions)["merge-convolutions"] == 60
    assert result.best.graph.output_names == ("y",)
    same_meaning(graph, result.best.graph)


def test_substitutions_across_the_seams_are_found():
    """Wherever the cuts fall, no pair of parallel convolutions is left."""
    for count in range(12, 20):
        result = by_parts(blocks(count, seed=count))
        assert sum(isinstance(node.op, Conv2d) for node in result.best.graph.nodes) == count


def test_parts_cover_the_graph_once():
    graph = blocks(40)
    parts = cut(graph, RULES, 20)
    names = [node.name for part in parts for node in part.graph.nodes]
    assert sorted(names) == sorted(node.name for node in graph.nodes)
    assert all(10 <= len(part.graph.nodes) <= 30 for part in parts[:-1])
    narrow = [len(part.graph.outputs) for part in parts]
    assert max(narrow) == 1, "blocks meet in one value, so that is where they are cut"


def test_equal_structure_has_one_signature_and_is_searched_once():
    signatures = {part.signature for part in cut(blocks(60), RULES, 20)}
    assert len(signatures) <= 4
    few, many = by_parts(blocks(180), budget=30), by_parts(blocks(720), budget=30)
    assert many.statistics.expanded <= 1.2 * few.statistics.expanded


def test_a_shared_weight_is_part_of_the_structure():
    """Two convolutions with one kernel are not the same part as two with different kernels."""
    one = cut(blocks(3, other_weights=False), RULES, 100)[0]
    other = cut(blocks(3), RULES, 100)[0]
    assert one.signature != other.signature


def test_effects_stay_in_their_order():
    x = Value.input("x", TensorType((1, 4, 5, 5)))
    nodes, value = [], x
    for index in range(6):
        op = Opaque("print", "relax", str(index).encode(), (x.type,), (x.type,), pure=False)
        nodes.append(Node.make(op, (value,), name=f"print{index}"))
        weight = literal(np.full((4, 4, 1, 1), 1.0 + index, "f"))
        nodes.append(Node.make(Conv2d(), (nodes[-1].outputs[0], weight), name=f"conv{index}"))
        value = nodes[-1].outputs[0]
    graph = Graph.build([x], [value], nodes)
    result = by_parts(graph)
    assert [node.name for node in result.best.graph.effects] == [f"print{index}" for index in range(6)]


def test_a_bound_is_kept_or_said_to_be_broken():
    graph = blocks(30)
    free = by_parts(graph, "energy").best.totals
    fastest = by_parts(graph, "time").best.totals
    between = Bounds(max_time_s=float(free.time_s + fastest.time_s) / 2)
    bounded = by_parts(graph, "energy", between)
    assert bounded.met_bounds
    assert bounded.best.totals.time_s <= between.max_time_s * (1 + 1e-9)
    assert not by_parts(graph, "energy", Bounds(max_time_s=float(fastest.time_s) / 2)).met_bounds


def test_no_budget_and_no_time_leave_the_graph_as_it_is():
    graph = blocks(60)
    assert by_parts(graph, budget=0).best.graph.key == graph.key
    cut_short = by_parts(graph, time_limit_s=0.0)
    assert cut_short.statistics.cut
    assert cut_short.best.graph.key == graph.key


def test_two_runs_agree():
    first, second = by_parts(blocks(60)), by_parts(blocks(60))
    assert first.best.graph.key == second.best.graph.key
    assert math.isclose(first.best.totals.time_s, second.best.totals.time_s)
    counts = [(one.statistics.expanded, one.statistics.generated, one.statistics.duplicates) for one in (first, second)]
    assert counts[0] == counts[1]
