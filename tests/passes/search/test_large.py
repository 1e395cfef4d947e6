"""Cutting graphs, searching the parts, and joining them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from joulec.costdb.cost import Cost
from joulec.passes.canonical import canonicalise
from joulec.passes.graph import Add, Concat, Conv2d, Graph, Node, Opaque, Split, Step, TensorType, Value, literal
from joulec.passes.graph.evaluate import evaluate
from joulec.passes.rules import CONVERGENT
from joulec.passes.search.choices import Choice, Options
from joulec.passes.search.large import PartitionedSearch
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch, SearchOptions
from joulec.passes.search.partition import cut
from joulec.passes.search.totals import Bounds

RELU = (Step("activation", "relu"),)


class FormulaCosts:
    """A fixed cost for each node and some for its work; two algorithms trade time for energy."""

    def __init__(self):
        self.made = {}

    def prepare(self, specs):
        for spec in specs:
            self.options(spec)

    def knows(self, spec):
        return True

    def options(self, spec):
        if spec not in self.made:
            free = spec.op.is_view or isinstance(spec.op, Split)
            base = 0.0 if free else 1.0 + spec.flops / 1e5
            points = [(base, 2 * base), (1.5 * base, 1.5 * base)]
            self.made[spec] = Options(
                [
                    Choice(SimpleNamespace(name=f"a{i}"), Cost(t, e, "replay", "replay"))
                    for i, (t, e) in enumerate(points)
                ]
            )
        return self.made[spec]

    def lower_bound(self, spec):
        options = self.options(spec)
        return float(options.times.min()), float(options.energies.min())


def tidy(graph):
    return canonicalise(graph, lambda spec, step: isinstance(spec.op, Conv2d))


def blocks(count, seed=0, other_weights=True):
    """A chain of blocks: two parallel convolutions of one input, their concat, and every third block a residual."""
    rng = np.random.default_rng(seed)
    x = Value.input("x", TensorType((1, 4, 5, 5)))
    value, nodes = x, []
    for index in range(count):
        generator = rng if other_weights else np.random.default_rng(seed)
        first, second = (literal(generator.standard_normal((2, 4, 1, 1)).astype("f")) for _ in range(2))
        a = Node.make(Conv2d(), (value, first), RELU, name=f"a{index}")
        b = Node.make(Conv2d(), (value, second), RELU, name=f"b{index}")
        c = Node.make(Concat(1), (a.outputs[0], b.outputs[0]), name=f"c{index}")
        nodes += [a, b, c]
        if index % 3 == 2:
            nodes.append(Node.make(Add(), (value, c.outputs[0]), name=f"add{index}"))
        value = nodes[-1].outputs[0]
    return tidy(Graph.build([x], [value], nodes, ["y"]))


def by_parts(graph, objective="time", bounds=None, **options):
    search = PartitionedSearch(
        CONVERGENT, FormulaCosts(), as_objective(objective, bounds), SearchOptions(**options), tidy
    )
    return search.run(graph)


def whole(graph, objective="time", bounds=None, **options):
    search = OuterSearch(CONVERGENT, FormulaCosts(), as_objective(objective, bounds), SearchOptions(**options), tidy)
    return search.run(graph)


def same_meaning(before, after):
    given = {"x": np.random.default_rng(1).standard_normal((1, 4, 5, 5)).astype("f")}
    for wanted, found in zip(evaluate(before, given), evaluate(after, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


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
    parts = cut(graph, CONVERGENT, 20)
    names = [node.name for part in parts for node in part.graph.nodes]
    assert sorted(names) == sorted(node.name for node in graph.nodes)
    assert all(10 <= len(part.graph.nodes) <= 30 for part in parts[:-1])
    narrow = [len(part.graph.outputs) for part in parts]
    assert max(narrow) == 1, "blocks meet in one value, so that is where they are cut"


def test_equal_structure_has_one_signature_and_is_searched_once():
    signatures = {part.signature for part in cut(blocks(60), CONVERGENT, 20)}
    assert len(signatures) <= 4
    few, many = by_parts(blocks(60)), by_parts(blocks(240))
    assert many.statistics.expanded <= 2 * few.statistics.expanded


def test_a_shared_weight_is_part_of_the_structure():
    """Two convolutions with one kernel are not the same part as two with different kernels."""
    one = cut(blocks(3, other_weights=False), CONVERGENT, 100)[0]
    other = cut(blocks(3), CONVERGENT, 100)[0]
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
