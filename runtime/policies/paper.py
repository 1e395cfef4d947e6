"""BatchSizer, the second paper's policy."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Mapping, Sequence

from joulec.runtime.policies.protocol import Configuration, Decision, State, Telemetry

_USEFUL = 1.01  # throughput must rise by this factor for a larger size to be of use


def useful_sizes(profile: Mapping[int, float]) -> list[int]:
    """The batch sizes up to the largest useful one, from an offline profile (Section 4.2, third observation).

    Args:
        profile: rows per second by batch size.
    """
    sizes = sorted(profile)
    top = max(profile.values())
    largest = next(size for size in sizes if profile[size] * _USEFUL >= top)
    return [size for size in sizes if size <= largest]


class PaperPolicy:
    """BatchSizer (second paper, Section 4.2 and Algorithm 1), made precise.

    It starts at the smallest size. Once ``last_batches`` batches ran at the current size, the highest reading of the
    last so many decides after every batch: within [``cap_margin`` x cap, cap] the size stays; below, it moves to the
    middle of itself and the upper bound, rounded up; above, to the middle of the lower bound and itself, rounded down.
    Readings of another size are cleared. Each move narrows the bounds, so the search ends after O(log n) moves. Where
    the listing is silent or loops:

    - The bounds are indices of sizes known not to fit (``below`` draws too little, ``above`` too much) or lie just
      outside of the set; so every size can be reached and none is tried twice in one search.
    - Where no size lies in the band (``above`` = ``below`` + 1) the listing alternates between the two for ever; here
      the lower one is kept, as it keeps to the cap, until its own reading has moved by more than ``drift`` x cap.
    - Once the search has ended, a reading that leaves the band means that the load changed: both bounds are restored
      and the search goes on from the present size. A change of the cap, or of the largest size allowed, does so too.
    - A window with batches smaller than the chosen size (few requests at hand) says only that the chosen size draws at
      least as much: it counts where it exceeds the cap.

    Args:
        levels: what to choose from, ascending in batch size: configurations, or bare batch sizes.
        cap_margin: the paper's alpha.
        last_batches: batches at the current size whose readings decide (the paper: 10).
        drift: share of the cap by which a reading must fall before a gap is searched again.
        online: find the largest useful size while running: where the search has ended, the next smaller size is
            measured once, and kept where it is as fast (Section 4.2). Otherwise leave sizes that are of no use out
            (`useful_sizes`).

    Raises:
        ValueError: no level, a batch size below 1, or a margin outside of (0, 1].
    """

    name = "paper"

    def __init__(
        self,
        levels: Sequence[Configuration | int],
        *,
        cap_margin: float = 0.8,
        last_batches: int = 10,
        drift: float = 0.05,
        online: bool = False,
    ) -> None:
        full = {Configuration(level) if isinstance(level, int) else level for level in levels}
        self._levels = sorted(full, key=lambda level: level.batch)
        self._sizes = [level.batch for level in self._levels]
        if not self._sizes or self._sizes[0] < 1:
            raise ValueError(f"batch sizes must be whole numbers from 1 up, not {self._sizes}")
        if not 0 < cap_margin <= 1:
            raise ValueError(f"cap_margin must lie in (0, 1], not {cap_margin}")
        if last_batches < 1:
            raise ValueError(f"last_batches must be at least 1, not {last_batches}")
        self._margin = cap_margin
        self._last = last_batches
        self._drift = drift
        self._online = online
        self._rates: dict[int, float] = {}
        self._compared: int | None = None  # the larger size, while the next smaller is measured
        self._current = 0
        self._top = len(self._sizes) - 1
        self._allowed: int | None = None
        self._cap_w: float | None = None
        self._gap_w = 0.0
        self._readings: deque[tuple[float, int]] = deque()  # watts, and over how many batches
        self._count = 0  # batches in them
        self._decision = Decision(self._levels[0], "searching", "start at the smallest batch size")
        self._restore()

    @property
    def decision(self) -> Decision:
        return self._decision

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        if cap_w != self._cap_w:
            if self._cap_w is not None:
                self._reopen(f"the cap changed from {self._cap_w:g} W to {cap_w:g} W")
            self._cap_w = cap_w
        self._limit(telemetry.largest)
        ran, highest_w = telemetry.configuration, telemetry.highest_w
        if ran is None or highest_w is None:
            return self._decision
        level = self._levels[self._current]
        partly = ran.batch < level.batch and highest_w > cap_w
        if ran == level or partly:
            self._read(highest_w, telemetry.batches)
            if telemetry.batch_s and ran == level:
                self._rates[self._current] = ran.batch / telemetry.batch_s
            if self._count >= self._last:
                if self._compared is None:
                    self._decide(max(watts for watts, _ in self._readings), cap_w)
                else:
                    self._compare()
        return self._decision

    def _read(self, watts: float, batches: int) -> None:
        """Keep the readings of the last batches."""
        self._readings.append((watts, batches))
        self._count += batches
        while self._count - self._readings[0][1] >= self._last:
            self._count -= self._readings.popleft()[1]

    def _clear(self) -> None:
        self._readings.clear()
        self._count = 0

    def _restore(self) -> None:
        """Full bounds."""
        self._below, self._above = -1, self._top + 1

    def _reopen(self, reason: str) -> None:
        self._restore()
        self._compared = None
        self._decision = Decision(self._levels[self._current], "searching", reason)

    def _limit(self, largest: int | None) -> None:
        """Keep to the largest size that is allowed."""
        top = len(self._sizes) - 1
        if largest == self._allowed:
            return
        self._allowed = largest
        if largest is not None:
            top = max(bisect.bisect_right(self._sizes, largest) - 1, 0)
        if top == self._top:
            return
        self._top = top
        self._reopen(f"sizes up to {self._sizes[top]} are allowed now")
        if self._current > top:
            self._move(top, f"sizes above {self._sizes[top]} are not allowed now")

    def _decide(self, peak_w: float, cap_w: float) -> None:
        floor_w = self._margin * cap_w
        drawn = f"batch size {self._sizes[self._current]} draws {peak_w:.4g} W"
        if floor_w <= peak_w <= cap_w:
            self._stay("settled", f"{drawn}, within {floor_w:.4g} to {cap_w:.4g} W")
            return
        if self._decision.state == "settled":
            self._restore()
        if peak_w > cap_w:
            self._lower(f"{drawn}, above the cap of {cap_w:.4g} W")
        else:
            self._raise(peak_w, cap_w, f"{drawn}, below {floor_w:.4g} W")

    def _lower(self, drawn: str) -> None:
        current = self._current
        if self._below >= current:  # it was known to draw too little: the load has changed
            self._restore()
        self._above = current
        if current == 0:
            self._stay("smallest", f"{drawn}; it is the smallest, so the cap cannot be met by batch size")
            return
        self._move(math.floor((max(self._below, 0) + current) / 2), drawn)

    def _raise(self, peak_w: float, cap_w: float, drawn: str) -> None:
        current = self._current
        fallen = self._decision.state == "gap" and peak_w < self._gap_w - self._drift * cap_w
        if self._above <= current or fallen:  # it, or the next, was known to draw too much: the load has changed
            self._restore()
        self._below = current
        if current == self._top:
            self._stay("largest", f"{drawn}; it is the largest, so throughput cannot rise by batch size")
            return
        if self._above == current + 1:
            if self._decision.state != "gap":
                self._gap_w = peak_w
            self._stay("gap", f"{drawn}; the next size, {self._sizes[self._above]}, exceeds the cap")
            return
        self._move(math.ceil((current + min(self._above, self._top)) / 2), drawn)

    def _compare(self) -> None:
        """The next smaller size has been measured: keep the faster of the two."""
        larger, self._compared = self._compared, None
        assert larger is not None
        if self._rates.get(larger, 0.0) > _USEFUL * self._rates.get(self._current, 0.0):
            self._current = larger
            self._clear()
            self._stay("settled", f"batch size {self._sizes[larger]} is faster than the next smaller one")
        else:
            self._top, self._above = self._current, self._current + 1
            self._stay("largest", f"batch size {self._sizes[larger]} is no faster, so it is of no use")

    def _move(self, index: int, reason: str) -> None:
        self._current = index
        self._clear()
        self._decision = Decision(self._levels[index], "searching", reason)

    def _stay(self, state: State, reason: str) -> None:
        smaller = self._current - 1
        if self._online and state != "smallest" and smaller >= 0 and self._current in self._rates:
            useful = self._rates[self._current] > _USEFUL * self._rates.get(smaller, 0.0)
            if smaller not in self._rates or not useful:
                self._compared = self._current
                self._move(smaller, f"is it as fast as batch size {self._sizes[self._current]}?")
                return
        self._decision = Decision(self._levels[self._current], state, reason)
