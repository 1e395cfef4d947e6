"""A policy on a simulated device, in virtual time. The policy sees sensor readings and its prior, never the truth."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from joulec.runtime.policies.protocol import Configuration, Decision, Policy, Telemetry
from joulec.runtime.simulator.device import Device, Phase
from joulec.runtime.simulator.history import PowerHistory
from joulec.runtime.simulator.traces import Trace

_QUEUE_BATCHES = 8  # rows that wait are bounded by this many of the largest batches
_MAX_WAIT_S = 0.01
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Step:
    """A stretch of the timeline: what ran, what the sensor said, what was true."""

    t_s: float
    seconds: float
    configuration: Configuration
    rows: int
    reading_w: float | None
    true_w: float
    cap_w: float


@dataclass(frozen=True)
class Outcome:
    """What a policy reached.

    Attributes:
        seconds: device time.
        rows: rows computed.
        seconds_above_cap: in which true power, averaged over one sensor window, exceeded the cap in force.
        mean_batch: batch size, averaged over time.
        batch_changes: how often the batch size changed.
        last_change_s: when it last did.
        timeline: steps in order.
        warnings: faults that were said, once each.
        above: moments at which power was above, in steps of ``grid_s``.
        grid_s: see above.
    """

    seconds: float
    rows: int
    seconds_above_cap: float
    mean_batch: float
    batch_changes: int
    last_change_s: float
    timeline: list[Step]
    warnings: list[str]
    above: list[float]
    grid_s: float

    @property
    def throughput(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


class _Sensor:
    """Readings of a device's power history, as late, coarse and wrong as the device file says."""

    def __init__(self, device: Device, history: PowerHistory, random_: random.Random) -> None:
        self._device, self._history, self._random = device, history, random_
        self._next = 1
        self._last_w = device.power.idle_w
        self._waiting: deque[tuple[float, float, float]] = deque()  # available at, taken at, watts
        self.failed = False

    @property
    def next_s(self) -> float:
        """When the next reading is taken."""
        return self._next * self._device.sensor.period_s

    def readings(self, now_s: float) -> list[tuple[float, float]]:
        """Moments and watts of the readings that became available."""
        sensor = self._device.sensor
        span_s = sensor.window_s * sensor.duty
        while (taken_s := self._next * sensor.period_s) <= now_s:
            self._next += 1
            watts = (self._history.energy_j(taken_s) - self._history.energy_j(taken_s - span_s)) / span_s
            watts *= 1 + self._random.gauss(0.0, self._device.noise.sensor)
            delay_s, self.failed = sensor.delay_s, False
            for fault in self._device.faults:
                if not fault.at(taken_s):
                    continue
                self.failed = self.failed or fault.kind == "error"
                if fault.kind == "nan":
                    watts = math.nan
                elif fault.kind == "stuck":
                    watts = self._last_w
                elif fault.kind == "delayed":
                    delay_s += fault.delay_s
            self._last_w = watts
            if not self.failed:
                self._waiting.append((taken_s + delay_s, taken_s, watts))
        ready = []
        while self._waiting and self._waiting[0][0] <= now_s:
            _, taken_s, watts = self._waiting.popleft()
            ready.append((taken_s, watts))
        return ready


class Simulation:
    """Runs one policy on one device.

    Args:
        device: the device.
        cap_w: the cap over time.
        arrivals: rows per second over time; None where rows always wait.
        seed: of all noise.
    """

    def __init__(
        self,
        device: Device,
        cap_w: Trace,
        arrivals: Trace | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self._device, self._cap, self._arrivals = device, cap_w, arrivals
        self._random = random.Random(seed)
        self._numpy = np.random.default_rng(seed)
        self._history = PowerHistory(device.power.idle_w)
        self._sensor = _Sensor(device, self._history, random.Random(seed + 1))
        self._phases: dict[Configuration, tuple[Phase, Phase, Phase]] = {}
        self._rise_k = 0.0
        self._queued = 0.0
        self._paced: float | None = None

    def run(self, policy: Policy, duration_s: float, each: Callable[[Decision], None] | None = None) -> Outcome:
        """Run for a time in seconds."""
        steps: list[Step] = []
        warnings: list[str] = []
        decision, fault = policy.decision, policy.decision.fault
        running: Configuration | None = None
        since_s = newest_s = told_s = 0.0
        told_cap_w = -1.0
        batches, rows, busy_s, longest_s = 0, 0, 0.0, 0.0
        seen: list[float] = []
        while (now_s := self._history.end_s) < duration_s:
            cap_w = self._cap.at(now_s)
            configuration, count, served = self._next(decision.configuration, now_s, alone=decision.state == "smallest")
            failed = count > 0 and any(
                f.kind == "kernel" and f.at(now_s) and configuration.batch >= f.batch for f in self._device.faults
            )
            if running is None or configuration.clock_hz != running.clock_hz:
                self._rest(self._device.clock_switch_s)
            if configuration != running or count == 0 or failed:
                batches, rows, busy_s, longest_s, seen = 0, 0, 0.0, 0.0, []
                since_s, running = self._history.end_s, configuration
            if count == 0 or failed:
                self._rest(_MAX_WAIT_S)
                served = 0
            else:
                batch_s = self._busy(configuration, count)
                batches, rows, busy_s = batches + count, rows + served, busy_s + batch_s * count
                longest_s = max(longest_s, batch_s)
            paused = not failed and count > 0 and decision.state == "smallest"
            if paused:
                self._pause(configuration, cap_w)
            end_s = self._history.end_s
            span_s = self._device.sensor.window_s * self._device.sensor.duty
            ready = self._sensor.readings(end_s)
            newest_s = max([newest_s, *(taken_s for taken_s, _ in ready)])
            if count == 0 or paused:
                since_s = end_s
            seen += [watts for taken_s, watts in ready if taken_s - span_s >= since_s - 1e-9]
            mean_w = sum(seen) / len(seen) if seen else None
            true_w = (self._history.energy_j(end_s) - self._history.energy_j(now_s)) / (end_s - now_s)
            reading_w = ready[-1][1] if ready else None
            steps.append(Step(now_s, end_s - now_s, configuration, served, reading_w, true_w, cap_w))
            cap_w = self._cap.at(end_s)
            if not ready and not failed and cap_w == told_cap_w and not self._sensor.failed:
                continue
            telemetry = Telemetry(
                configuration if batches or failed else None,
                mean_w,
                max(seen) if seen else None,
                t_s=end_s,
                seconds=end_s - told_s,
                batches=batches,
                batch_s=busy_s / batches if batches else None,
                latency_s=longest_s if batches else None,
                items=rows,
                readings=len(seen),
                age_s=end_s - newest_s,
                sensor_window_s=self._device.sensor.window_s,
                valid=not self._sensor.failed,
                queued=int(self._queued),
                failed=failed,
            )
            decision = policy.step(telemetry, cap_w)
            if each is not None:
                each(decision)
            told_cap_w, told_s = cap_w, end_s
            batches, rows, busy_s, longest_s, seen = 0, 0, 0.0, 0.0, []
            if decision.fault is not None and fault is None:
                warnings.append(decision.fault)
            fault = decision.fault
        return self._outcome(steps, warnings)

    def _next(self, wanted: Configuration, now_s: float, *, alone: bool) -> tuple[Configuration, int, int]:
        """What runs next: the configuration, how many batches until something may change, and rows computed.

        A batch runs ``alone`` where a pause follows each.
        """
        first_s = (
            self._device.batch_s(wanted) if wanted not in self._phases else sum(p[0] for p in self._phases[wanted])
        )
        stop_s = min(self._sensor.next_s + self._device.sensor.delay_s, self._cap.next_change_s(now_s))
        count = 1 if alone else max(1, math.ceil((stop_s - now_s) / first_s - 1e-9))
        if self._arrivals is None:
            return wanted, count, count * wanted.batch
        if self._queued >= wanted.batch:
            count = min(count, int(self._queued) // wanted.batch)
            self._queued -= count * wanted.batch
            return wanted, count, count * wanted.batch
        if self._queued < 1:
            return wanted, 0, 0
        rows, self._queued = int(self._queued), self._queued - int(self._queued)
        return replace(wanted, batch=next(size for size in self._device.batches if size >= rows)), 1, rows

    def _busy(self, configuration: Configuration, count: int) -> float:
        """Run batches; seconds of one."""
        phases = self._phases.get(configuration)
        if phases is None:
            phases = self._phases[configuration] = self._device.phases(configuration)
        noise = self._device.noise
        batch_s = sum(seconds for seconds, _ in phases)
        batch_s *= max(0.2, 1 + self._random.gauss(0.0, noise.time) / math.sqrt(count))
        factor = max(0.2, 1 + self._random.gauss(0.0, noise.power)) * self._leakage()
        self._add(batch_s, count, [(seconds, watts * factor) for seconds, watts in phases])
        return batch_s

    def _rest(self, seconds: float) -> None:
        if seconds > 0:
            self._add(seconds, 1, [(seconds, self._device.power.idle_w * self._leakage())])

    def _pause(self, configuration: Configuration, cap_w: float) -> None:
        """After a batch of what exceeds the cap alone: wait, so that the mean over both keeps to it."""
        idle_w, busy_w = (
            self._device.power.idle_w * self._leakage(),
            self._device.mean_w(configuration) * self._leakage(),
        )
        batch_s = self._device.batch_s(configuration)
        owed_s = _PAUSE_S if cap_w <= idle_w else batch_s * max(busy_w * 1.05 - cap_w, 0.0) / (cap_w - idle_w)
        self._rest(min(owed_s, _PAUSE_S))

    def _leakage(self) -> float:
        return 1 + self._device.temperature.leakage_per_k * self._rise_k

    def _add(self, batch_s: float, count: int, phases: list[Phase]) -> None:
        before_s, before_j = self._history.end_s, self._history.energy_j(self._history.end_s)
        self._history.add(batch_s, count, phases)
        seconds = self._history.end_s - before_s
        watts = (self._history.energy_j(self._history.end_s) - before_j) / seconds
        temperature = self._device.temperature
        kept = math.exp(-seconds / temperature.time_constant_s)
        self._rise_k = self._rise_k * kept + temperature.kelvin_per_w * watts * (1 - kept)
        if self._arrivals is not None:
            expected = self._arrivals.at(before_s) * seconds
            self._queued += float(self._numpy.poisson(expected))
            self._queued = min(self._queued, _QUEUE_BATCHES * self._device.batches[-1])

    def _outcome(self, steps: list[Step], warnings: list[str]) -> Outcome:
        sensor, end_s = self._device.sensor, self._history.end_s
        grid_s = min(sensor.period_s, sensor.window_s / 2)
        moments = np.arange(1, int(end_s / grid_s) + 1, dtype=np.float64) * grid_s
        means = self._history.window_means_w(moments, sensor.window_s)
        edges = np.asarray(self._cap.times_s)
        caps = np.asarray(self._cap.values)[np.maximum(np.searchsorted(edges, moments, side="right") - 1, 0)]
        above = moments[means > caps]
        busy = [step for step in steps if step.rows]
        busy_s = sum(step.seconds for step in busy)
        changes = [
            after.t_s for before, after in pairwise(busy) if before.configuration.batch != after.configuration.batch
        ]
        return Outcome(
            seconds=end_s,
            rows=sum(step.rows for step in steps),
            seconds_above_cap=float(len(above) * grid_s),
            mean_batch=sum(step.configuration.batch * step.seconds for step in busy) / busy_s if busy_s else 0.0,
            batch_changes=len(changes),
            last_change_s=changes[-1] if changes else 0.0,
            timeline=steps,
            warnings=warnings,
            above=above.tolist(),
            grid_s=grid_s,
        )
