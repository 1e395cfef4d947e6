"""The exact inner search against brute force: every kind of objective, with and without each bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.search.inner import InnerSearch
from joulec.passes.search.labels import search
from joulec.passes.search.objective import as_objective
from joulec.passes.search.pricing import make_pricer
from joulec.passes.search.surface import Box, Excess, Mix, surface_of
from joulec.passes.search.totals import Bounds, GraphFigures

FIGURES = GraphFigures(flops=64.0, bytes=32.0, peak_memory_bytes=16.0, kernels=4)
COST = st.one_of(st.integers(1, 9).map(float), st.floats(0.5, 9.0))
NODE = st.lists(st.tuples(COST, COST), min_size=1, max_size=4)
PROBLEMS = st.lists(st.tuples(NODE, st.integers(1, 2)), min_size=1, max_size=2)
"""Nodes, some of them several times."""
FACTOR = st.one_of(st.none(), st.floats(0.6, 1.4))
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)

KINDS = [
    "time",
    "energy",
    "0.3*energy + 0.7*time",
    "energy - 0.2*time",
    "-time",
    "power",
    "energy**0.4 * time**0.6",
    "time_s**2 * energy_j",
    "0.5*power + 0.5*energy",
    "power + 0.2*time + 3",
    "0.6*power_w - 0.1*time_s",
    "2*energy + power - kernels*0.1 + flops",
    "energy*time + energy",
]


def repeated(toy, problem):
    """Options of all nodes; nodes that are repeated share theirs, as nodes of one spec do."""
    options = [(toy.choices(*points), count) for points, count in problem]
    return [of for of, count in options for _ in range(count)]


def bounded(origin, time, energy, power):
    """Bounds around the original's figures."""
    return Bounds(
        *(
            None if factor is None else factor * float(figure)
            for factor, figure in ((time, origin.time_s), (energy, origin.energy_j), (power, origin.power_w))
        )
    )


@pytest.mark.parametrize("kind", KINDS)
@given(problem=PROBLEMS, time=FACTOR, energy=FACTOR, power=FACTOR)
@SETTINGS
def test_it_finds_what_brute_force_finds(toy, kind, problem, time, energy, power):
    options = repeated(toy, problem)
    origin = toy.fastest_totals(options, FIGURES)
    bounds = bounded(origin, time, energy, power)
    objective = as_objective(kind, bounds)
    found = InnerSearch(objective, origin).solve(options, FIGURES)
    excess, value = toy.brute_force(options, FIGURES, objective, origin)
    unproven = (kind == "energy*time + energy" and bounds.max_power_w is not None) or (
        kind == "-time" and not objective.uses_energy and bounds.max_time_s is not None
    )
    assert found.optimal or unproven
    assert found.excess == pytest.approx(excess, abs=1e-9) or unproven
    if found.excess == 0.0 or found.excess <= excess + 1e-12:
        assert found.value == pytest.approx(value, rel=1e-9, abs=1e-9) or (unproven and found.value > value)


@pytest.mark.parametrize("kind", ["energy", "0.5*power + 0.5*energy", "energy*time"])
@given(problem=PROBLEMS, factor=st.floats(0.7, 1.2), which=st.integers(0, 2))
@SETTINGS
def test_weights_keep_bounds_with_a_true_gap(toy, kind, problem, factor, which):
    options = repeated(toy, problem)
    origin = toy.fastest_totals(options, FIGURES)
    bounds = bounded(origin, *(factor if index == which else None for index in range(3)))
    objective = as_objective(kind, bounds)
    found = InnerSearch(objective, origin, bound_method="weights").solve(options, FIGURES)
    excess, value = toy.brute_force(options, FIGURES, objective, origin)
    assert found.excess >= excess - 1e-9
    if found.gap is None:
        return
    if found.excess == 0.0:
        assert found.value * (1 - found.gap) <= value * (1 + 1e-9)
        assert found.value >= value * (1 - 1e-9)
    else:
        assert found.excess * (1 - found.gap) <= excess + 1e-9


def hard(toy, seed, size=14):
    """Nodes whose sums lie close together."""
    rng = np.random.default_rng(seed)
    return [toy.choices(*(rng.uniform(1, 2, (5, 2)) * rng.uniform(0.5, 5)).tolist()) for _ in range(size)]


@pytest.mark.parametrize("kind", ["energy", "0.5*power + 0.5*energy", "energy*time"])
def test_with_few_labels_the_gap_is_a_true_bound(toy, kind):
    gaps = []
    for seed in range(12):
        options = hard(toy, seed)
        origin = toy.fastest_totals(options, FIGURES)
        bounds = Bounds(max_time_s=1.05 * origin.time_s)
        surface = surface_of(as_objective(kind), origin, FIGURES)
        best = search(options, surface, bounds)
        few = search(options, surface, bounds, max_labels=1)
        assert best.lower >= best.value * (1 - 1e-11)
        assert few.lower <= best.value * (1 + 1e-9)
        assert few.value >= best.value * (1 - 1e-9)
        gaps.append(few.value - few.lower)
    assert max(gaps) > 0


def test_a_tolerance_is_kept(toy):
    for seed in range(5):
        options = hard(toy, seed)
        origin = toy.fastest_totals(options, FIGURES)
        surface = surface_of(as_objective("energy"), origin, FIGURES)
        bounds = Bounds(max_time_s=1.05 * origin.time_s)
        near, best = search(options, surface, bounds, tolerance=0.01), search(options, surface, bounds)
        assert near.lower <= best.value <= near.value <= best.value * 1.0102
        assert near.lower >= near.value * 0.9899


def test_only_what_lies_below_the_limit_is_found(toy):
    options = hard(toy, 3)
    origin = toy.fastest_totals(options, FIGURES)
    objective = as_objective("0.5*power + 0.5*energy", Bounds(max_time_s=1.2 * origin.time_s))
    inner = InnerSearch(objective, origin)
    best = inner.solve(options, FIGURES)
    assert inner.improve(options, FIGURES, best.value) is None
    again = inner.improve(options, FIGURES, best.value * 1.001)
    assert again is not None
    assert again.value == pytest.approx(best.value)


def test_it_scales_to_networks(toy):
    rng = np.random.default_rng(1)
    options = [toy.choices(*rng.uniform(1, 9, (6, 2)).tolist()) for _ in range(120)]
    origin = toy.fastest_totals(options, FIGURES)
    for kind in ("energy", "0.5*power + 0.5*energy"):
        objective = as_objective(kind, Bounds(max_time_s=1.3 * origin.time_s, max_power_w=0.8 * origin.power_w))
        found = InnerSearch(objective, origin).solve(options, FIGURES)
        assert found.optimal
        assert found.excess == 0.0


@pytest.mark.parametrize("kind", ["energy", "0.5*power + 0.5*energy", "energy*time", "energy*time + energy"])
@given(problem=PROBLEMS, time=FACTOR, energy=FACTOR)
@SETTINGS
def test_prices_are_lower_bounds(toy, kind, problem, time, energy):
    options = repeated(toy, problem)
    origin = toy.fastest_totals(options, FIGURES)
    objective = as_objective(kind, bounded(origin, time, energy, None))
    pricer = make_pricer(objective, origin, "exact", exactly=False)
    excess, value = toy.brute_force(options, FIGURES, objective, origin)
    rank = pricer.whole(options).rank
    assert pricer.bounding
    assert rank[0] <= excess + 1e-9
    if excess == 0.0:
        assert rank[1] <= value * (1 + 1e-9)


@given(
    st.floats(-2, 2), st.floats(0, 2), st.floats(0, 2), st.floats(0.1, 5), st.floats(0.01, 5), st.floats(0.1, 9),
    st.floats(0.1, 9),
)  # fmt: skip
@SETTINGS
def test_a_mix_is_least_on_a_segment_where_its_closed_form_says(a, b, p, start, length, e0, e1):
    mix = Mix(a, b, p, 0.5)
    t0, t1 = np.array([start]), np.array([start + length])
    steps = np.linspace(0, 1, 401)
    values = mix.value(t0 + steps * (t1 - t0), e0 + steps * (e1 - e0))
    least = mix.least(t0, np.array([e0]), t1, np.array([e1]))[0]
    assert least <= values.min() + 1e-9
    assert least >= values.min() - 0.01 * (abs(values.min()) + np.ptp(values))


@pytest.mark.parametrize("surface", [Mix(-0.3, 0.5, 2.0), Mix(1.0, 0.0, 1.0), Excess(Bounds(2.0, 3.0, 1.1))])
def test_gradients_lie_between_the_directions(surface):
    box = Box(0.5, 4.0, 0.2, 6.0)
    angles = [math.atan2(energy, time) for time, energy in surface.directions(box)]
    for time_s, energy_j in itertools.product(np.linspace(0.6, 3.9, 9), np.linspace(0.3, 5.9, 9)):
        here = float(surface.value(time_s, energy_j))
        by_time = float(surface.value(time_s + 1e-7, energy_j)) - here
        by_energy = float(surface.value(time_s, energy_j + 1e-7)) - here
        if abs(by_time) + abs(by_energy) > 1e-9:
            assert min(angles) - 1e-4 <= math.atan2(by_energy, by_time) <= max(angles) + 1e-4
