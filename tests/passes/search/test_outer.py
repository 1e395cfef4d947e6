"""Outer search: Algorithm 1 of the first paper, made precise, on a toy world that can be searched by brute force."""

from __future__ import annotations

import itertools
import random

import pytest

from joulec.passes.search.choices import CostingError
from joulec.passes.search.objective import as_objective
from joulec.passes.search.totals import Bounds, GraphFigures

OBJECTIVES = ["time", "energy", "0.3*energy + 0.7*time", "power", "energy*time", "energy**0.3*time**0.7"]
EVERYTHING = {"alpha": 1e6, "budget": 10**6}
"""Options under which every graph is seen."""


def few_kernels(totals, origin):
    return totals.kernels / origin.kernels + totals.energy_j / origin.energy_j


def counts(statistics):
    names = ("expanded", "generated", "duplicates", "inadmissible")
    return {name: getattr(statistics, name) for name in names}


class TestAlgorithm1:
    """The same graphs in the same order as a plain implementation that builds and solves every graph."""

    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize(
        ("alpha", "budget"), [(1.0, 10**6), (1.05, 10**6), (1.3, 10**6), (1.3, 1), (1.3, 4), (1.05, 0)]
    )
    def test_expands_what_it_should(self, toy, objective, alpha, budget):
        for seed in range(6):
            graph, rules, costs = toy.make_world(seed, lame=seed % 2 == 1)
            plain = toy.algorithm1(
                graph, rules, toy.make_world(seed, lame=seed % 2 == 1)[2], as_objective(objective), alpha, budget
            )
            found = toy.search(graph, rules, costs, objective, alpha=alpha, budget=budget)
            assert counts(found.statistics) == {name: getattr(plain, name) for name in counts(found.statistics)}
            assert found.best.graph.key in plain.seen
            value = as_objective(objective).value(found.best.totals, plain.origin)
            assert float(value) == pytest.approx(plain.best[1], rel=1e-12)

    def test_budget_counts_expansions(self, toy):
        graph, rules, costs = toy.make_world(1)
        for budget in (0, 1, 2, 5):
            found = toy.search(graph, rules, costs, "energy", alpha=1e6, budget=budget)
            assert found.statistics.expanded == budget
            assert not found.statistics.exhausted
        assert toy.search(graph, rules, costs, "energy", alpha=1e6, budget=10**6).statistics.exhausted

    def test_an_improvement_is_kept_at_alpha_one(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 5)], "tanh": [(4, 4)], "exp": [(3, 3)], "sqrt": [(9, 9)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"), toy.Exchange("exp", "sqrt"))
        found = toy.search(toy.chain("relu", "relu"), rules, costs, "time", alpha=1.0)
        assert found.best.totals.time_s == 6
        assert found.substitutions == (("relu-to-tanh", 2), ("tanh-to-exp", 2))

    def test_alpha_lets_a_detour_through(self, toy):
        costs = toy.FakeCosts({"relu": [(100, 1)], "tanh": [(104, 1)], "exp": [(50, 1)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        graph = toy.chain("relu")
        assert toy.search(graph, rules, costs, "time", alpha=1.03).best.totals.time_s == 100
        assert toy.search(graph, rules, costs, "time", alpha=1.05).best.totals.time_s == 50

    def test_a_graph_at_alpha_exactly_is_not_kept(self, toy):
        costs = toy.FakeCosts({"relu": [(4, 1)], "tanh": [(5, 1)], "exp": [(1, 1)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        assert toy.search(toy.chain("relu"), rules, costs, "time_s", alpha=1.25).best.totals.time_s == 4
        assert toy.search(toy.chain("relu"), rules, costs, "time_s", alpha=1.26).best.totals.time_s == 1

    @pytest.mark.parametrize("objective", ["energy_j - 20*time_s", "-power", "-time"])
    def test_negative_costs_are_searched_too(self, toy, objective):
        costs = toy.FakeCosts({"relu": [(2, 5)], "tanh": [(3, 5)], "exp": [(4, 9)], "sqrt": [(1, 8)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"), toy.Exchange("exp", "sqrt"))
        graph = toy.chain("relu", "relu")
        wide = toy.algorithm1(graph, rules, costs, as_objective(objective), alpha=-1e9)
        found = toy.search(graph, rules, costs, objective, alpha=3.0)
        value = as_objective(objective).value(found.best.totals, wide.origin)
        assert float(value) == pytest.approx(wide.best[1])

    def test_the_way_to_the_best_is_told(self, toy):
        for seed in range(6):
            graph, rules, costs = toy.make_world(seed)
            best = toy.search(graph, rules, costs, "energy", **EVERYTHING).best
            here = graph
            by_name = {rule.name: rule for rule in rules}
            for name, after in best.applied:
                rule = by_name[name]
                steps = {
                    here.apply(rule.rewrite(here, match)).key
                    for node in here.nodes
                    if isinstance(node.op, rule.anchor)
                    for match in rule.matches(here, node)
                }
                assert after.key in steps
                here = after
            assert here.key == best.graph.key


class TestOptimality:
    """With a wide alpha the best of all graphs and all assignments is found."""

    @pytest.mark.parametrize("objective", [*OBJECTIVES, "kernels + energy", few_kernels, "peak_memory_bytes*time"])
    def test_global_optimum(self, toy, objective):
        for seed in range(5):
            graph, rules, costs = toy.make_world(seed, size=6)
            chosen = as_objective(objective)
            wide = toy.algorithm1(graph, rules, costs, chosen, alpha=1e9)
            graphs = self.reachable(graph, rules)
            assert set(graphs) == wide.seen
            best = min(
                toy.brute_force([costs.options(n.spec) for n in g.nodes], GraphFigures.of(g), chosen, wide.origin)
                for g in graphs.values()
            )
            found = toy.search(graph, rules, costs, objective, **EVERYTHING)
            assert float(chosen.value(found.best.totals, wide.origin)) == pytest.approx(best[1], rel=1e-9)
            assert found.statistics.generated - found.statistics.duplicates + 1 == len(graphs)
            assert found.statistics.exhausted

    @staticmethod
    def reachable(graph, rules):
        """Every graph that rewriting reaches, breadth first."""
        found = {graph.key: graph}
        frontier = [graph]
        while frontier:
            following = []
            for state, rule in itertools.product(frontier, rules):
                for node in state.nodes:
                    for match in rule.matches(state, node) if isinstance(node.op, rule.anchor) else ():
                        new = state.apply(rule.rewrite(state, match))
                        if new.key not in found:
                            found[new.key] = new
                            following.append(new)
            frontier = following
        return found

    def test_never_worse_than_the_original(self, toy):
        for seed in range(8):
            graph, rules, costs = toy.make_world(seed)
            for objective in OBJECTIVES:
                found = toy.search(graph, rules, costs, objective)
                value = as_objective(objective).value(found.best.totals, found.origin.totals)
                assert float(value) <= 1.0 + 1e-12

    def test_the_best_plan_adds_up(self, toy):
        for seed in range(5):
            graph, rules, costs = toy.make_world(seed)
            best = toy.search(graph, rules, costs, "energy*time").best
            assert len(best.choices) == len(best.graph.nodes)
            assert best.totals.time_s == sum(choice.time_s for choice in best.choices)
            assert best.totals.energy_j == sum(choice.energy_j for choice in best.choices)
            assert best.totals.kernels == len(best.graph.nodes)
            assert best.assignment == dict(zip(best.graph.nodes, best.choices, strict=True))


class TestCosting:
    """What is asked of the cost source."""

    def test_unchanged_operators_are_asked_for_once(self, toy):
        table = {"relu": [(5, 1)], "tanh": [(4, 1)], "exp": [(3, 1)], "erf": [(7, 1)]}
        costs = toy.FakeCosts(table)
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        graph = toy.chain("erf", "relu", "relu", "relu")
        toy.search(graph, rules, costs, "time", **EVERYTHING)
        asked = [{costs.kind(spec) for spec in specs} for specs in costs.prepared]
        assert asked[0] == {"erf", "relu"}
        assert all("erf" not in kinds for kinds in asked[1:])

    def test_one_request_for_an_expansion(self, toy):
        graph, rules, costs = toy.make_world(1)
        found = toy.search(graph, rules, costs, "energy", **EVERYTHING)
        assert len(costs.prepared) <= 1 + found.statistics.expanded

    def test_duplicates_are_dropped_before_costing(self, toy):
        """Two orders of the same two substitutions meet; with a function as objective each graph is solved once."""
        calls = []

        def counted(totals, origin):
            calls.append(totals)
            return totals.time_s

        costs = toy.FakeCosts({"relu": [(5, 1)], "tanh": [(4, 1)]})
        found = toy.search(toy.chain(*["relu"] * 4), (toy.Exchange("relu", "tanh"),), costs, counted, **EVERYTHING)
        assert found.statistics.generated == 4 * 2**3
        assert found.statistics.duplicates == 4 * 2**3 - (2**4 - 1)
        distinct = 2**4
        assert len(calls) <= 2 * distinct + 16, "some of the best may be solved again, none of the duplicates"

    def test_graphs_that_cannot_be_computed_are_counted_and_not_expanded(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 1)], "exp": [(1, 1)]})
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        found = toy.search(toy.chain("relu"), rules, costs, "time", **EVERYTHING)
        assert found.statistics.inadmissible == 1
        assert found.best.totals.time_s == 5

    def test_an_original_that_cannot_be_computed_is_refused(self, toy):
        with pytest.raises(CostingError, match="tanh"):
            toy.search(toy.chain("tanh"), (), toy.FakeCosts({}), "time")

    @pytest.mark.parametrize("objective", ["time", "0.3*energy + 0.7*time", "energy*time", "time**2"])
    @pytest.mark.parametrize("bounds", [None, Bounds(max_time_s=2.2e6), Bounds(max_energy_j=2.5e6)], ids=str)
    def test_lower_bounds_never_change_the_result(self, toy, objective, bounds):
        pruned = 0
        for seed, alpha in itertools.product(range(6), (1.0, 1.05, 1.5)):
            graph, rules, costs = toy.make_world(seed)
            bounded = toy.FakeCosts(costs.table)
            for kind, points in costs.table.items():
                share = random.Random(f"{seed}{kind}").choice((0.5, 0.9, 1.0))
                bounded.bound[kind] = tuple(share * min(axis) for axis in zip(*points, strict=True))
            free = toy.search(graph, rules, costs, objective, bounds, alpha=alpha, budget=10**6)
            cut = toy.search(graph, rules, bounded, objective, bounds, alpha=alpha, budget=10**6)
            assert cut.best.graph.key == free.best.graph.key
            assert cut.best.totals == free.best.totals
            assert free.statistics.pruned == 0 or bounds is None
            pruned += cut.statistics.pruned
        assert bounds is not None or pruned > 0, "the test must prune something"

    def test_pruned_graphs_are_not_costed(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 1)], "tanh": [(99, 1)]}, bound={"relu": (5, 0), "tanh": (50, 0)})
        found = toy.search(toy.chain("relu"), (toy.Exchange("relu", "tanh"),), costs, "time")
        assert found.statistics.pruned == 1
        assert [{costs.kind(spec) for spec in specs} for specs in costs.prepared if specs] == [{"relu"}]

    def test_power_is_never_pruned(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 5)], "tanh": [(50, 6)]}, bound={"tanh": (50, 6)})
        found = toy.search(toy.chain("relu"), (toy.Exchange("relu", "tanh"),), costs, "power")
        assert found.statistics.pruned == 0
        assert found.best.totals.power_w == 6 / 50
