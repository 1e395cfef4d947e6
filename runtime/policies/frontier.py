"""Model-predictive: the fastest configuration whose power is expected beneath the cap, and a second look at each."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from joulec.runtime.policies.protocol import Configuration, Decision, Predictions, Space, State, Telemetry
from joulec.runtime.policies.surrogate import Surrogate

_SURE = 3.0  # standard deviations of what is not known of a configuration, before it is chosen
_SCATTER = 1.7  # of the readings' scatter, before it is chosen
_SCATTER_STAY = 1.4  # of the same, while it stays: the difference is the hysteresis
_PROBE = 0.1  # least chance of keeping to the cap, for a try that may fail
_GAIN = 1.004  # a faster one must be faster by this factor
_PROBE_GAIN = 0.008
_BUDGET_S = 0.6  # seconds above the cap that tries may cost, and the share of time on top
_BUDGET_SHARE = 0.002
_TIME_NOISE = 0.02
_REVIEW = 4  # readings between two reviews of a choice that stands


class FrontierPolicy:
    """Second paper, Section 6, made: batch size, clock and variant are chosen together.

    Predictions of time and power are a prior; `Surrogate` corrects them by what is observed. The choice is the
    configuration of highest throughput whose power's upper quantile is beneath the cap and whose tail latency is within
    the objective. A configuration that is seen to exceed the cap is left in the same step; a faster one must promise
    0.4% and keep a wider margin than the one that stays. On a change of the cap the choice is made anew at once.

    Where a faster configuration may or may not fit, it is tried, as long as the expected time above the cap stays
    within 0.6 s and 0.2% of the time.

    Args:
        space: what to choose from.
        predictions: the prior; configurations without one are not chosen.
        latency_slo_s: the longest that a batch may take.

    Raises:
        ValueError: nothing in the space is predicted, or a prediction is not above zero.
    """

    name = "frontier"

    def __init__(self, space: Space, predictions: Predictions, *, latency_slo_s: float | None = None) -> None:
        self._all = [item for item in space if item in predictions.entries]
        if not self._all:
            raise ValueError("the policy frontier needs predictions of the configurations; windowed does without")
        entries = [predictions.entries[item] for item in self._all]
        if not all(0 < entry.time_s < math.inf and 0 < entry.power_w < math.inf for entry in entries):
            raise ValueError("predictions of time and power must be finite and above 0")
        self._index = {item: index for index, item in enumerate(self._all)}
        self._batches = np.array([item.batch for item in self._all])
        self._log_batches = np.log(self._batches)
        self._power = Surrogate(
            self._all, [entry.power_w for entry in entries], error=predictions.error, drift=0.002, own=0.02
        )
        self._time = Surrogate(
            self._all, [entry.time_s for entry in entries], error=predictions.error, drift=0.001, own=0.02
        )
        self._slo = math.inf if latency_slo_s is None else math.log(latency_slo_s)
        self._largest: int | None = None
        self._scatter_var = 0.01**2
        self._cap_w = math.nan
        self._counts = np.zeros(len(self._all), dtype=np.int64)
        self._here = 0
        self._spent_s = 0.0
        self._t_s = 0.0
        self._sensor_s = 0.1
        safest = int(np.argmin(self._power.mean()))
        self._current = safest
        self.decision = Decision(self._all[safest], "searching", "start at the least predicted power")

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        changed = cap_w != self._cap_w or telemetry.largest != self._largest
        self._cap_w, self._largest = cap_w, telemetry.largest
        self._t_s = telemetry.t_s
        self._sensor_s = telemetry.sensor_window_s or self._sensor_s
        observed = self._observe(telemetry)
        if changed:
            self._choose(jump=True)
        elif observed == self._current:
            self._here += 1
            if self._here <= _REVIEW or self._here % _REVIEW == 0 or self._exceeds():
                self._choose(jump=False)
        return self.decision

    def _observe(self, telemetry: Telemetry) -> int | None:
        """Learn; which configuration was seen."""
        ran, highest_w = telemetry.configuration, telemetry.highest_w
        index = None if ran is None else self._index.get(ran)
        if index is None or highest_w is None or highest_w <= 0 or not telemetry.readings:
            return None
        count = int(self._counts[index])
        self._counts[index] = count + 1
        score = self._power.observe(index, highest_w, self._scatter_var, telemetry.seconds)
        if count > 4:
            fresh = min(score * score, 9.0) * self._scatter_var
            self._scatter_var = min(max(0.98 * self._scatter_var + 0.02 * fresh, 1e-6), 0.05**2)
        if telemetry.batch_s and (count < 20 or count % 16 == 0):
            noise = _TIME_NOISE**2 / max(1, min(telemetry.batches, 16))
            self._time.observe(index, telemetry.batch_s, noise, telemetry.seconds)
        if highest_w > self._cap_w:
            self._spent_s += telemetry.seconds
        return index

    def _exceeds(self) -> bool:
        """Whether the current one no longer keeps to the cap."""
        mean, deviation = self._power.expected(self._current)
        return mean + deviation + _SCATTER_STAY * math.sqrt(self._scatter_var) > math.log(self._cap_w)

    def _choose(self, *, jump: bool) -> None:
        power, unknown = self._power.mean(), self._power.deviation()
        time = self._time.mean()
        cap, scatter = math.log(self._cap_w), math.sqrt(self._scatter_var)
        allowed = np.ones(len(power), dtype=bool)
        if self._largest is not None:
            allowed = self._batches <= max(self._largest, int(self._batches.min()))
        if self._slo < math.inf:
            allowed &= time + 2 * self._time.deviation() <= self._slo
            if not allowed.any():
                allowed = time <= time.min()
        rate = np.where(allowed, self._log_batches - time, -np.inf)
        fits = power + _SURE * unknown + _SCATTER * scatter <= cap
        current = self._current
        stays = not jump and bool(allowed[current])
        stays = stays and power[current] + unknown[current] + _SCATTER_STAY * scatter <= cap
        best = int(np.argmax(np.where(fits, rate, -np.inf)))
        found = bool(fits[best] and allowed[best])
        if stays and (not found or rate[best] < rate[current] + math.log(_GAIN)):
            self._probe(power, unknown, rate, cap - scatter)
        elif found:
            self._go(best, "settled" if best == current else "searching", "highest throughput beneath the cap")
        else:
            self._least(np.where(allowed, power, np.inf), cap)

    def _least(self, power: npt.NDArray[np.float64], cap: float) -> None:
        """Nothing is sure to fit: the one of least power."""
        least = int(np.argmin(power))
        above = power[least] > cap and self._counts[least] > 0
        self._go(least, "smallest" if above else "searching", "least power; nothing is sure to keep to the cap")

    def _probe(
        self,
        power: npt.NDArray[np.float64],
        unknown: npt.NDArray[np.float64],
        rate: npt.NDArray[np.float64],
        cap: float,
    ) -> None:
        """Stay, or try one that is faster and may fit."""
        current = self._current
        if self._here >= 3:
            gain = np.exp(np.minimum(rate - rate[current], 3.0)) - 1
            chance = 1 / (1 + np.exp(np.clip(-1.7 * (cap - power) / unknown, -30.0, 30.0)))  # of keeping to the cap
            batch_s = self._batches / np.exp(np.maximum(rate, -50.0))
            cost_s = (1 - chance) * (2 * batch_s + 2 * self._sensor_s)
            left_s = _BUDGET_S + _BUDGET_SHARE * self._t_s - self._spent_s
            worth = np.where((gain > _PROBE_GAIN) & (chance > _PROBE) & (cost_s <= left_s), gain * chance, 0.0)
            index = int(np.argmax(worth))
            if worth[index] > 0:
                self._go(index, "searching", "faster, and it may keep to the cap")
                return
        if self.decision.state != "settled":
            self.decision = Decision(self._all[current], "settled", "highest throughput beneath the cap")

    def _go(self, index: int, state: State, reason: str) -> None:
        if index != self._current:
            self._here = 0
        self._current = index
        configuration: Configuration = self._all[index]
        if self.decision.configuration == configuration:
            self.decision = replace(self.decision, state=state, reason=reason)
        else:
            self.decision = Decision(configuration, state, reason)
