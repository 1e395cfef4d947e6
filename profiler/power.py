"""Mean power of a candidate, from as many windows of a meter as that takes, and of the idle device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from joulec.profiler.meter import Meter, Reading
from joulec.profiler.stand import Gauge, Stand
from joulec.profiler.statistics import interval95

_PHASES = 4
"""Windows of one block: their starts lie a fourth of a call apart, as the sensor sees it."""
_LEAST = 3
"""Windows, or blocks of them, that an interval needs at least."""
_GOLDEN = 0.6180339887498949
_LONGEST_S = 1.0
_CALLS = 20
"""Calls that a window holds at least, as long as that takes no more than a second."""


@dataclass
class MeanPower:
    """Windows until the 95% confidence interval of the mean is narrow enough; one block of them at a time.

    Where the meter knows its own spread and calls are short beside what a reading averages, one window may do; while
    its spread is too wide, the next one is twice as long and takes its place. A meter that says nothing of its spread
    is asked three times at least.

    A sensor that sees only part of the time (`joulec.profiler.meter.PartTime`) meets a long call always at the same
    place where the two periods divide each other. So the windows of a block start at four equally spaced phases of the
    call relative to the sensor's grid, and each block a golden section of that spacing later (a rule that is exact for
    all but the harmonics that fall on it); blocks, not windows, make the interval.

    Attributes:
        gauge: the meter.
        precision: half width of the interval, relative.
        budget_s: after so many seconds of windows it ends, narrow or not.
        spread: half width of the interval of `mean_w`, relative; infinite while it is not known.
        settled: whether it is narrow enough, or the budget is spent.
        told: whether the meter can tell at all.
        blocks: how many blocks were measured.
    """

    gauge: Gauge
    precision: float
    budget_s: float
    spread: float = math.inf
    settled: bool = False
    told: bool = True
    blocks: int = 0
    lowest_w: float = math.inf
    _watts: list[float] = field(default_factory=list)
    _spreads: list[float] = field(default_factory=list)
    _stretch: float = 1.0
    _spent_s: float = 0.0

    @property
    def mean_w(self) -> float | None:
        """Watts while the candidate runs, the loop around its calls included; None where the meter did not tell."""
        return statistics.fmean(self._watts) if self._watts and self.told else None

    def measure(self, stand: Stand, call_s: float) -> None:
        """One block.

        Raises:
            MeterError: the meter cannot be read.
            CandidateFailed: the candidate did.
        """
        aliases = self.gauge.aliases(call_s)
        length_s = self._stretch * self.gauge.window_s
        if not aliases:  # whole calls or many: a part of one at the ends must not matter
            length_s = max(length_s, min(_CALLS * call_s, _LONGEST_S))
        found: list[float] = []
        for phase in range(_PHASES if aliases else 1):
            share = (phase + self.blocks * _GOLDEN % 1) / _PHASES
            reading = stand.window(call_s, length_s, share * call_s if aliases else None)
            if reading.power_w is None:
                self.told, self.settled = False, True
                return
            self._spent_s += reading.seconds
            found.append(reading.power_w)
        self.blocks += 1
        self.lowest_w = min(self.lowest_w, *found)
        self._take(statistics.fmean(found), None if aliases else reading)

    def _take(self, watts: float, reading: Reading | None) -> None:
        known = reading is not None and reading.spread is not None
        if known and self._spreads and max(self._spreads) > self.precision:
            self._watts, self._spreads = [], []  # the longer window takes their place
        self._watts.append(watts)
        if reading is not None and reading.spread is not None:
            self._spreads.append(reading.spread)
            self.spread = math.hypot(*self._spreads) / len(self._spreads)
            narrow = reading.spread <= self.precision
            self._stretch *= 1 if narrow else 2
        else:
            enough = len(self._watts) >= _LEAST
            self.spread = interval95(self._watts) / statistics.fmean(self._watts) if enough else math.inf
            narrow = self.spread <= self.precision
        self.settled = self.settled or narrow or self._spent_s >= self.budget_s


def idle_power_w(meter: Meter, sleep: Callable[[float], None] = time.sleep, seconds: float = 0.5) -> float | None:
    """Watts while nothing of ours runs, over a window of the meter at least; None where the meter cannot tell.

    Raises:
        MeterError: the meter cannot be read.
    """
    meter.begin()
    sleep(max(seconds, meter.window_s))
    return meter.end().power_w
