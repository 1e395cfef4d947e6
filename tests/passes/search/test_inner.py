"""Inner search: what is proven, what is promised, and that it ends."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.search.hull import Hull, lower_hull, sums
from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.objective import as_objective
from joulec.passes.search.totals import Bounds, GraphFigures

FIGURES = GraphFigures(flops=64.0, bytes=32.0, peak_memory_bytes=16.0, kernels=4)
_POINTS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4)
PROBLEMS = st.lists(_POINTS, min_size=1, max_size=4)
SMALL = settings(max_examples=40, deadline=None, derandomize=True)
FEW = settings(max_examples=5, deadline=None, derandomize=True)


def crooked(totals, origin):
    """Neither monotone nor smooth."""
    return abs(totals.time_s - 1.3 * totals.energy_j) + (totals.time_s % 7)


def walled(totals, origin):
    """Infinite where a condition is broken, as users write it."""
    return math.inf if totals.time_s > 0.9 * origin.time_s + 20 else totals.energy_j


def against_origin(totals, origin):
    return totals.flops / origin.flops + totals.kernels / origin.kernels + totals.energy_j


LINEAR = ["time", "energy", "0.3*energy + 0.7*time", "energy_j - 0.5*time_s", "2*time_s - 3", "-time"]
PRODUCTS = ["energy*time", "energy**0.3 * time**0.7", "time_s**2 * energy_j", "(time*energy)**0.5"]
PROVEN = [*LINEAR, *PRODUCTS, "power", "power_w", "time**3", "kernels * time"]
OTHERS = ["0.5*power + 0.5*energy", "time + 1/energy", "(time - 1)**2 + energy", crooked, walled, against_origin]
BOUNDS = [
    None,
    Bounds(max_time_s=30.0),
    Bounds(max_energy_j=25.0),
    Bounds(max_power_w=0.8),
    Bounds(max_time_s=40.0, max_power_w=0.9),
]


def name(objective):
    return getattr(objective, "__name__", str(objective))


@pytest.fixture(scope="session")
def solve(toy):
    """An inner search of points per node, with what brute force finds."""

    def run(points, objective, bounds=None, mode="exact", distance=2):
        options = [toy.choices(*one) for one in points]
        objective = as_objective(objective, bounds)
        origin = toy.fastest_totals(options, FIGURES)
        found = InnerSearch(objective, origin, mode, distance).solve(options, FIGURES)
        chosen = [of.choices[pick] for of, pick in zip(options, found.picks, strict=True)]
        assert found.totals.time_s == pytest.approx(sum(choice.time_s for choice in chosen))
        assert found.totals.energy_j == pytest.approx(sum(choice.energy_j for choice in chosen))
        assert found.totals.flops == FIGURES.flops
        return found, toy.brute_force(options, FIGURES, objective, origin)

    return run


def assert_best(found, best):
    assert found.excess == pytest.approx(best[0], abs=1e-9)
    if math.isinf(best[1]):
        assert found.value == best[1]
    else:
        assert found.value == pytest.approx(best[1], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("objective", LINEAR)
@given(points=PROBLEMS)
@SMALL
def test_distance_one_is_optimal_for_linear_objectives(solve, objective, points):
    """First paper, Section 3.3: with a linear cost the inner search with d = 1 suffices."""
    found, best = solve(points, objective, mode="neighbourhood", distance=1)
    assert_best(found, best)


@pytest.mark.parametrize("objective", PROVEN, ids=name)
@given(points=PROBLEMS)
@SMALL
def test_what_is_flagged_optimal_is(solve, objective, points):
    found, best = solve(points, objective)
    assert found.optimal
    assert_best(found, best)


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("objective", [*PROVEN, *OTHERS], ids=name)
@given(points=PROBLEMS)
@FEW
def test_full_distance_is_exhaustive(solve, objective, bounds, points):
    """When d is no smaller than the number of nodes, the search is exhaustive (first paper, Section 3.3)."""
    for mode in ("neighbourhood", "exact"):
        found, best = solve(points, objective, bounds, mode, distance=4)
        assert found.optimal
        assert_best(found, best)


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("objective", [*PROVEN, *OTHERS], ids=name)
@given(points=PROBLEMS)
@FEW
def test_no_mode_beats_brute_force_or_claims_too_much(solve, objective, bounds, points):
    for mode, distance in (("exact", 1), ("exact", 2), ("neighbourhood", 1), ("neighbourhood", 2), ("none", 2)):
        found, best = solve(points, objective, bounds, mode, distance)
        assert found.rank >= (best[0] - 1e-9, -math.inf)
        if found.excess <= best[0] + 1e-12:
            assert found.value >= best[1] or found.value == pytest.approx(best[1], rel=1e-9, abs=1e-9)
        if found.optimal:
            assert_best(found, best)
        assert found.optimal is False or mode != "none"


@given(points=PROBLEMS)
@SMALL
def test_exact_never_does_worse_than_algorithm_2(solve, points):
    for objective in ("0.5*power + 0.5*energy", "energy*time", "power"):
        exact, _ = solve(points, objective)
        greedy, _ = solve(points, objective, mode="neighbourhood", distance=1)
        assert exact.value <= greedy.value * (1 + 1e-9)


@given(points=PROBLEMS)
@SMALL
def test_none_keeps_the_fastest_of_every_node(solve, points):
    found, _ = solve(points, "energy", mode="none")
    assert found.picks == tuple(min(range(len(one)), key=lambda pick: one[pick][0]) for one in points)
    assert not found.optimal


def test_ties_go_to_the_first(solve):
    tied = [[(2, 3), (2, 3), (2, 3)]] * 3
    for objective in ("time", "energy", "power", "time*energy", "0.5*power + time", crooked):
        for mode in ("exact", "neighbourhood", "none"):
            found, _ = solve(tied, objective, mode=mode)
            assert found.picks == (0, 0, 0), (name(objective), mode)


@given(points=PROBLEMS)
@FEW
def test_two_runs_agree(solve, points):
    for objective in ("power", "0.5*power + time", crooked):
        assert solve(points, objective)[0] == solve(points, objective)[0]


def test_unknown_energies_leave_time_alone(toy):
    unknown = [toy.choices((3, math.nan), (1, math.nan), (2, math.nan))] * 3
    origin = toy.fastest_totals(unknown, FIGURES)
    for objective in ("time", "2*time_s", "time**2", "kernels*time"):
        found = InnerSearch(as_objective(objective), origin).solve(unknown, FIGURES)
        assert found.picks == (1, 1, 1)
        assert found.optimal


@pytest.mark.parametrize("objective", ["power", "energy", "energy*time", "power + time"])
def test_a_search_among_unknown_energies_ends(toy, objective):
    unknown = [toy.choices((3, math.nan), (1, math.nan))] * 2
    origin = toy.fastest_totals(unknown, FIGURES)
    assert math.isnan(InnerSearch(as_objective(objective), origin).solve(unknown, FIGURES).value)


def test_no_nodes_and_nodes_that_cost_nothing(toy):
    free = [toy.choices((0.0, 0.0))]
    for options in ([], free):
        origin = toy.fastest_totals(options, FIGURES)
        for objective in ("time", "energy", "power", "time*energy", "power + time"):
            for mode in ("exact", "neighbourhood", "none"):
                found = InnerSearch(as_objective(objective), origin, mode).solve(options, FIGURES)
                assert found.picks == (0,) * len(options)
                assert math.isfinite(found.value)


def test_a_search_leaves_infinite_values(solve):
    def forbidden(totals, origin):
        return math.inf if totals.time_s < 5 else totals.time_s

    found, best = solve([[(1, 1), (7, 9)], [(1, 1), (2, 1)]], forbidden, mode="neighbourhood", distance=1)
    assert (found.value, best[1]) == (8.0, 8.0)


def test_a_bound_that_can_be_met_is_met_though_it_costs_more(solve):
    points = [[(1, 10), (4, 2)], [(1, 10), (4, 2)]]
    found, best = solve(points, "time", Bounds(max_energy_j=12.0))
    assert found.excess == 0.0 == best[0]
    assert sorted(found.picks) == [0, 1]


def test_of_unmeetable_bounds_the_nearest_point_is_taken(solve):
    found, best = solve([[(4, 10), (8, 5)]], "time", Bounds(max_energy_j=4.0))
    assert found.picks == (1,)
    assert found.excess == pytest.approx(0.25)
    assert found.rank == pytest.approx(best)


def test_a_kept_bound_is_not_traded_for_rounding(toy):
    """One assignment meets the bound exactly, the other breaks it by less than any tolerance but is cheaper."""
    options = [toy.choices((1.0, 2.0), (1.0 + 2e-13, 1.0))]
    origin = toy.fastest_totals(options, FIGURES)
    objective = as_objective("energy", Bounds(max_time_s=1.0))
    for mode in ("exact", "neighbourhood"):
        found = InnerSearch(objective, origin, mode, 1).solve(options, FIGURES)
        assert found.excess == 0.0


def test_many_nodes_are_quick(toy):
    rng = np.random.default_rng(0)
    options = [toy.choices(*rng.integers(1, 100, (6, 2)).tolist()) for _ in range(60)]
    origin = toy.fastest_totals(options, FIGURES)
    for objective in ("energy", "power", "energy*time"):
        assert InnerSearch(as_objective(objective), origin).solve(options, FIGURES).optimal
    found = InnerSearch(as_objective("0.5*power + 0.5*energy"), origin).solve(options, FIGURES)
    assert found.optimal


class TestHull:
    """Lower hulls of points and of sums."""

    @given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=10), st.integers(-5, 5))
    @SMALL
    def test_every_weighted_minimum_lies_on_it(self, points, slope):
        times, energies = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        hull = Hull.of(times, energies)
        assert list(hull.slopes) == sorted(set(hull.slopes))
        time_s, energy_j = hull.at(slope)
        assert energy_j - slope * time_s == min(e - slope * t for t, e in points)
        for index, corner in zip(hull.indices, hull.corners, strict=True):
            assert (times[index], energies[index]) == corner

    @given(PROBLEMS, st.integers(-5, 5))
    @SMALL
    def test_sums_hold_every_weighted_minimum_of_all_sums(self, points, slope):
        hulls = [Hull.of(*(np.array(c, dtype=float) for c in zip(*one, strict=True))) for one in points]
        times, energies = sums((hull, 2) for hull in hulls)
        least = 2 * sum(min(e - slope * t for t, e in one) for one in points)
        assert min(energies - slope * times) == pytest.approx(least)

    def test_the_short_hull_ends_at_the_least_energy(self):
        times, energies = np.array([1.0, 2, 3, 3, 4]), np.array([5.0, 3, 2, 2, 9])
        assert lower_hull(times, energies, whole=False) == [0, 1, 2]
        assert lower_hull(times, energies, whole=True) == [0, 1, 2, 4]


def test_options_are_chosen_by_weighted_sums(toy):
    options = toy.choices((3, 1), (1, 3), (2, 2))
    assert [options.cheapest(*weights) for weights in ((1, 0), (0, 1), (1, 1), (0, 0), (-1, 0))] == [1, 0, 0, 0, 0]
    assert options.cheapest_point(1.0, 0.0) == (1.0, 3.0)
    assert len(options) == 3


def test_ranks_put_bounds_first(toy):
    options = [toy.choices((1, 1))]
    found = InnerSearch(as_objective("time"), toy.Totals(1.0, 1.0)).solve(options, FIGURES)
    assert replace(found, excess=0.1, value=0.0).rank > found.rank
