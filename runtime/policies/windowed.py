"""`paper` without its defects: it remembers what it saw, waits for the sensor, and trusts no order of powers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from joulec.runtime.policies.protocol import Configuration, Decision, State, Telemetry

_DRIFT = 0.06  # a settled level whose power moved by this share of what was remembered: the load has changed
_DOUBT = 24  # readings after which a level near the cap is judged as it is
_NOISE = 0.01  # relative, of a reading, until its own spread is known
_NEAR = 1.15  # beyond a level that exceeds the cap by more than this, larger ones are not tried
_FULL_RATE = 1.005
_UPPER = 1.2  # standard deviations of the readings above their mean that must fit, for a level to be chosen
_UPPER_STAY = 1.0  # and to stay: spikes and noise are in them
_MEMORY = 100  # readings that a mean reaches back


@dataclass
class _Seen:
    """Readings of one level."""

    count: int = 0
    mean_w: float = 0.0
    squares: float = 0.0
    rate: float = 0.0

    def add(self, watts: float) -> None:
        self.count += 1
        delta = watts - self.mean_w
        self.mean_w += delta / min(self.count, _MEMORY)
        self.squares += delta * (watts - self.mean_w)
        if self.count > _MEMORY:  # forget as the mean does
            self.squares *= 1 - 1 / self.count

    @property
    def error_w(self) -> float:
        """Standard error of the mean."""
        return self.spread_w / math.sqrt(min(self.count, _MEMORY))

    @property
    def spread_w(self) -> float:
        """Standard deviation of the readings."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 7 else _NOISE * self.mean_w


class WindowedPolicy:
    """Pseudo-binary search over levels, as `PaperPolicy`, with these repairs:

    - A level is judged by the upper quantile of readings over at least two sensor windows, and while that is within
      its own error of the cap, by more of them. A reading far above the cap is judged at once.
    - What a level drew, and how fast it was, is remembered. A level known to exceed the cap is not tried again while
      that cap holds, so nothing oscillates; on a change of the cap the search starts from what is known.
    - Power need not grow with the level: after the search, levels further up are each tried once, and of those that
      keep to the cap the fastest is kept.
    - A settled level whose power moves by more than 6% shows that the load has changed: memory is cleared.

    Args:
        levels: what to choose from, in ascending order of expected power.
        cap_margin: the paper's alpha.
        name: how the user names it.
    """

    def __init__(self, levels: Sequence[Configuration], *, cap_margin: float = 0.8, name: str = "windowed") -> None:
        if not levels:
            raise ValueError("there must be at least one level")
        if not 0 < cap_margin <= 1:
            raise ValueError(f"cap_margin must lie in (0, 1], not {cap_margin}")
        self.name = name
        self._levels = list(levels)
        self._margin = cap_margin
        self._seen: dict[int, _Seen] = {}
        self._current, self._top = 0, len(self._levels) - 1
        self._cap_w = math.nan
        self._since_s: float | None = None
        self._fresh = _Seen()
        self._settled = False
        self.decision = Decision(self._levels[0], "searching", "start at the smallest level")

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        self._limit(telemetry.largest)
        if cap_w != self._cap_w:
            first, self._cap_w = math.isnan(self._cap_w), cap_w
            if not first:
                self._settled = False
                self._choose("the cap changed")
        highest_w = telemetry.highest_w
        if telemetry.configuration != self._levels[self._current] or highest_w is None or not telemetry.readings:
            return self.decision
        if self._since_s is None:
            self._since_s = telemetry.t_s - telemetry.seconds
            self._fresh = _Seen()
        self._fresh.add(highest_w)
        if telemetry.batch_s:
            rate = telemetry.configuration.batch / telemetry.batch_s
            self._fresh.rate += (rate - self._fresh.rate) / min(self._fresh.count, 50)
        self._judge(telemetry, highest_w)
        return self.decision

    def _judge(self, telemetry: Telemetry, highest_w: float) -> None:
        assert self._since_s is not None
        fresh, cap_w = self._fresh, self._cap_w
        if highest_w > 1.05 * cap_w and fresh.mean_w > 1.02 * cap_w:  # at once
            self._seen[self._current] = fresh
            self._choose(f"{highest_w:.4g} W, above the cap of {cap_w:.4g} W")
            return
        if telemetry.t_s - self._since_s < 2 * telemetry.sensor_window_s or fresh.count < 2:
            return
        if self._settled:
            self._watch()
            return
        upper_w = fresh.mean_w + _UPPER * fresh.spread_w
        if abs(upper_w - cap_w) < 2 * fresh.error_w and fresh.count < _DOUBT:
            return
        self._seen[self._current] = fresh
        self._choose(f"{fresh.mean_w:.4g} W under a cap of {cap_w:.4g} W")

    def _watch(self) -> None:
        """A settled level: is its power still what it was?"""
        fresh = self._fresh
        if fresh.count < 8:
            return
        before = self._seen.get(self._current)
        moved = before is not None and abs(fresh.mean_w - before.mean_w) > _DRIFT * before.mean_w
        above = fresh.mean_w + _UPPER_STAY * fresh.spread_w - 2 * fresh.error_w > self._cap_w
        smallest = self.decision.state == "smallest"
        if moved:
            self._seen.clear()
        if moved or (above and not smallest):
            self._seen[self._current] = fresh
            self._settled = False
            self._choose("the load has changed" if moved else f"{fresh.mean_w:.4g} W, above the cap")

    def _fits(self, index: int) -> bool:
        seen = self._seen.get(index)
        return seen is not None and seen.mean_w + _UPPER * seen.spread_w <= self._cap_w

    def _choose(self, why: str) -> None:
        """The next level to try, or to stay at."""
        known = [index for index in range(self._top + 1) if index in self._seen]
        good = [index for index in known if self._fits(index)]
        bad = [index for index in known if index not in good]
        low = max(good, default=-1)
        above = min((index for index in bad if index > low), default=self._top + 1)
        if not known:
            return  # the present one is still being read
        if not good:
            unknown = [index for index in range(above) if index not in self._seen]
            if unknown:
                self._move(unknown[len(unknown) // 2], why)
            else:
                self._stay(min(known, key=lambda index: self._seen[index].mean_w), "smallest", why)
            return
        trial = self._trial(low, above)
        if trial is not None:
            self._move(trial, why)
            return
        best = max(good, key=lambda index: self._seen[index].rate)
        smallest = [index for index in good if self._seen[index].rate * _FULL_RATE >= self._seen[best].rate]
        chosen = min(smallest)
        in_band = self._seen[chosen].mean_w >= self._margin * self._cap_w
        state: State = "settled" if in_band else "largest" if chosen == self._top else "gap"
        self._stay(chosen, state, why)

    def _trial(self, low: int, above: int) -> int | None:
        """A level further up that is worth a try: by bisection below the band, else the next."""
        if low >= 0 and low + 1 < above:
            room = self._seen[low].mean_w < self._margin * self._cap_w
            return math.ceil((low + min(above, self._top)) / 2) if room and low + 1 < min(above, self._top) else low + 1
        beyond = [index for index in range(above, self._top + 1) if index not in self._seen]
        near = all(
            self._seen[index].mean_w < _NEAR * self._cap_w
            for index in range(above, self._top + 1)
            if index in self._seen
        )
        return beyond[0] if beyond and near else None

    def _limit(self, largest: int | None) -> None:
        allowed = [i for i, level in enumerate(self._levels) if largest is None or level.batch <= largest]
        top = max(allowed, default=0)
        if top != self._top:
            self._top, self._settled = top, False
            self._move(min(self._current, top), f"levels up to {self._levels[top]} are allowed now")

    def _move(self, index: int, why: str) -> None:
        self._current, self._since_s, self._settled = index, None, False
        self.decision = Decision(self._levels[index], "searching", why)

    def _stay(self, index: int, state: State, why: str) -> None:
        if index != self._current or not self._settled:
            self._since_s = None
        self._current, self._settled = index, True
        self.decision = Decision(self._levels[index], state, why)
