"""`paper` without its defects: it remembers what it saw, waits for the sensor, and trusts no order of powers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from joulec.runtime.policies.protocol import Configuration, Decision, State, Telemetry
from joulec.runtime.policies.visit import SHORT, Noise, Visit
from joulec.runtime.policies.warming import Warming

_DRIFT = 0.06  # a settled level whose power moved by this share of what was remembered: the load has changed,
_FOLLOW_S = 10.0  # unless it rose over much longer than this
_DOUBT = 24  # readings after which a level near the cap is judged as it is
_ENOUGH = 12  # readings that show all phases of a batch that is not short beside the sensor's window
_NEAR = 0.08  # beyond a level that exceeds the cap by more than this share, larger ones are not tried
_FULL_RATE = 1.005
_UPPER = 1.3  # standard deviations of a reading that must fit above the highest power, for a level to be chosen
_UPPER_STAY = 0.5  # and to stay, in the first minute;
_TOLERANCE = 0.005  # later one is left when it surely exceeds the cap by this share
_OFTEN_FIRST, _OFTEN = 0.03, 0.2  # share of readings above the cap that a level that was chosen may have: while the
# device warms up, when leaving it costs nothing but a larger batch, and later, when it has shown that it fits
_MUCH = 4.0  # readings above the cap beyond that share, for it to be left
_WARMING = 0.01  # share by which power may grow while the device warms up,
_WARMING_S = 60.0  # over about so long


@dataclass(frozen=True)
class _Seen:
    """What is remembered of a level: logarithms of its highest and its mean power; rows per second."""

    highest: float
    mean: float
    rate: float


class WindowedPolicy:
    """Pseudo-binary search over levels, as `PaperPolicy`, with these repairs:

    - A level is judged by its highest power over at least two sensor windows (`Visit`), and while that is within its
      own error of the cap, by more of them. A reading far above the cap is judged at once.
    - A level that is chosen leaves room for noise, and in the first minute for a device that warms up; one that was
      chosen stays until it surely exceeds the cap by 0.5%. So a steady device is not left again.
    - A settled level whose power still grows as the device warms up (`Warming`) is left at once where it would come to
      exceed the cap, not minutes later when it does.
    - What a level drew, and how fast it was, is remembered. A level known to exceed the cap is not tried again while
      that cap holds, so nothing oscillates; on a change of the cap the search starts from what is known.
    - Power need not grow with the level: after the search, levels further up are each tried once, and of those that
      keep to the cap the fastest is kept.
    - A settled level whose power moves by more than 6% within seconds shows a change of load: memory is cleared.

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
        self._t_s = 0.0
        self._since_s: float | None = None
        self._last_s = 0.0
        self._sensor_s = 0.0
        self._noise = Noise()
        self._visit, self._warming = Visit(), Warming()
        self._above = 0.0  # readings above the cap beyond their share
        self._surely = -math.inf  # logarithm of the highest power of the settled level at the least, followed slowly
        self._settled = False
        self.decision = Decision(self._levels[0], "searching", "start at the smallest level")

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        self._limit(telemetry.largest)
        if cap_w != self._cap_w:
            first, self._cap_w = math.isnan(self._cap_w), cap_w
            if not first:
                self._settled = False
                self._choose("the cap changed")
        self._t_s = telemetry.t_s
        ran, power_w, highest_w = telemetry.configuration, telemetry.power_w, telemetry.highest_w
        if ran is not None and ran != self._levels[self._current]:
            self._since_s = None  # what was read before, and may have been false, is not of the visit to come
        if ran != self._levels[self._current] or power_w is None or highest_w is None or not telemetry.readings:
            return self.decision
        if power_w <= 0:  # no device draws nothing: it is no reading
            return self.decision
        if self._since_s is None:
            self._since_s = telemetry.t_s - telemetry.seconds
            self._visit, self._warming, self._above = Visit(), Warming(), 0.0
        self._sensor_s = telemetry.sensor_window_s
        visit = self._visit
        visit.add(math.log(power_w), math.log(highest_w), telemetry.readings)
        self._warming.add(telemetry.t_s, math.log(power_w), telemetry.readings)
        share = _OFTEN_FIRST if telemetry.t_s < _WARMING_S else _OFTEN
        self._above = max(self._above + (highest_w > cap_w) - share * telemetry.readings, 0.0)  # Page's test
        visit.add_batches(telemetry)
        if visit.single and visit.single % 16 == 0:
            self._noise.learn(visit, short=self._phases < SHORT / 2)
        self._last_s = telemetry.seconds
        self._judge(math.log(highest_w))
        return self.decision

    @property
    def _phases(self) -> float:
        """How long a batch is, as a share of the sensor's window."""
        return self._visit.batch_s / self._sensor_s if self._sensor_s else 0.0

    def _remember(self, ahead: float = 0.0) -> None:
        visit = self._visit
        highest, _ = visit.power(self._noise.deviation, self._phases)
        rate = self._levels[self._current].batch / visit.batch_s if visit.batch_s else 0.0
        self._seen[self._current] = _Seen(highest + ahead, visit.mean, rate)

    def _judge(self, last: float) -> None:
        assert self._since_s is not None
        visit, cap = self._visit, math.log(self._cap_w)
        highest, variance = visit.power(self._noise.deviation, self._phases)
        if last > cap + 0.05 and highest > cap + 0.02:
            self._remember()
            self._choose(f"{math.exp(last):.4g} W, above the cap of {self._cap_w:.4g} W")
            return
        if self._t_s - self._since_s < 2 * self._sensor_s or visit.count < 2:
            return
        error = 2 * math.sqrt(variance)
        if self._settled:
            self._watch(*self._outgrown(highest - error))
            return
        room = cap - self._margin_above - highest
        if abs(room) < error and visit.count < _DOUBT:
            return
        if visit.count < _ENOUGH and self._phases >= SHORT and 0 < room < 2 * error:
            return
        self._remember()
        self._choose(f"{math.exp(highest):.4g} W under a cap of {self._cap_w:.4g} W")

    def _outgrown(self, surely: float) -> tuple[bool, float]:
        """Whether a settled level exceeds the cap, or will once the device is warm; by how much it will still grow.

        Args:
            surely: logarithm of what its highest power is at the least.
        """
        ahead, cap = self._warming.ahead, math.log(self._cap_w)
        if ahead and surely + ahead > cap + _TOLERANCE:
            return True, ahead
        early = self._t_s < _WARMING_S and surely + _UPPER_STAY * self._noise.deviation > cap
        self._surely += min(self._last_s / _FOLLOW_S, 1.0) * (surely - self._surely)
        return self._above > _MUCH and (early or self._surely > cap + _TOLERANCE), 0.0

    def _watch(self, above: bool, ahead: float) -> None:
        """A settled level: is its power still what it was?"""
        visit = self._visit
        if visit.count < 8:
            return
        before = self._seen.get(self._current)
        moved = before is not None and abs(visit.mean - before.mean) > _DRIFT
        if before is not None and not moved and visit.mean > before.mean:  # a device that warms up does so slowly
            follow = min(self._last_s / _FOLLOW_S, 1.0)
            self._seen[self._current] = replace(before, mean=before.mean + follow * (visit.mean - before.mean))
        smallest = self.decision.state == "smallest"
        if moved:
            self._seen.clear()
        if moved or (above and not smallest):
            self._remember(ahead)
            self._settled = False
            self._choose("the load has changed" if moved else f"{math.exp(visit.mean):.4g} W, above the cap")

    @property
    def _margin_above(self) -> float:
        """What must fit between a level's highest power and the cap, as a share."""
        return _UPPER * self._noise.deviation + _WARMING * math.exp(-self._t_s / _WARMING_S)

    def _fits(self, index: int) -> bool:
        seen = self._seen.get(index)
        return seen is not None and seen.highest + self._margin_above <= math.log(self._cap_w)

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
                self._stay(min(known, key=lambda index: self._seen[index].highest), "smallest", why)
            return
        trial = self._trial(low, above)
        if trial is not None:
            self._move(trial, why)
            return
        best = max(good, key=lambda index: self._seen[index].rate)
        smallest = [index for index in good if self._seen[index].rate * _FULL_RATE >= self._seen[best].rate]
        chosen = min(smallest)
        in_band = self._seen[chosen].highest >= math.log(self._margin * self._cap_w)
        state: State = "settled" if in_band else "largest" if chosen == self._top else "gap"
        self._stay(chosen, state, why)

    def _trial(self, low: int, above: int) -> int | None:
        """A level further up that is worth a try: by bisection below the band, else the next."""
        if low >= 0 and low + 1 < above:
            room = self._seen[low].highest < math.log(self._margin * self._cap_w)
            return math.ceil((low + min(above, self._top)) / 2) if room and low + 1 < min(above, self._top) else low + 1
        beyond = [index for index in range(above, self._top + 1) if index not in self._seen]
        near = all(
            self._seen[index].highest < math.log(self._cap_w) + _NEAR
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
            self._since_s, self._surely = None, math.log(self._cap_w)
        self._current, self._settled = index, True
        self.decision = Decision(self._levels[index], state, why)
