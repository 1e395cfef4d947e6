"""Outer search: modes, time limits, bounds, determinism, and objectives without a value."""

from __future__ import annotations

import itertools
import math

import pytest

from joulec.passes.graph import Graph, Value
from joulec.passes.search.choices import CostingError
from joulec.passes.search.objective import ObjectiveError, as_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import Bounds

OBJECTIVES = ["time", "energy", "0.3*energy + 0.7*time", "power", "energy*time", "energy**0.3*time**0.7"]
EVERYTHING = {"alpha": 1e6, "budget": 10**6}
"""Options under which every graph is seen."""


def few_kernels(totals, origin):
    return totals.kernels / origin.kernels + totals.energy_j / origin.energy_j


def fingerprint(result):
    statistics = {name: value for name, value in vars(result.statistics).items() if name != "seconds"}
    best = result.best
    picks = [choice.algorithm.name for choice in best.choices]
    return best.graph.key, picks, best.totals, best.optimal, [rule for rule, _ in best.applied], statistics


class TestModes:
    """How much is searched."""

    def test_without_any_search_the_original_comes_back(self, toy):
        for seed in range(4):
            graph, rules, costs = toy.make_world(seed)
            for objective in OBJECTIVES:
                found = toy.search(graph, rules, costs, objective, budget=0, inner="none")
                assert found.best.graph is graph
                assert found.best.choices == found.origin.choices
                assert found.best.totals == found.origin.totals
                assert found.best.applied == ()
                assert found.substitutions == ()

    def test_the_origin_is_the_fastest_assignment_of_the_graph_given(self, toy):
        graph, rules, costs = toy.make_world(2)
        origin = toy.search(graph, rules, costs, "energy").origin
        for node, choice in zip(graph.nodes, origin.choices, strict=True):
            assert choice.time_s == costs.options(node.spec).times.min()

    def test_inner_search_alone(self, toy):
        graph, rules, costs = toy.make_world(2)
        found = toy.search(graph, rules, costs, "energy", budget=0)
        assert found.best.graph is graph
        for node, choice in zip(graph.nodes, found.best.choices, strict=True):
            assert choice.energy_j == costs.options(node.spec).energies.min()

    @pytest.mark.parametrize("objective", ["energy", "power", few_kernels])
    def test_outer_search_alone_keeps_the_fastest_algorithms(self, toy, objective):
        for seed in range(4):
            graph, rules, costs = toy.make_world(seed)
            found = toy.search(graph, rules, costs, objective, inner="none", **EVERYTHING)
            for node, choice in zip(found.best.graph.nodes, found.best.choices, strict=True):
                assert choice.time_s == costs.options(node.spec).times.min()
            plain = toy.algorithm1(graph, rules, costs, as_objective(objective), alpha=1e9, inner="none")
            value = as_objective(objective).value(found.best.totals, plain.origin)
            assert float(value) == pytest.approx(plain.best[1])

    def test_neighbourhood_of_full_distance_finds_what_exact_does(self, toy):
        for seed in range(3):
            graph, rules, costs = toy.make_world(seed, size=4)
            for objective in ("power", "energy*time"):
                exact = toy.search(graph, rules, costs, objective, **EVERYTHING)
                found = toy.search(graph, rules, costs, objective, inner="neighbourhood", distance=9, **EVERYTHING)
                assert float(found.best.totals.power_w) == pytest.approx(float(exact.best.totals.power_w))


class TestTime:
    """The time limit, by a clock of the test's own."""

    class Clock:
        """Moves on by a step at each reading."""

        def __init__(self, step):
            self.now, self.step = 100.0, step

        def __call__(self):
            self.now += self.step
            return self.now

    def test_the_best_so_far_comes_back(self, toy):
        graph, rules, costs = toy.make_world(3)
        whole = toy.search(graph, rules, costs, "energy", **EVERYTHING)
        options = SearchOptions(alpha=1e6, budget=10**6, time_limit_s=2.5)
        cut = OuterSearch(rules, costs, as_objective("energy"), options, clock=self.Clock(1.0)).run(graph)
        assert cut.statistics.cut
        assert not cut.statistics.exhausted
        assert 0 < cut.statistics.expanded < whole.statistics.expanded
        assert whole.best.totals.energy_j <= cut.best.totals.energy_j <= cut.origin.totals.energy_j
        assert cut.statistics.seconds > 2.5

    def test_no_time_is_enough_for_the_original(self, toy):
        graph, rules, costs = toy.make_world(3)
        options = SearchOptions(time_limit_s=0.0)
        found = OuterSearch(rules, costs, as_objective("energy"), options, clock=self.Clock(1.0)).run(graph)
        assert found.statistics.cut
        assert found.statistics.expanded == 0
        assert found.best.graph is graph

    def test_enough_time_cuts_nothing(self, toy):
        graph, rules, costs = toy.make_world(3)
        found = toy.search(graph, rules, costs, "energy", time_limit_s=1e9, **EVERYTHING)
        assert not found.statistics.cut
        assert found.statistics.exhausted


class TestBounds:
    """Graphs that break a bound."""

    def test_are_ordered_by_excess_and_expanded(self, toy):
        """The way to the graph that keeps the bound leads through one that breaks it, less than the original does."""
        table = {"relu": [(10, 1)], "tanh": [(8, 5)], "exp": [(4, 9)]}
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("tanh", "exp"))
        found = toy.search(toy.chain("relu"), rules, toy.FakeCosts(table), "energy", Bounds(max_time_s=5.0))
        assert found.met_bounds
        assert found.best.totals.time_s == 4
        assert not toy.search(
            toy.chain("relu"), rules, toy.FakeCosts(table), "energy", Bounds(max_time_s=3.0)
        ).met_bounds

    def test_the_nearest_point_comes_back_where_none_keeps_them(self, toy):
        table = {"relu": [(10, 1)], "tanh": [(8, 5)], "exp": [(9, 2)]}
        rules = (toy.Exchange("relu", "tanh"), toy.Exchange("relu", "exp"))
        found = toy.search(toy.chain("relu"), rules, toy.FakeCosts(table), "energy", Bounds(max_time_s=1.0))
        assert not found.met_bounds
        assert found.best.totals.time_s == 8

    def test_a_bound_on_power_is_met_by_taking_longer(self, toy):
        table = {"relu": [(1, 10), (20, 11)]}
        found = toy.search(toy.chain("relu"), (), toy.FakeCosts(table), "energy", Bounds(max_power_w=1.0))
        assert found.met_bounds
        assert found.best.totals.time_s == 20

    def test_a_bound_that_the_original_meets_exactly_is_met(self, toy):
        table = {"relu": [(3, 10), (4, 9)]}
        found = toy.search(toy.chain("relu"), (), toy.FakeCosts(table), "energy", Bounds(max_time_s=3.0))
        assert found.met_bounds
        assert found.best.totals.time_s == 3


class TestDeterminism:
    """Two runs give the same graph, picks and statistics."""

    @pytest.mark.parametrize("objective", [*OBJECTIVES, "0.5*power + 0.5*energy", few_kernels])
    def test_two_runs_agree(self, toy, objective):
        for seed in range(3):
            one, two = (toy.search(*toy.make_world(seed), objective, budget=12) for _ in range(2))
            assert fingerprint(one) == fingerprint(two)

    def test_ties_do_not_depend_on_chance(self, toy):
        """Every assignment and every order of rewriting costs the same."""
        table = {kind: [(2, 2), (2, 2)] for kind in toy.KINDS}
        rules = tuple(toy.Exchange(a, b) for a, b in itertools.permutations(toy.KINDS[:3], 2))
        graph = toy.chain("relu", "tanh", "exp")
        prints = [fingerprint(toy.search(graph, rules, toy.FakeCosts(table), "energy", budget=9)) for _ in range(2)]
        assert prints[0] == prints[1]
        assert prints[0][0] == graph.key, "what is no better does not replace the original"

    def test_one_search_can_be_run_twice(self, toy):
        graph, rules, costs = toy.make_world(0)
        search = OuterSearch(rules, costs, as_objective("energy"), SearchOptions(budget=5))
        assert fingerprint(search.run(graph)) == fingerprint(search.run(graph))

    def test_progress_is_told_after_every_expansion(self, toy):
        graph, rules, costs = toy.make_world(3)
        told = []
        search = OuterSearch(
            rules,
            costs,
            as_objective("energy"),
            SearchOptions(**EVERYTHING),
            on_progress=lambda statistics, value: told.append((statistics.expanded, value)),
        )
        found = search.run(graph)
        assert [expanded for expanded, _ in told] == list(range(1, found.statistics.expanded + 1))
        values = [value for _, value in told]
        assert values == sorted(values, reverse=True)
        assert values[-1] == pytest.approx(found.best.totals.energy_j / found.origin.totals.energy_j)


class TestObjectivesWithoutValue:
    """Energies that are not known, and objectives that have no value."""

    def test_time_needs_no_energies(self, toy):
        costs = toy.FakeCosts({"relu": [(5, None), (4, None)], "tanh": [(3, None)]})
        found = toy.search(toy.chain("relu"), (toy.Exchange("relu", "tanh"),), costs, "time")
        assert found.best.totals.time_s == 3
        assert math.isnan(found.best.totals.energy_j)

    @pytest.mark.parametrize("objective", ["energy", "power", "energy*time", "0.5*power + time"])
    def test_energy_does(self, toy, objective):
        costs = toy.FakeCosts({"relu": [(5, None)]})
        with pytest.raises(CostingError, match="energ"):
            toy.search(toy.chain("relu"), (), costs, objective)

    def test_what_has_no_value_for_the_original_is_refused(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 1)]})
        for objective in ("(time - 2)**0.5", lambda totals, origin: math.nan):
            with pytest.raises(ObjectiveError, match="no value for the original"):
                toy.search(toy.chain("relu"), (), costs, objective)

    def test_functions_may_divide_by_any_figure_of_the_original(self, toy):
        costs = toy.FakeCosts({"relu": [(5, 1)]})

        def all_figures(totals, origin):
            names = ("flops", "bytes", "peak_memory_bytes", "kernels", "time_s", "energy_j", "power_w")
            return sum(getattr(totals, name) / getattr(origin, name) for name in names)

        found = toy.search(toy.chain("relu"), (), costs, all_figures)
        assert found.best.totals == found.origin.totals

    @pytest.mark.parametrize("objective", [*OBJECTIVES, "0.5*power + 0.5*energy"])
    def test_a_graph_that_computes_nothing_is_fine(self, toy, objective):
        x = Value.input("x", toy.VECTOR)
        found = toy.search(Graph.build([x], [x], []), (), toy.FakeCosts({}), objective)
        assert found.best.totals.time_s == 0
        assert found.best.choices == ()
