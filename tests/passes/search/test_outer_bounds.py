"""The outer search under bounds and mixes: graphs ranked by relaxation, the winner chosen among exact assignments."""

from __future__ import annotations

import random

import pytest

from joulec.passes.search import outer
from joulec.passes.search.agenda import Agenda
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.pricing import make_pricer
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import Bounds, GraphFigures

MIX = "0.5*power + 0.5*energy"
CASES = [
    (MIX, Bounds()),
    ("energy", Bounds(max_time_s=30.0)),
    ("time", Bounds(max_power_w=0.8)),
    (MIX, Bounds(max_time_s=28.0)),
    ("energy*time", Bounds(max_energy_j=30.0)),
    ("energy*time + energy", Bounds()),
    ("energy", Bounds(max_time_s=1.0)),
]


@pytest.fixture
def relaxed(monkeypatch):
    """Graphs are ranked by relaxation however small they are."""

    def pricer(*given, exactly):
        return make_pricer(*given, exactly=False)

    monkeypatch.setattr(outer, "make_pricer", pricer)


@pytest.fixture
def world(toy):
    """A graph, rules that lead to many, and costs."""

    def make(seed):
        rng = random.Random(seed)
        table = {kind: [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(rng.randint(1, 4))] for kind in toy.KINDS}
        costs = toy.FakeCosts({**table, "add": [(2, 5), (4, 3)]})
        rules = (
            toy.Exchange("relu", "tanh"),
            toy.Exchange("tanh", "exp"),
            toy.Shorten("relu", "tanh", "sqrt"),
            toy.Shorten("exp", "relu", "sigmoid"),
        )
        return toy.random_graph(rng, 6), rules, costs

    return make


@pytest.mark.parametrize(("kind", "bounds"), CASES, ids=str)
def test_the_best_of_all_graphs_wins(relaxed, toy, world, kind, bounds):
    """With a wide alpha all graphs are seen, and what relaxations rank is as good as what exact assignments rank."""
    for seed in range(8):
        graph, rules, costs = world(seed)
        objective = as_objective(kind, bounds)
        wide = toy.algorithm1(graph, rules, costs, objective, alpha=100.0)
        result = OuterSearch(rules, costs, objective, SearchOptions(alpha=100.0, budget=10**6)).run(graph)
        found = result.best
        rank = float(bounds.excess(found.totals)), float(objective.value(found.totals, result.origin.totals))
        assert rank == pytest.approx(wide.best)
        assert result.met_bounds == (wide.best[0] <= 1e-12)
        assert found.gap == 0.0
        assert found.optimal


def test_graphs_that_cannot_win_are_left_out_where_many_wait(relaxed, monkeypatch, toy, world):
    monkeypatch.setattr(outer, "_CROWD", 12)
    graph, rules, costs = world(5)
    objective = as_objective("energy", Bounds(max_time_s=30.0))
    wide = toy.algorithm1(graph, rules, costs, objective, alpha=100.0)
    result = OuterSearch(rules, costs, objective, SearchOptions(alpha=100.0, budget=10**6)).run(graph)
    assert len(wide.seen) > 12
    assert float(result.best.totals.energy_j / result.origin.totals.energy_j) == pytest.approx(wide.best[1])


def test_weights_reach_every_plan_with_its_gap(toy, world):
    graph, rules, costs = world(2)
    objective = as_objective("energy", Bounds(max_time_s=30.0))
    result = OuterSearch(rules, costs, objective, SearchOptions(bound_method="weights")).run(graph)
    exact = OuterSearch(rules, costs, objective).run(graph)
    assert result.best.gap is not None
    assert exact.best.totals.energy_j <= result.best.totals.energy_j


def test_a_bound_that_the_free_optimum_keeps_costs_nothing(relaxed, toy):
    """Every step of the way saves energy; up to the last the bound on time is broken more and more."""
    costs = toy.FakeCosts(
        {"relu": [(10, 10)], "tanh": [(14, 9)], "exp": [(18, 8)], "sqrt": [(6, 2)], "erf": [(9, 9.5)]}
    )
    rules = tuple(toy.Exchange(*pair) for pair in (("relu", "tanh"), ("tanh", "exp"), ("exp", "sqrt"), ("relu", "erf")))
    graph = toy.chain("relu")
    result = OuterSearch(rules, costs, as_objective("energy", Bounds(max_time_s=9.5)), SearchOptions(alpha=1.0)).run(
        graph
    )
    assert result.best.totals.energy_j == 2.0
    assert result.met_bounds


class _Waiting:
    def __init__(self, key, rank, free):
        self.order, self.free_order = (*rank, key), (free, key)


def test_lines_take_turns_and_no_graph_comes_twice():
    agenda = Agenda()
    for key, (rank, free) in enumerate([((0.0, 1.0), 9.0), ((0.0, 2.0), 1.0), ((1.0, 0.0), 0.5)]):
        agenda.push(_Waiting(key, rank, free), ranked=True, free=True)
    taken = [agenda.pop().order[2] for _ in range(3)]
    assert taken == [0, 2, 1]
    assert agenda.empty
    assert agenda.pop() is None


def test_what_is_ranked_alone_comes_in_order():
    agenda = Agenda()
    for key in (3, 1, 2):
        agenda.push(_Waiting(key, (0.0, float(key)), 0.0), ranked=True, free=False)
    assert [agenda.pop().order[2] for _ in range(3)] == [1, 2, 3]


def test_the_inner_search_agrees_with_the_plan(relaxed, toy, world):
    graph, rules, costs = world(1)
    objective = as_objective(MIX, Bounds(max_time_s=28.0))
    result = OuterSearch(rules, costs, objective).run(graph)
    options = [costs.options(node.spec) for node in result.best.graph.nodes]
    again = InnerSearch(objective, result.origin.totals).solve(options, GraphFigures.of(result.best.graph))
    assert again.value == pytest.approx(objective.value(result.best.totals, result.origin.totals))
