"""Candidates for the same work measured in turns, so that drift hits all alike, and left once they cannot win.

A device gets warm, a neighbour comes, a clock is lowered: whatever was measured later looks worse. So the candidates of
one operator take turns, a slice of samples each, in rounds that go forth and back (a steady drift then cancels in each
pair of them), until the time of every one is known. Where a sensor reads energy, windows follow in the same manner.

A candidate is stopped once the objective certainly prefers another: where all of the interval that its time and energy
may lie in is worse than another's (racing, as of Maron and Moore 1994, "Hoeffding Races"). Before its energy is
measured, the device's idle power times its time is a bound. How it is judged is the caller's to say (`Judge`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from joulec.profiler.entrant import Entrant, Point, Stopped
from joulec.profiler.stand import CandidateFailed

if TYPE_CHECKING:
    from joulec.profiler.protocol import Adaptive

Judge = Callable[[Point, Point], bool]
"""Whether a rival that costs at most the first is certainly preferred to a candidate that costs at least the second."""

_CONTESTED = 0.02
"""What is allowed for drift beside the intervals when the energies of two candidates are told apart."""


class Race:
    """One race.

    Args:
        entrants: the candidates, likeliest first.
        options: how thorough to be.
        judge: None stops nobody.
        on_round: called between rounds.
    """

    def __init__(
        self,
        entrants: Sequence[Entrant],
        options: Adaptive,
        judge: Judge | None = None,
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        self.entrants = tuple(entrants)
        self._options, self._judge, self._on_round = options, judge, on_round

    def run(self) -> None:
        """Measure them all.

        Raises:
            MeterError: the meter cannot be read.
        """
        for entrant in self.entrants:
            self._do(entrant, entrant.start)
            self._give_up([entrant])
        self._time()
        if any(entrant.power is not None for entrant in self._running()):
            self._gauge()

    def _running(self) -> list[Entrant]:
        return [entrant for entrant in self.entrants if entrant.running]

    @staticmethod
    def _do(entrant: Entrant, step: Callable[[], None]) -> None:
        if entrant.running:
            try:
                step()
            except CandidateFailed as failed:
                entrant.failure = failed.failure

    def _time(self) -> None:
        """Rounds of samples, until every time is known or as well as may be."""
        rounds = 0
        while running := self._running():
            alone = len(running) == 1
            if (alone or rounds % 2 == 0) and (all(one.timed for one in running) or self._spent(running)):
                for entrant in running:
                    entrant.timed = True
                return
            if rounds:
                self._on_round()
            for entrant in _forth_and_back(running, rounds):
                self._do(entrant, partial(entrant.take, alone, 2 ** min(rounds // 8, 2)))
                if rounds == 0:
                    self._give_up([entrant])
            rounds += 1
            self._give_up(self._running())

    @staticmethod
    def _spent(running: Sequence[Entrant]) -> bool:
        """Whether they have taken together what each would have been given alone: rounds are the same for all."""
        spent_s, allowed_s = (sum(one.spent_s for one in running), sum(one.allowed_s for one in running))
        return spent_s >= allowed_s and all(entrant.sampled for entrant in running)

    def _gauge(self) -> None:
        """Rounds of windows: one each, and another where energies are too near each other to be told apart."""
        rounds = 0
        asking = sorted(self._running(), key=lambda entrant: entrant.time_s)
        while asking:
            if rounds:
                self._on_round()
            for entrant in _forth_and_back(asking, rounds):
                self._give_up([entrant])
                self._do(entrant, entrant.gauge_power)
            rounds += 1
            self._give_up(self._running())
            running = self._running()
            asking = [one for one in asking if one.running and self._wants_more(one, running)]

    @staticmethod
    def _wants_more(entrant: Entrant, running: Sequence[Entrant]) -> bool:
        power = entrant.power
        if power is None or not power.told:
            return False
        if not power.settled:
            return True
        return power.blocks % 2 == 1 and any(_near(entrant, other) for other in running if other is not entrant)

    def _give_up(self, entrants: Iterable[Entrant]) -> None:
        """Stop those that cannot win; none that is complete already, whose cost is worth keeping as it is."""
        judge = self._judge
        if judge is None:
            return
        for entrant in entrants:
            if not entrant.running or entrant.complete:
                continue
            rivals = [other for other in self._running() if other is not entrant]
            known = [Point(cost.time_s, math.inf if cost.energy_j is None else cost.energy_j) for cost in entrant.known]
            guesses, bounds = [*known, *(rival.guess() for rival in rivals)], [rival.most() for rival in rivals]
            for certain, points, least in ((False, guesses, entrant.at_best()), (True, bounds, entrant.least())):
                beaten = [point for point in points if judge(point, least)]
                if beaten:
                    by_time = any(judge(point, Point(least.time_s, 0.0)) for point in beaten)
                    entrant.stopped = Stopped(certain, by_energy=not by_time)
                    break


def _forth_and_back(entrants: Sequence[Entrant], round_number: int) -> list[Entrant]:
    return list(entrants) if round_number % 2 == 0 else list(reversed(entrants))


def _near(first: Entrant, second: Entrant) -> bool:
    """Whether it is not clear which of two takes more energy."""
    if first.power is None or second.power is None:
        return False
    a, b = first.guess().energy_j, second.guess().energy_j
    if not (math.isfinite(a) and math.isfinite(b)):
        return False
    return abs(a - b) <= (first.power.spread + second.power.spread + _CONTESTED) * max(a, b)
