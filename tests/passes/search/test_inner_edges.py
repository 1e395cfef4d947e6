"""Costs on edges: layouts that do not fit have to be converted."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from joulec.passes.search.assignment import Problem
from joulec.passes.search.edges import edge_tables
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import Bounds, GraphFigures

KINDS = ["time", "0.4*energy + 0.6*time", "power", "energy*time", "energy**0.3 * time**0.7"]


@pytest.fixture
def linked(toy):
    """Costs where every choice has a layout of its own, and a conversion costs what its two ends decide."""

    class LinkedCosts(toy.FakeCosts):
        def edge(self, spec_from, choice_from, spec_to, operand, choice_to):
            if choice_from == choice_to:
                return 0.0, 0.0
            if (choice_from, choice_to) == (2, 0):
                return math.inf, math.inf
            return 0.5 + choice_from + 0.25 * operand, 1.5 * choice_to + 0.5

    rng = random.Random(7)
    table = {kind: [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(rng.randint(2, 3))] for kind in toy.KINDS}
    return LinkedCosts({**table, "add": [(2, 5), (4, 3)]})


def opened(costs, graph):
    costs.prepare({node.spec for node in graph.nodes})
    options = [costs.options(node.spec) for node in graph.nodes]
    return options, GraphFigures.of(graph), edge_tables(graph, options, costs)


def brute_force(problem):
    picks = itertools.product(*(range(len(of)) for of in problem.options))
    return min(found.rank for found in map(problem.assignment, picks) if math.isfinite(found.totals.time_s))


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_what_brute_force_finds(toy, linked, kind):
    for seed in range(12):
        graph = toy.random_graph(random.Random(seed), 6)
        options, figures, edges = opened(linked, graph)
        origin = toy.fastest_totals(options, figures)
        objective = as_objective(kind)
        found = InnerSearch(objective, origin).solve(options, figures, edges)
        _, value = brute_force(Problem(options, edges, figures, objective, origin))
        assert found.optimal or kind not in ("time", "power", "0.4*energy + 0.6*time")
        assert found.value == pytest.approx(value)


@pytest.mark.parametrize("kind", ["0.5*power + 0.5*energy", "energy"])
@pytest.mark.parametrize("bounds", [Bounds(), Bounds(max_time_s=40.0), Bounds(max_power_w=1.2)], ids=str)
def test_the_gap_is_a_true_bound(toy, linked, kind, bounds):
    proven = 0
    for seed in range(12):
        graph = toy.random_graph(random.Random(seed), 6)
        options, figures, edges = opened(linked, graph)
        origin = toy.fastest_totals(options, figures)
        objective = as_objective(kind, bounds)
        found = InnerSearch(objective, origin).solve(options, figures, edges)
        excess, value = brute_force(Problem(options, edges, figures, objective, origin))
        assert found.rank >= (excess - 1e-9, -math.inf)
        if found.gap is not None:
            proven += 1
            assert found.value * (1 - found.gap) <= value + 1e-9
        if found.optimal:
            assert found.rank == pytest.approx((excess, value))
    assert proven


def test_totals_hold_what_edges_cost(toy, linked):
    graph = toy.chain("relu", "tanh")
    options, figures, edges = opened(linked, graph)
    (edge,) = edges
    assert (edge.source, edge.target) == (0, 1)
    problem = Problem(options, edges, figures, as_objective("time"), toy.Totals(1.0, 1.0))
    found = problem.assignment((1, 0))
    assert found.totals.time_s == options[0].times[1] + options[1].times[0] + 1.5
    assert found.totals.energy_j == options[0].energies[1] + options[1].energies[0] + 0.5


def test_sources_without_edge_costs_have_no_tables(toy):
    costs = toy.FakeCosts({"relu": [(1, 1), (2, 2)]})
    graph = toy.chain("relu", "relu")
    assert opened(costs, graph)[2] == ()


def test_the_outer_search_counts_edges(toy, linked):
    """tanh alone is dearer than exp, but fits its neighbours better."""
    linked.table = {"relu": [(1, 1)], "exp": [(50, 50), (4, 4)], "tanh": [(5, 5)]}
    graph = toy.chain("relu", "exp", "relu")
    search = OuterSearch((toy.Exchange("exp", "tanh"),), linked, as_objective("energy"), SearchOptions(alpha=3.0))
    result = search.run(graph)
    assert [rule for rule, _ in result.best.applied] == ["exp-to-tanh"]
    assert result.best.totals.energy_j == 7.0
    assert result.best.optimal


def test_the_original_is_counted_with_its_edges(toy, linked):
    """Its fastest operators by themselves are not its fastest assignment."""
    linked.table = {"relu": [(1, 1)], "exp": [(4, 4), (3, 3)]}
    search = OuterSearch((), linked, as_objective("time"), SearchOptions())
    result = search.run(toy.chain("relu", "exp", "relu"))
    assert result.origin.totals.time_s == result.best.totals.time_s == 6.0


@pytest.mark.parametrize("objective", ["time", "energy", "0.4*energy + 0.6*time", "power", "energy*time"])
def test_a_large_graph_is_priced_without_edges_and_solved_with_them(toy, linked, objective, monkeypatch):
    """Every node has choices enough that graphs are not solved one by one; what is returned counts edges."""
    monkeypatch.setattr("joulec.passes.search.outer._SMALL", 1)
    linked.table = {"relu": [(1, 1), (2, 2)], "exp": [(4, 4), (3, 3)], "tanh": [(5, 5), (2, 6)]}
    graph = toy.chain(*["relu", "exp"] * 4)
    search = OuterSearch((toy.Exchange("exp", "tanh"),), linked, as_objective(objective), SearchOptions(alpha=1.5))
    result = search.run(graph)
    for plan in (result.origin, result.best):
        options, figures, edges = opened(linked, plan.graph)
        picks = tuple(of.choices.index(choice) for of, choice in zip(options, plan.choices, strict=True))
        problem = Problem(options, edges, figures, as_objective(objective), result.origin.totals)
        assert plan.totals.time_s == pytest.approx(problem.assignment(picks).totals.time_s)
    value = as_objective(objective).value
    assert value(result.best.totals, result.origin.totals) <= value(result.origin.totals, result.origin.totals) + 1e-9


def test_what_conversions_undo_does_not_win(toy, linked, monkeypatch):
    """By itself tanh costs less than exp, with what its neighbours need it costs more."""
    monkeypatch.setattr("joulec.passes.search.outer._SMALL", 1)
    linked.table = {"relu": [(1, 1), (90, 90)], "exp": [(4, 4), (90, 90)], "tanh": [(90, 90), (3, 3)]}
    graph = toy.chain("relu", "exp", "relu")
    search = OuterSearch((toy.Exchange("exp", "tanh"),), linked, as_objective("time"), SearchOptions(alpha=3.0))
    result = search.run(graph)
    assert result.best.applied == ()
    assert result.best.totals.time_s == 6.0
