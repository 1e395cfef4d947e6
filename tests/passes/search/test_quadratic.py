"""The partitioned Boolean quadratic problem against brute force, on the shapes that graphs have."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from joulec.passes.search.quadratic import solve


def chain(size, rng):
    return [(i, i + 1) for i in range(size - 1)]


def tree(size, rng):
    return [(rng.randrange(i), i) for i in range(1, size)]


def series_parallel(size, rng):
    """Grown from one edge by putting a node on an edge or beside it."""
    edges = [(0, 1)]
    for node in range(2, size):
        index = rng.randrange(len(edges))
        first, second = edges[index] if rng.random() < 0.5 else edges.pop(index)
        edges += [(first, node), (node, second)]
    return edges


def dense(size, rng):
    return [(i, j) if rng.random() < 0.5 else (j, i) for i in range(size) for j in range(i) if rng.random() < 0.8]


SHAPES = (chain, tree, series_parallel, dense)


def problem(shape, seed, forbidden):
    rng = random.Random(seed)
    size = rng.randint(2, 6)
    widths = [rng.randint(1, 3) for _ in range(size)]

    def cost():
        return math.inf if rng.random() < forbidden else rng.choice([rng.randint(-5, 9), rng.uniform(-5, 9)])

    nodes = [np.array([float(cost()) for _ in range(width)]) for width in widths]
    edges = {
        (i, j): np.array([[float(cost()) for _ in range(widths[j])] for _ in range(widths[i])])
        for i, j in shape(size, rng)
    }
    return nodes, edges


def total(nodes, edges, picks):
    return sum(costs[pick] for costs, pick in zip(nodes, picks, strict=True)) + sum(
        matrix[picks[i], picks[j]] for (i, j), matrix in edges.items()
    )


def least(nodes, edges):
    return min(total(nodes, edges, picks) for picks in itertools.product(*(range(len(costs)) for costs in nodes)))


@pytest.mark.parametrize("forbidden", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_finds_what_brute_force_finds(shape, forbidden):
    for seed in range(60):
        nodes, edges = problem(shape, seed, forbidden)
        solved = solve(nodes, edges)
        assert solved.optimal
        assert solved.gap == 0.0
        assert solved.value == pytest.approx(least(nodes, edges))
        assert total(nodes, edges, solved.picks) == pytest.approx(solved.value)


@pytest.mark.parametrize("shape", [chain, tree, series_parallel])
def test_reductions_alone_solve_series_parallel_graphs(shape):
    rng = random.Random(3)
    widths = [rng.randint(2, 5) for _ in range(80)]
    values = np.random.default_rng(3)
    nodes = [values.random(width) for width in widths]
    edges = {(i, j): values.random((widths[i], widths[j])) for i, j in shape(80, rng)}
    assert solve(nodes, edges, max_branches=0).optimal


def test_the_gap_is_a_true_bound_where_branches_run_out():
    proven = set()
    for seed in range(40):
        values = np.random.default_rng(seed)
        nodes = [values.random(3) for _ in range(7)]
        edges = {(i, j): values.random((3, 3)) for i in range(7) for j in range(i)}
        solved = solve(nodes, edges, max_branches=seed**2)
        assert solved.value * (1 - solved.gap) <= least(nodes, edges) + 1e-9 <= solved.value + 2e-9
        assert solved.optimal == (solved.gap == 0.0)
        proven.add(solved.optimal)
    assert proven == {True, False}


def test_parallel_edges_and_loops_add_up():
    matrix = np.array([[3.0, 0.0], [1.0, 5.0]])
    solved = solve([np.zeros(2), np.zeros(2)], {(0, 1): matrix, (1, 0): matrix, (0, 0): np.diag([0.0, 9.0])})
    assert (solved.picks, solved.value) == ((0, 1), 1.0)


def test_where_nothing_is_allowed_the_value_is_infinite():
    nodes, edges = [np.zeros(2), np.zeros(2)], {(0, 1): np.full((2, 2), math.inf)}
    assert solve(nodes, edges).value == math.inf
    assert solve([np.array([math.inf])], {}).value == math.inf


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ([np.zeros(0)], {}, "at least one"),
        ([np.array([math.nan])], {}, "node 0 is not a number"),
        ([np.array([-math.inf])], {}, "minus infinity"),
        ([np.zeros(2)], {(0, 4): np.zeros((2, 2))}, "not there"),
        ([np.zeros(2), np.zeros(3)], {(0, 1): np.zeros((3, 2))}, "one cost per pair"),
        ([np.zeros(1), np.zeros(1)], {(0, 1): np.array([[math.nan]])}, "edge .* is not a number"),
    ],
)
def test_what_is_no_problem_is_refused(nodes, edges, message):
    with pytest.raises(ValueError, match=message):
        solve(nodes, edges)
