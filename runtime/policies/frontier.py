"""Model-predictive: the fastest configuration whose power is expected beneath the cap, and a second look at each."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from joulec.runtime.policies.protocol import Decision, Predictions, Space, State, Telemetry
from joulec.runtime.policies.surrogate import Floats, Surrogate
from joulec.runtime.policies.visit import SHORT, SOLID, Noise, Visit

_POWER, _TIME = 0, 1  # rows of what is believed
_SURE = 3.0  # standard deviations of what is not known of a configuration, before it is chosen
_SCATTER = 1.6  # of a reading, before it is chosen
_SCATTER_STAY = 1.3  # of the same, while it stays: the difference is the hysteresis
_SCATTER_DROP = 3.3  # of the same, where the cap has fallen
_UNLIKELY = -2.1  # standard deviations beneath the cap: of keeping to it the chance is 3%, the least for a try
_GAIN = math.log(1.004)  # a faster one must be faster by this factor
_TRY_GAIN = math.log(1.008)
_BUDGET_S = 0.6  # seconds above the cap that tries may cost, and the share of time on top
_BUDGET_SHARE = 0.002
_LITTLE_S = 0.02
_TRIAL = 12  # readings after which a configuration that was tried counts as known
_LEFT = 0.5  # standard deviations of what is not known, before the current one is left
_FIRST_WAIT_S = 2.0
_CALM_WINDOWS = 4  # of the sensor, after a fall of the cap and a batch, in which nothing draws more than it must
_ABOVE = 2.0  # readings above the cap, under which a configuration is left,
_ABOVE_SHARE = 0.01  # and the share of its readings on top
_TIME_VAR = 0.02**2
_REVIEWS = frozenset((2, 3, 4, 6, 8, 12, 16, 24))  # readings after which a choice that stands is reviewed
_LATER = 32  # and then after each so many
_FIRST = 4  # readings of a try that count against the budget, and twice as many to know what is usual
_SURPRISE = 6.0  # a reading so many of its standard deviations away, twice, says that the load has changed

_FASTEST = "highest throughput beneath the cap"


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
        self._beliefs = Surrogate(
            self._all,
            [[entry.power_w for entry in entries], [entry.time_s for entry in entries]],
            error=predictions.error,
            drifts=[0.002, 0.001],
        )
        self._time_unknown = self._beliefs.deviation(_TIME)
        self._slo = math.inf if latency_slo_s is None else math.log(latency_slo_s)
        self._largest: int | None = None
        self._refused: Floats | None = None  # minus infinity for batch sizes above the largest allowed
        self._noise = Noise()
        self._visit = Visit()
        self._seen: int | None = None  # the configuration whose visit that is
        self._known: set[int] = set()
        self._here = 0
        self._before: int | None = None  # what ran before the one that is tried
        self._due = False  # the choice, to be reviewed
        self._plan: tuple[Floats, Floats, Floats] | None = None  # what a try is chosen by
        self._surprises = 0
        self._last: float | None = None  # reading, in logarithms
        self._highest = -math.inf
        self._calm_s = 0.0  # until then nothing is tried, as the cap has fallen
        self._until_s = np.zeros(len(self._all))  # when a configuration that exceeded the cap may be tried again
        self._barred_s = 0.0  # until then any may not
        self._wait_s: dict[int, float] = {}
        self._above: dict[int, float] = {}  # readings above this cap, less the share that is allowed
        self._cap_w = math.nan
        self._cap = math.nan
        self._spent_s = 0.0
        self._t_s = 0.0
        self._sensor_s = 0.1
        self._current = int(self._beliefs.known()[0][_POWER].argmin())
        self._decisions: dict[tuple[int, State, str], Decision] = {}
        self.decision = self._say(self._current, "searching", "start at the least predicted power")

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        fallen = cap_w < self._cap_w
        changed = cap_w != self._cap_w or telemetry.largest != self._largest
        if changed:
            self._cap_w, self._cap, self._largest = cap_w, math.log(cap_w), telemetry.largest
            self._refuse()
            self._until_s[:] = 0.0
            self._barred_s = 0.0
            self._wait_s.clear()
            self._above.clear()
            self._before = None
        self._t_s = telemetry.t_s
        self._sensor_s = telemetry.sensor_window_s or self._sensor_s
        if fallen:
            self._calm_s = telemetry.t_s + self._visit.batch_s + _CALM_WINDOWS * self._sensor_s
        self._beliefs.pass_time(telemetry.seconds)
        observed = self._observe(telemetry)
        calm = telemetry.t_s < self._calm_s
        if changed:
            self._choose(_SCATTER_DROP if calm else _SCATTER, jump=True)
        elif observed == self._current:
            self._here += 1
            self._due = self._due or self._here in _REVIEWS or self._here % _LATER == 0
            plan, self._plan = self._plan, None
            if self._exceeds(*self._beliefs.here(_POWER, *self._read_power())):
                self._step_down(_SCATTER_DROP if calm else _SCATTER)
            elif plan is not None:
                self._try(*plan)
            elif self._due and not calm:
                self._choose(_SCATTER, jump=False)
            elif self._here > 1:
                self._beliefs.tidy()
        return self.decision

    def _step_down(self, scatter: float) -> None:
        """The current one exceeds the cap. From a try that fails at once the way back is known."""
        before, self._before = self._before, None
        if before is None or self._here > 1:
            self._choose(scatter, jump=False)
            return
        self._back_off()
        self._go(before, "searching", "the one tried exceeds the cap")
        self._due = True

    def _refuse(self) -> None:
        """Batch sizes above the largest allowed; the smallest is always allowed."""
        self._refused = None
        if self._largest is not None:
            allowed = self._batches <= max(self._largest, int(self._batches.min()))
            self._refused = np.where(allowed, 0.0, -np.inf)

    def _observe(self, telemetry: Telemetry) -> int | None:
        """Learn; which configuration was seen."""
        ran, power_w, highest_w = telemetry.configuration, telemetry.power_w, telemetry.highest_w
        index = None if ran is None else self._index.get(ran)
        if index is None or power_w is None or highest_w is None or power_w <= 0 or not telemetry.readings:
            return None
        if index != self._seen:
            self._leave()
            self._arrive(index)
        mean, highest = math.log(power_w), math.log(highest_w)
        if telemetry.readings == 1 and telemetry.seconds < 0.6 * self._sensor_s:  # a reading is less than a window
            last, self._last = self._last, mean
            mean = highest = mean if last is None else (last + mean) / 2
        self._highest = highest
        self._compare(mean)
        visit = self._visit
        fresh, timed = visit.count == 0, visit.batches > 0
        visit.add(mean, highest, telemetry.readings)
        visit.add_batches(telemetry)
        if fresh:
            self._beliefs.check_scale(_POWER, *self._read_power())
        if visit.batches and not timed:
            self._beliefs.check_scale(_TIME, *self._read_time())
        if visit.single and visit.single % 16 == 0:
            self._noise.learn(visit, short=visit.batch_s < 0.5 * SHORT * self._sensor_s)
        above = self._above.get(index, 0.0) + (highest > self._cap) - _ABOVE_SHARE * telemetry.readings
        self._above[index] = max(above, 0.0)  # Page's test
        if highest > self._cap and visit.count <= 2 * _FIRST:
            self._spent_s += telemetry.seconds
        return index

    def _arrive(self, index: int) -> None:
        self._seen, self._visit, self._surprises, self._last = index, Visit(), 0, None
        self._plan = None
        self._beliefs.arrive(index)

    def _leave(self) -> None:
        """Keep what was seen of the one that ran until now."""
        if self._seen is None:
            return
        self._beliefs.commit((self._read_power(), self._read_time()))
        self._known.add(self._seen)

    def _compare(self, mean: float) -> None:
        """Two readings in a row far from all before: the load has changed, so what is known of all is less sure."""
        visit = self._visit
        away = abs(mean - visit.mean)
        expected = max(self._noise.deviation, math.sqrt(visit.variance))
        if visit.count < 2 * _FIRST or away < _SURPRISE * expected:
            self._surprises = 0
            return
        self._surprises += 1
        if self._surprises == 2:
            index = self._seen
            assert index is not None
            self._leave()
            self._beliefs.loosen(_POWER, away)
            self._arrive(index)

    def _read_power(self) -> tuple[float, float]:
        """Logarithm of the highest power of the one that runs, and the variance of that."""
        visit = self._visit
        return visit.power(self._noise.deviation, visit.batch_s / self._sensor_s, self._beliefs.mean_here(_POWER))

    def _read_time(self) -> tuple[float, float]:
        visit = self._visit
        return (math.log(visit.batch_s), _TIME_VAR / visit.batches) if visit.batches else (0.0, math.inf)

    def _exceeds(self, mean: float, deviation: float) -> bool:
        """Whether the current one no longer keeps to the cap. One being tried is left when seen not to."""
        if self._visit.count < _TRIAL and self._seen == self._current:
            return self._highest > self._cap or mean - deviation > self._cap
        if self._highest > self._cap and self._above.get(self._current, 0.0) > _ABOVE:
            return True
        return mean + _LEFT * deviation + _SCATTER_STAY * self._scatter_here > self._cap

    @property
    def _scatter_here(self) -> float:
        """Standard deviation of a reading of the one that runs."""
        visit = self._visit
        if visit.single < SOLID or visit.batch_s >= SHORT * self._sensor_s:
            return self._noise.deviation
        return max(self._noise.deviation, math.sqrt(visit.variance))

    def _choose(self, scatter: float, *, jump: bool) -> None:
        beliefs = self._beliefs
        seen = self._visit.count > 0
        means, unknowns = beliefs.expected((self._read_power(), self._read_time())) if seen else beliefs.known()
        power, unknown, time = means[_POWER], unknowns[_POWER], means[_TIME]
        if self._slo < math.inf:
            time = self._in_time(time, unknowns[_TIME])
        rate = self._log_batches - time
        if self._refused is not None:
            rate = rate + self._refused
        noise, current, cap = self._noise.deviation, self._current, self._cap
        self._due, self._plan = False, None
        room = (cap - scatter * noise) - power
        sure = np.where(room >= _SURE * unknown, rate, -math.inf)
        if self._t_s < self._barred_s:
            sure[self._until_s > self._t_s] = -math.inf
        best = int(sure.argmax())
        found = sure[best] > -math.inf
        stays = not jump and rate[current] > -math.inf
        stays = stays and not self._exceeds(float(power[current]), float(unknown[current]))
        if not jump and not stays:
            self._back_off()
        if stays and (not found or rate[best] < rate[current] + _GAIN):
            if self._here >= 3 and self._t_s >= self._calm_s:
                self._plan = rate, room + (scatter - _SCATTER_STAY) * noise, unknown  # in the next step
                self._time_unknown = beliefs.deviation(_TIME)
            if self.decision.state != "settled":
                self.decision = self._say(current, "settled", _FASTEST)
        elif found:
            self._go(best, "settled" if best == current else "searching", _FASTEST)
        else:
            self._least(np.where(rate > -math.inf, power, math.inf), unknown)

    def _in_time(self, time: Floats, unknown: Floats) -> Floats:
        """Times; infinite where the tail exceeds the objective, unless it does everywhere."""
        allowed = time + 2 * unknown <= self._slo
        if not allowed.any():
            allowed = time <= time.min()
        late: Floats = np.where(allowed, time, math.inf)
        return late

    def _least(self, power: Floats, unknown: Floats) -> None:
        """Nothing is sure to fit: the one of least power; where that was seen above the cap, one that may yet fit."""
        least = int(power.argmin())
        above = power[least] > self._cap and (least in self._known or least == self._seen)
        if above:
            hopeful = power - _SURE * unknown
            hopeful[[*self._known, least]] = math.inf
            if hopeful.min() <= self._cap:
                least, above = int(hopeful.argmin()), False
        self._go(least, "smallest" if above else "searching", "least power; nothing is sure to keep to the cap")

    def _try(self, rate: Floats, room: Floats, unknown: Floats) -> None:
        """Stay, or try one that is faster and may fit."""
        current = self._current
        ease = room / unknown
        likely = (rate + self._time_unknown > rate[current] + _TRY_GAIN) & (ease > _UNLIKELY)
        likely &= self._until_s <= self._t_s
        likely[current] = False
        indices = likely.nonzero()[0]
        index = self._worth(indices, rate, ease) if len(indices) else None
        if index is not None:
            self._go(index, "searching", "faster, and it may keep to the cap")
            self._before = current

    def _worth(self, indices: npt.NDArray[np.intp], rate: Floats, ease: Floats) -> int | None:
        """Which try brings the most for each second that it is expected to cost above the cap; None where none may."""
        rates = rate[indices]
        spread = 0.55 * self._time_unknown[indices]
        ahead = np.minimum(rates - rate[self._current], 3.0)
        gain = spread * np.logaddexp(0.0, ahead / spread)  # expected, where it may also be slower
        chance = 1 / (1 + np.exp(-1.7 * ease[indices]))
        cost_s = (1 - chance) * (self._batches[indices] * np.exp(-rates) + 2 * self._sensor_s)
        left_s = _BUDGET_S + _BUDGET_SHARE * self._t_s - self._spent_s
        worth = np.where((cost_s <= left_s) & (gain > _TRY_GAIN), gain * chance / (cost_s + _LITTLE_S), 0.0)
        best = int(worth.argmax())
        return int(indices[best]) if worth[best] > 0 else None

    def _back_off(self) -> None:
        """The current one exceeds the cap: it is tried again later, each time after twice as long."""
        self._wait_s[self._current] = wait_s = 2 * self._wait_s.get(self._current, _FIRST_WAIT_S / 2)
        self._until_s[self._current] = until_s = self._t_s + wait_s
        self._barred_s = max(self._barred_s, until_s)

    def _go(self, index: int, state: State, reason: str) -> None:
        if index != self._current:
            self._here, self._due, self._before = 0, False, None
        self._current = index
        self.decision = self._say(index, state, reason)

    def _say(self, index: int, state: State, reason: str) -> Decision:
        if (index, state, reason) not in self._decisions:
            self._decisions[index, state, reason] = Decision(self._all[index], state, reason)
        return self._decisions[index, state, reason]
