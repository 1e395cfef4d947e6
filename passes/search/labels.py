"""Exact choice of algorithms under objectives and bounds that tie the nodes together.

Without edge costs only the sums of time and energy count, so that the inner search is a multiple-choice knapsack with a
curved objective. Nodes are settled one after the other; a label is what the settled ones sum up to. A label is dropped

- when the relaxation says so: the settled sums plus the lower hull of what is left hold nothing better than the best
  assignment known (every vertex of that hull completes the label, which is where good assignments come from);
- when another label is better in every direction that the objective and the bounds can reward.

Nodes whose second choice costs most go first, so that labels multiply only at the end. Where there are too many, those
with the weakest bound are given up, and the gap says what this may have lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from joulec.passes.search.choices import Options
from joulec.passes.search.relaxation import ROUNDING, Segments, keeps, relax, relax_curve
from joulec.passes.search.surface import Box, Direction, Excess, Surface
from joulec.passes.search.totals import Bounds

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Outcome of `search`.

    Attributes:
        picks: the best assignment that keeps the bounds; None where none was found that lies below the limit.
        value: the objective there; the limit where there is none.
        lower: no assignment that keeps the bounds lies below this, proven; infinite where none keeps them.
    """

    picks: tuple[int, ...] | None
    value: float
    lower: float


def search(
    options: Sequence[Options],
    surface: Surface,
    bounds: Bounds,
    *,
    below: float = math.inf,
    excess: float = 0.0,
    tolerance: float = ROUNDING,
    max_labels: int = 4096,
) -> Found:
    """The least value of the objective over all assignments that keep the bounds.

    Args:
        options: per node, the algorithms with their costs.
        surface: the objective.
        bounds: what a result must keep.
        below: only values below this are of interest.
        excess: by how much the bounds may be broken.
        tolerance: how far, relatively, the result may lie above the optimum.
        max_labels: how many labels are kept.
    """
    room = _Room(bounds, excess)
    return _Search(options, surface, room, below, tolerance, max_labels).run()


class _Room:
    """The sums that are allowed: those that keep the bounds, or break them by no more than an excess.

    Attributes:
        bounds: linear bounds that all of them keep.
    """

    def __init__(self, bounds: Bounds, excess: float) -> None:
        def wider(bound: float | None) -> float | None:
            return None if bound is None else bound * (1 + excess)

        self.bounds = Bounds(wider(bounds.max_time_s), wider(bounds.max_energy_j), wider(bounds.max_power_w))
        self._excess = excess
        self._measure = Excess(bounds) if excess else None

    def holds(self, times: Floats, energies: Floats) -> npt.NDArray[np.bool_]:
        """Which sums are allowed."""
        kept = keeps(self.bounds, times, energies)
        if self._measure is not None:
            kept &= self._measure.value(times, energies) <= self._excess * (1 + ROUNDING) + ROUNDING
        return kept

    def directions(self, box: Box) -> tuple[Direction, ...]:
        """Directions in which a sum may leave the room."""
        limits: list[Direction] = []
        if self.bounds.max_time_s is not None:
            limits.append((1.0, 0.0))
        if self.bounds.max_energy_j is not None:
            limits.append((0.0, 1.0))
        if self.bounds.max_power_w is not None:
            limits.append((-self.bounds.max_power_w, 1.0))
        return (*limits, *(self._measure.directions(box) if self._measure else ()))


@dataclass(frozen=True)
class _Labels:
    """Sums of the settled nodes, and how each came about."""

    times: Floats
    energies: Floats
    parents: Integers
    picks: Integers


@dataclass(frozen=True)
class _Curve:
    """The lower hull of all sums of some nodes.

    Attributes:
        times: seconds at the vertices.
        energies: joules at the vertices.
        steps: by edge, the node that moves on along its own hull.
    """

    times: Floats
    energies: Floats
    steps: Integers


@dataclass
class _Search:
    options: Sequence[Options]
    surface: Surface
    room: _Room
    below: float
    tolerance: float
    max_labels: int
    best: tuple[int, ...] | None = None
    given_up: float = math.inf
    history: list[_Labels] = field(default_factory=list)

    def run(self) -> Found:
        self.upper = self.below
        self._prepare()
        whole = self._curve(np.ones(len(self.options), dtype=bool))
        root = relax_curve(self.surface, self.room.bounds, whole.times, whole.energies)
        lower = float(root.least.min())
        if lower >= self._cut:
            return Found(None, self.below, lower)
        self._order(whole, root)
        self._window = float(whole.times[0]), float(whole.times[-1])
        left = np.array([len(of) > 1 for of in self.options])
        start = self._first[~left].sum(axis=0)
        none = np.zeros(1, dtype=np.int64)
        labels = _Labels(start[:1], start[1:], none, none)
        for node in self.order:
            left[node] = False
            labels = self._settle(labels, node, self._curve(left))
            if not len(labels.times):
                break
            self.history.append(labels)
        if self.best is None:
            return Found(None, self.below, self.given_up if self.below == math.inf else min(self._cut, self.given_up))
        return Found(self.best, self.upper, min(self._cut, self.given_up))

    @property
    def _cut(self) -> float:
        """What is not below this is not worth finding."""
        return self.upper if math.isinf(self.upper) else self.upper - self.tolerance * abs(self.upper)

    def _prepare(self) -> None:
        """All nodes' hull edges by slope."""
        hulls = [of.hull for of in self.options]
        edges = sorted(
            (slope, node, t1 - t0, e1 - e0)
            for node, hull in enumerate(hulls)
            for slope, (t0, e0), (t1, e1) in zip(hull.slopes, hull.corners, hull.corners[1:], strict=False)
        )
        self._nodes = np.array([edge[1] for edge in edges], dtype=np.int64)
        self._slopes = np.array([edge[0] for edge in edges])
        self._seconds = np.array([edge[2] for edge in edges])
        self._joules = np.array([edge[3] for edge in edges])
        self._first = np.array([hull.corners[0] for hull in hulls])
        self._most_energy = np.array([float(of.energies.max()) for of in self.options])
        self._scale = max(float(self._first[:, 0].sum()), 1e-300), max(float(self._first[:, 1].sum()), 1e-300)

    def _curve(self, nodes: npt.NDArray[np.bool_]) -> _Curve:
        """The lower hull of the sums of the marked nodes."""
        edges = nodes[self._nodes] if len(self._nodes) else np.zeros(0, dtype=bool)
        start_s, start_j = self._first[nodes].sum(axis=0)
        times = start_s + np.concatenate(([0.0], np.cumsum(self._seconds[edges])))
        energies = start_j + np.concatenate(([0.0], np.cumsum(self._joules[edges])))
        return _Curve(times, energies, self._nodes[edges])

    def _order(self, whole: _Curve, root: Segments) -> None:
        """Nodes with a choice; those whose second one costs most, at the best slope of the relaxation, go first."""
        slope = float(self._slopes[int(root.least.argmin())]) if len(self._slopes) else 0.0
        ranked = []
        for node, of in enumerate(self.options):
            if len(of) > 1:
                cheapest = np.partition(of.energies - slope * of.times, 1)[:2]
                ranked.append((float(cheapest[0] - cheapest[1]), id(of), node))
        self.order = [node for _, _, node in sorted(ranked)]

    def _settle(self, labels: _Labels, node: int, rest: _Curve) -> _Labels:
        """Labels with one more node settled."""
        of = self.options[node]
        times = (labels.times[:, None] + of.times[None, :]).ravel()
        energies = (labels.energies[:, None] + of.energies[None, :]).ravel()
        parents = np.repeat(np.arange(len(labels.times)), len(of))
        picks = np.tile(np.arange(len(of)), len(labels.times))
        earliest, latest = self._window
        slack = ROUNDING * latest
        near = (times + rest.times[-1] >= earliest - slack) & (times + rest.times[0] <= latest + slack)
        fresh = _Labels(times[near], energies[near], parents[near], picks[near])
        if not len(fresh.times):
            return fresh
        least = self._bound(fresh, rest, node)
        kept = np.flatnonzero(least < self._cut)
        if len(kept) > 1:
            kept = kept[self._undominated(fresh.times[kept], fresh.energies[kept], rest)]
        if len(kept) > self.max_labels:
            kept = kept[np.argsort(least[kept], kind="stable")]
            self.given_up = min(self.given_up, float(least[kept[self.max_labels]]))
            kept = kept[: self.max_labels]
        return _Labels(fresh.times[kept], fresh.energies[kept], fresh.parents[kept], fresh.picks[kept])

    def _bound(self, labels: _Labels, rest: _Curve, node: int) -> Floats:
        """The relaxation of each label; on the way, the best completion and the range of times that still matter."""
        earliest, latest = self._window
        edges = max(len(rest.times) - 1, 1)
        slack = ROUNDING * latest
        first = np.clip(np.searchsorted(rest.times, earliest - labels.times - slack) - 1, 0, edges - 1)
        last = np.clip(np.searchsorted(rest.times, latest - labels.times + slack), 1, edges)
        width = max(int((last - first).max()), 1)
        starts = np.minimum(first[:, None] + np.arange(width), edges - 1)
        ends = np.minimum(starts + 1, len(rest.times) - 1)
        t0, e0 = labels.times[:, None] + rest.times[starts], labels.energies[:, None] + rest.energies[starts]
        t1, e1 = labels.times[:, None] + rest.times[ends], labels.energies[:, None] + rest.energies[ends]
        for times, energies, vertices in ((t0, e0, starts), (t1, e1, ends)):
            values = np.where(self.room.holds(times, energies), self.surface.value(times, energies), math.inf)
            label, column = divmod(int(values.argmin()), width)
            if values[label, column] < self.upper:
                self.upper = float(values[label, column])
                self.best = self._complete(labels, label, node, rest, int(vertices[label, column]))
        segments = relax(self.surface, self.room.bounds, t0, e0, t1, e1)
        matter = segments.least < self._cut
        if matter.any():
            self._window = float(segments.t0[matter].min()), float(segments.t1[matter].max())
            self._low_j = float(np.minimum(e0, e1)[matter].min())
        least: Floats = segments.least.min(axis=1)
        return least

    def _complete(self, labels: _Labels, label: int, node: int, rest: _Curve, vertex: int) -> tuple[int, ...]:
        """The assignment of a label completed by a vertex of the rest's hull."""
        corners = np.bincount(rest.steps[:vertex], minlength=len(self.options)).tolist()
        picks = [of.hull.indices[corner] for of, corner in zip(self.options, corners, strict=True)]
        picks[node] = int(labels.picks[label])
        index = int(labels.parents[label])
        for settled, before in zip(reversed(self.order[: len(self.history)]), reversed(self.history), strict=True):
            picks[settled] = int(before.picks[index])
            index = int(before.parents[index])
        return tuple(picks)

    def _undominated(self, times: Floats, energies: Floats, rest: _Curve) -> Integers:
        """Labels that no other beats in both extreme directions of what the objective and the bounds can reward."""
        directions = [self._turned(one) for one in self._rewarded(times, energies, rest)]
        angles = [math.atan2(energy, time) for time, energy in directions if time or energy]
        if not angles or max(angles) - min(angles) > math.pi - 1e-6:
            return np.arange(len(times))
        scaled_t, scaled_e = times / self._scale[0], energies / self._scale[1]
        one, other = (math.cos(a) * scaled_t + math.sin(a) * scaled_e for a in (min(angles), max(angles)))
        order = np.lexsort((other, one))
        ranked = other[order]
        before = np.concatenate(([math.inf], np.minimum.accumulate(ranked)[:-1]))
        kept: Integers = order[ranked < before - ROUNDING * float(np.abs(ranked).max())]
        return kept

    def _rewarded(self, times: Floats, energies: Floats, rest: _Curve) -> tuple[Direction, ...]:
        """The directions of objective and bounds over all sums that matter, widened by how far two labels lie apart."""
        earliest, latest = self._window
        unsettled = self.order[len(self.history) + 1 :]
        highest = float(energies.max()) + float(self._most_energy[unsettled].sum())
        spread_s, spread_j = float(np.ptp(times)), float(np.ptp(energies))
        limit = self.surface.energy_below(self.upper, earliest, latest) if math.isfinite(self.upper) else math.inf
        box = Box(
            max(earliest - spread_s, float(times.min() + rest.times[0])),
            latest + spread_s,
            max(self._low_j - spread_j, 0.0),
            min(limit + spread_j, highest),
        )
        return (*self.surface.directions(box), *self.room.directions(box))

    def _turned(self, direction: Direction) -> Direction:
        """A direction in the scaled plane."""
        return direction[0] * self._scale[0], direction[1] * self._scale[1]
