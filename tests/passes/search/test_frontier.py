"""The frontier against brute force over all graphs and assignments of a toy world, and of graphs cut into parts."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.canonical import place
from joulec.passes.graph import Add, Concat, Graph, Node, Value
from joulec.passes.rules import RULES
from joulec.passes.search.choices import CostingError
from joulec.passes.search.frontier import FrontierSearch
from joulec.passes.search.objective import weighted
from joulec.passes.search.outer import OuterSearch
from joulec.passes.search.pareto import undominated_sums
from joulec.passes.search.results import SearchOptions
from joulec.passes.search.totals import Bounds

from .chains import FormulaCosts, blocks, by_parts, same_meaning, tidy

POINT = st.tuples(st.integers(1, 9).map(float), st.integers(1, 9).map(float))
NODES = st.lists(st.lists(POINT, min_size=1, max_size=4), min_size=1, max_size=5)


def best_of(points):
    """The points that no other one beats or equals, fastest first."""
    kept = []
    for point in sorted(set(points)):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept


def every_sum(options):
    """(seconds, joules) of every assignment."""
    for chosen in itertools.product(*(of.choices for of in options)):
        yield math.fsum(c.time_s for c in chosen), math.fsum(c.energy_j for c in chosen)


@given(NODES)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_undominated_sums_are_those_of_brute_force(toy, nodes):
    options = [toy.choices(*points) for points in nodes]
    found = undominated_sums(options)
    assert found.complete
    assert list(zip(found.times.tolist(), found.energies.tolist(), strict=True)) == best_of(every_sum(options))
    for index, (time_s, energy_j) in enumerate(zip(found.times, found.energies, strict=True)):
        picks = found.picks(index)
        assert sum(of.times[pick] for of, pick in zip(options, picks, strict=True)) == time_s
        assert sum(of.energies[pick] for of, pick in zip(options, picks, strict=True)) == energy_j


def test_thinning_keeps_both_ends_and_says_so(toy):
    rng = np.random.default_rng(0)
    times = rng.uniform(1, 9, (6, 5))
    options = [toy.choices(*((float(time), 10 - float(time) + rng.uniform()) for time in row)) for row in times]
    whole, thinned = undominated_sums(options), undominated_sums(options, most=20)
    assert whole.complete
    assert not thinned.complete
    assert len(thinned.times) <= 20 < len(whole.times)
    assert thinned.times[0] == pytest.approx(whole.times[0], rel=1e-12)
    assert thinned.energies[-1] == pytest.approx(whole.energies[-1], rel=1e-12)
    assert (np.diff(thinned.energies) < 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_the_frontier_is_that_of_all_graphs_and_assignments(toy, seed):
    rng = random.Random(seed)
    table = {kind: [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(rng.randint(1, 3))] for kind in toy.KINDS}
    rules = tuple(itertools.starmap(toy.Exchange, itertools.permutations(toy.KINDS[:3], 2)))
    graph, costs = toy.chain("relu", "tanh", "exp", "sqrt"), toy.FakeCosts(table)
    plans = FrontierSearch(rules, costs, SearchOptions(alpha=100.0, budget=1000)).run(graph)
    reachable = [[*table["relu"], *table["tanh"], *table["exp"]]] * 3 + [table["sqrt"]]
    wanted = best_of(every_sum([toy.choices(*points) for points in reachable]))
    assert [(plan.totals.time_s, plan.totals.energy_j) for plan in plans] == wanted
    for plan in plans:
        assert math.fsum(choice.time_s for choice in plan.choices) == plan.totals.time_s
        assert plan.graph.key == (plan.applied[-1][1].key if plan.applied else graph.key)


def test_bounds_hold_for_every_point(toy):
    table = {"relu": [(1.0, 9.0), (2.0, 4.0), (5.0, 1.0)], "tanh": [(1.5, 6.0)]}
    search = FrontierSearch((toy.Exchange("relu", "tanh"),), toy.FakeCosts(table))
    graph = toy.chain("relu", "relu", "relu")
    for bounds in (Bounds(max_time_s=7.0), Bounds(max_energy_j=13.0), Bounds(max_power_w=1.5)):
        plans = search.run(graph, bounds)
        assert plans
        assert all(bounds.excess(plan.totals) <= 1e-12 for plan in plans)


def test_an_unknown_energy_is_named(toy):
    costs = toy.FakeCosts({"relu": [(1.0, float("nan"))]})
    with pytest.raises(CostingError, match="relu"):
        FrontierSearch((), costs).run(toy.chain("relu"))


def test_a_time_limit_gives_what_was_found(toy):
    costs = toy.FakeCosts({"relu": [(2.0, 1.0)], "tanh": [(1.0, 2.0)]})
    search = FrontierSearch((toy.Exchange("relu", "tanh"),), costs, SearchOptions(time_limit_s=0.0))
    (plan,) = search.run(toy.chain("relu", "relu"))
    assert plan.totals.time_s == 4.0
    assert search.statistics.cut


def test_weights_find_nothing_below_the_frontier_of_a_graph_in_parts():
    graph = blocks(75)
    costs = FormulaCosts()
    plans = FrontierSearch(RULES, costs, SearchOptions(budget=60), tidy).run(graph)
    assert len(graph.nodes) > 200
    assert len({plan.totals.time_s for plan in plans}) == len(plans) > 2
    for weight in (0.0, 0.5, 1.0):
        one = by_parts(graph, weighted(weight), budget=60)
        least = weighted(weight).value(one.best.totals, one.origin.totals)
        found = min(weighted(weight).value(plan.totals, one.origin.totals) for plan in plans)
        assert found <= least * (1 + 1e-9)
    same_meaning(graph, plans[0].graph)


def test_it_is_one_search(toy):
    """Every weight alone finds nothing that the one search has not found."""
    rng = random.Random(5)
    table = {kind: [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(2)] for kind in toy.KINDS}
    rules = tuple(itertools.starmap(toy.Exchange, itertools.permutations(toy.KINDS, 2)))
    graph = toy.chain(*toy.KINDS)
    plans = FrontierSearch(rules, toy.FakeCosts(table), SearchOptions(budget=200)).run(graph)
    for step in range(11):
        objective = weighted(step / 10)
        result = OuterSearch(rules, toy.FakeCosts(table), objective, SearchOptions(budget=200)).run(graph)
        least = objective.value(result.best.totals, result.origin.totals)
        assert min(objective.value(plan.totals, result.origin.totals) for plan in plans) <= least * (1 + 1e-9)


def test_concats_of_joined_graphs_say_what_is_in_place_although_other_parts_compute_it():
    chain = blocks(75)
    x, more = chain.inputs[0], Value.input("more", chain.inputs[0].type)
    early = Node.make(Add(), (x, more))
    nodes = [early, *chain.nodes, Node.make(Concat(1), (*early.outputs, *chain.outputs), name="all")]

    def placed(graph):
        return place(tidy(graph), lambda spec: not spec.op.is_view)

    graph = placed(Graph.build([x, more], nodes[-1].outputs, nodes))
    plans = FrontierSearch(RULES, FormulaCosts(), SearchOptions(budget=5), placed, exact=False).run(graph)
    assert len(graph.nodes) > 200 > len(plans[0].graph.nodes)
    assert {plan.graph.nodes[-1].op for plan in plans} == {Concat(1, (True, True))}
