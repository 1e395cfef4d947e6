"""Neighbourhood search over assignments (first paper, Section 3.3, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from joulec.passes.search.assignment import Assignment, Picks, Problem

_IMPROVEMENT = 1e-12


def neighbourhood(problem: Problem, picks: Picks, distance: int) -> Assignment:
    """Move to a better assignment within the distance, nearer ones first, until there is none.

    Where the distance reaches all nodes, the result is optimal.
    """
    current = problem.assignment(picks)
    nodes = [index for index, options in enumerate(problem.options) if len(options) > 1]
    reach = min(distance, len(nodes))
    radius = 1
    while radius <= reach:
        best = min(_around(problem, current, nodes, radius), key=lambda found: found.rank)
        if _better(best.rank, current.rank):
            current, radius = best, 1
        else:
            radius += 1
    return problem.assignment(current.picks, 0.0 if reach == len(nodes) else None)


def _around(problem: Problem, current: Assignment, nodes: list[int], radius: int) -> Iterator[Assignment]:
    """The best assignments that differ from the current one in ``radius`` nodes, one per chunk of them."""
    if problem.edges:
        yield from _around_with_edges(problem, current, nodes, radius)
        return
    moves = [
        (node, pick, float(times[pick] - times[now]), float(joules[pick] - joules[now]))
        for node in nodes
        for times, joules, now in [(problem.options[node].times, problem.options[node].energies, current.picks[node])]
        for pick in range(len(times))
        if pick != now
    ]
    owners = np.array([move[0] for move in moves])
    seconds = np.array([move[2] for move in moves])
    joules = np.array([move[3] for move in moves])
    for fixed in combinations(range(len(moves)), radius - 1):
        taken = [moves[index][0] for index in fixed]
        if len(set(taken)) < len(taken):
            continue
        first = fixed[-1] + 1 if fixed else 0
        free = np.flatnonzero(~np.isin(owners[first:], taken)) + first
        if not len(free):
            continue
        time_s = current.totals.time_s + sum(moves[index][2] for index in fixed) + seconds[free]
        energy_j = current.totals.energy_j + sum(moves[index][3] for index in fixed) + joules[free]
        picks = list(current.picks)
        for index in (*fixed, int(free[problem.least(time_s, energy_j)])):
            picks[moves[index][0]] = moves[index][1]
        yield problem.assignment(tuple(picks))


def _around_with_edges(problem: Problem, current: Assignment, nodes: list[int], radius: int) -> Iterator[Assignment]:
    """All of them: a change costs more or less with what changes at the other end of an edge."""
    for chosen in combinations(nodes, radius):
        partial = [current.picks]
        for node in chosen:
            partial = [
                (*picks[:node], pick, *picks[node + 1 :])
                for picks in partial
                for pick in range(len(problem.options[node]))
                if pick != picks[node]
            ]
        yield from map(problem.assignment, partial)


def _better(new: tuple[float, float], old: tuple[float, float]) -> bool:
    """Strictly better by more than rounding, so that the search ends."""
    (new_excess, new_value), (old_excess, old_value) = new, old
    if new_excess < old_excess - _IMPROVEMENT:
        return True
    gain = old_value - new_value
    return new_excess <= old_excess and gain > _IMPROVEMENT * min(abs(old_value), abs(new_value))
