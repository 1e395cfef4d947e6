"""Which candidates are measured, in which order, and which are left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Protocol

from joulec.costdb.cost import Cost, CostKey, Failure
from joulec.passes.backend import Algorithm, BackEnd
from joulec.passes.graph import NodeSpec
from joulec.passes.search.choices import Entry
from joulec.passes.search.foresight import Foresight
from joulec.passes.search.objective import Objective
from joulec.passes.search.resemblance import Resemblance
from joulec.profiler.candidate import Candidate, Work
from joulec.profiler.entrant import Point
from joulec.profiler.rivalry import unfinished

_LEFT_AT = 2.0
"""What was left as hopeless, where a third of the time seen was too much, has its chance at a half of it."""


class _Costs(Protocol):
    """What is needed of `joulec.passes.search.costing.MeasuredCosts`."""

    backend: BackEnd
    objective: Objective | None
    energy_model: Callable[[Work, float], float] | None
    counts: Mapping[NodeSpec, int]
    foresight: Foresight
    resemblance: Resemblance

    def hurried(self) -> bool: ...
    def lower_bound(self, spec: NodeSpec) -> tuple[float, float]: ...
    def roofline(self, spec: NodeSpec, algorithm: Algorithm) -> tuple[float, float]: ...


class Contest:
    """Which candidates of a batch may still beat what is known of their spec.

    A candidate is out when it is certainly worse in time and in energy than one other algorithm, and the objective
    never rewards that (it is monotone). What does not count for the objective is not compared.
    """

    def __init__(self, costs: _Costs, known: MutableMapping[CostKey, Cost | Failure], entries: Sequence[Entry]) -> None:
        self._costs = costs
        self._known = known
        self._given_up: set[CostKey] = set()
        self._entrants: dict[CostKey, tuple[NodeSpec, Algorithm]] = {}
        self._rivals: dict[NodeSpec, list[CostKey]] = {}
        for entry in entries:
            self._entrants[entry.key] = (entry.spec, entry.algorithm)
            self._rivals.setdefault(entry.spec, []).append(entry.key)
            outcome = known.get(entry.key)
            if isinstance(outcome, Cost):
                costs.resemblance.learn(entry.spec, entry.algorithm, outcome)

    def learn(self, key: CostKey, outcome: Cost | Failure) -> None:
        """What became of a candidate."""
        self._known[key] = outcome
        if isinstance(outcome, Cost):
            self._costs.resemblance.learn(*self._entrants[key], outcome)

    def ordered(self, entries: Sequence[Entry]) -> list[Entry]:
        """The most valuable first.

        What takes the most time by its roofline, over all its occurrences, comes first, with all its algorithms one
        after another. Where the time for measuring is limited, each spec's first algorithm comes before any other's
        second, so that as few specs as may be are left without any; it then sets the pace of the others (`pacemaker`).
        """
        worth = {spec: self._costs.counts.get(spec, 1) * self._costs.lower_bound(spec)[0] for spec in self._rivals}
        dearest = sorted(self._rivals, key=lambda spec: -worth[spec])
        rank = {spec: rank for rank, spec in enumerate(dearest)}
        place = {key: place for rivals in self._rivals.values() for place, key in enumerate(rivals)}
        hurried = self._costs.hurried()
        return sorted(
            entries,
            key=lambda entry: (hurried and place[entry.key] > 0, rank[entry.spec], place[entry.key]),
        )

    def rounds(self, entries: Sequence[Entry]) -> Iterator[list[Candidate]]:
        """Candidates that are not known to the full and may win.

        Those that foresight gives up come last, where none of the others could be measured.
        """
        missing = [entry for entry in entries if self._open(entry.key) and self._may_win(entry.key)]
        if self.judges:
            foresight = self._costs.foresight
            foresight.prepare({entry.spec for entry in missing})
            self._given_up |= {
                one.key
                for one in missing
                if foresight.gives_up(one.spec, one.algorithm, self.prefers)
                or (one.key not in self._known and self._resembles_a_loser(one.key))
            }
        yield from self._candidates(entry for entry in missing if entry.key not in self._given_up)
        yield from self._candidates(
            entry for entry in missing if entry.key in self._given_up and not self._costs_of_rivals(entry.key)
        )

    def _candidates(self, entries: Iterable[Entry]) -> Iterator[list[Candidate]]:
        found = [self._costs.backend.candidate(entry.spec, entry.algorithm) for entry in entries]
        if found:
            yield found

    def _open(self, key: CostKey) -> bool:
        """Whether it was never measured, or left before its energy was, or before it was measured to the full."""
        outcome = self._known.get(key)
        return outcome is None or unfinished(outcome, self.judges)

    def may_win(self, candidate: Candidate) -> bool:
        """Whether it has a chance by now: by its roofline, what was seen before it was left, and what others cost."""
        key = candidate.key
        if not self._may_win(key):
            return False
        if self.judges and key not in self._given_up and key not in self._known and self._resembles_a_loser(key):
            self._given_up.add(key)
            return False
        return True

    def _resembles_a_loser(self, key: CostKey) -> bool:
        spec, algorithm = self._entrants[key]
        algorithms = [self._entrants[rival][1] for rival in self._rivals[spec]]
        return self._costs.resemblance.gives_up(spec, algorithm, algorithms, self.prefers)

    def _may_win(self, key: CostKey) -> bool:
        if not self.judges:
            return True
        spec, algorithm = self._entrants[key]
        least = Point(*self._costs.roofline(spec, algorithm))
        outcome = self._known.get(key)
        if isinstance(outcome, Cost):
            least = self._at_best(outcome, algorithm.work(spec), least)
        return not any(self.prefers(_point(rival), least) for rival in self._costs_of_rivals(key))

    def _at_best(self, seen: Cost, work: Work, bound: Point) -> Point:
        """What a candidate that was left may cost at least, when it was far behind or its energy was not looked at."""
        time_s = max(bound.time_s, seen.time_s / (_LEFT_AT if seen.spread == math.inf else 1.0))
        model = self._costs.energy_model
        if model is not None:
            return Point(time_s, model(work, time_s))
        if seen.energy_j is None:
            return Point(time_s, bound.energy_j if seen.energy_source is None else math.inf)
        return Point(time_s, seen.energy_j / _LEFT_AT)

    @property
    def judges(self) -> bool:
        """Whether being worse in time (and energy, where that counts) rules a candidate out."""
        objective = self._costs.objective
        return objective is not None and objective.monotone and objective.bounds.max_power_w is None

    def prefers(self, rival: Point, candidate: Point) -> bool:
        """See `joulec.profiler.rivalry.Rivalry`."""
        objective = self._costs.objective
        if objective is None:
            return False
        slower = candidate.time_s > rival.time_s
        return slower and (not objective.uses_energy or candidate.energy_j > rival.energy_j)

    def known(self, candidate: Candidate) -> Sequence[Cost]:
        """See `joulec.profiler.rivalry.Rivalry`."""
        return self._costs_of_rivals(candidate.key)

    def pacemaker(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """See `joulec.profiler.rivalry.Rivalry`: the fastest."""
        entering = {candidate.key for candidate in candidates}
        spec, _ = self._entrants[candidates[0].key]
        known = {key: self._known.get(key) for key in self._rivals[spec] if key not in entering}
        full = {key: one for key, one in known.items() if isinstance(one, Cost) and not unfinished(one, self.judges)}
        if not full:
            return None
        best = min(full, key=lambda key: full[key].time_s)
        return self._costs.backend.candidate(*self._entrants[best])

    def _costs_of_rivals(self, key: CostKey) -> list[Cost]:
        spec, _ = self._entrants[key]
        rivals = (self._known.get(other) for other in self._rivals[spec] if other != key)
        return [rival for rival in rivals if isinstance(rival, Cost)]


def _point(cost: Cost) -> Point:
    return Point(cost.time_s, math.inf if cost.energy_j is None else cost.energy_j)
