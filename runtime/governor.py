"""The control loop: runs batches in metered windows, asks the policy for the next size, and keeps to the cap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import Meter, MeterError, Reading
from joulec.runtime.cap import PowerCap
from joulec.runtime.clocks import ClockError, ClockKnob
from joulec.runtime.faults import FailedSizes, SensorHealth
from joulec.runtime.latency import LatencyGuard
from joulec.runtime.policies import Configuration, Decision, Policy, Telemetry
from joulec.runtime.telemetry import BatchChange, Recorder, Sample
from joulec.runtime.window import BatchAware, Window

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_IDLE_LIMIT_S = 1.0  # a window in which nothing ran for longer says nothing of a batch
_LONGEST_PAUSE_S = 1.0
_HARDLY_ANY = Work(flops=1.0, dram_bytes=0.0)  # an estimate without any work declines to tell
_SENSORS = ("nvml", "rapl", "zeus")
_FULL = 0.99  # of a meter's window; its clock and ours are read at different moments


class Governor:
    """Decides how large the next batch is, and how long to wait after one. Used by one thread.

    A meter's window spans as many batches as its sensor needs (``window_s``) and then counts as one reading. Without a
    cap the largest size runs. Where power is unknown while there is a cap (no meter, a failed one, or one that cannot
    tell), the smallest does, until the meter makes sense again (`SensorHealth`). A size whose batches fail is left out
    for a while (`FailedSizes`).

    Args:
        sizes: batch sizes, ascending.
        work: what one batch of a size does, None where that is not known.
        meter: measures power; None where there is none.
        cap: the cap; None for none.
        policy: decides under a cap.
        guard: the latency objective; None for none.
        uncapped: the size to run where there is no cap; the largest when None.
        clocks: sets the device's clock to what the policy chose; None where it cannot be set.
        clock: monotonic seconds.
        sleep: waits for seconds, less when the session is closed.
        say: receives, once each, what the user should know.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        work: Callable[[int], Work | None],
        meter: Meter | None,
        cap: PowerCap | None,
        policy: Policy,
        guard: LatencyGuard | None,
        uncapped: int | None = None,
        clocks: ClockKnob | None = None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        say: Callable[[str], None],
    ) -> None:
        self.recorder = Recorder()
        self.cap = cap
        self._sizes = list(sizes)
        self._work = work
        self._meter = meter
        self._policy = policy
        self._guard = guard
        self._uncapped = uncapped or self._sizes[-1]
        self._clocks = clocks
        self._clock_hz: float | None = None
        self._clock = clock
        self._sleep = sleep
        self._say = say
        self._origin_s = clock()
        self._window: Window | None = None
        self._idle_since_s: float | None = None
        self._power_known = True
        self._health = SensorHealth(clock)
        self._failed = FailedSizes(self._sizes, clock)
        self._active_w: float | None = None
        self._idle_w: float | None = None
        self._due: Callable[[], None] | None = None
        self._said: set[str] = set()
        self._before = self.size
        self._next_cap: tuple[PowerCap | None, Meter | None] | None = None
        if cap is not None and meter is None:
            self._unknown("no meter is at hand")

    @property
    def now_s(self) -> float:
        """Seconds since the session's start."""
        return self._clock() - self._origin_s

    @property
    def decision(self) -> Decision:
        """The size to run and why."""
        largest = self._largest
        if self.cap is None:
            return Decision(Configuration(min(largest, self._uncapped)), "held", "there is no power cap")
        if not self._power_known:
            slowest_hz = None if self._clocks is None else self._clocks.levels_hz[0]
            safest = Configuration(self._sizes[0], clock_hz=slowest_hz)
            return Decision(safest, "held", "power is not known, so the smallest batch size is kept")
        decision = self._policy.decision
        if decision.batch > largest:
            smaller = replace(decision.configuration, batch=largest)
            failing = largest == self._failed.largest
            why = "larger ones fail" if failing else "larger ones take longer than the latency objective"
            return replace(decision, configuration=smaller, reason=why)
        return decision

    @property
    def _largest(self) -> int:
        """The largest size that latency and failures allow."""
        return min(self._guard.largest if self._guard else self._sizes[-1], self._failed.largest)

    def blame(self, size: int, error: Exception) -> None:
        """Batches of the size fail, although their rows can be computed: leave it out for a while."""
        if self._failed.add(size):
            self._say(
                f"batch size {size} fails ({error or type(error).__name__}); smaller ones are used, and it is tried "
                "again later"
            )
        self._note_change()

    @property
    def size(self) -> int:
        """The batch size to run."""
        return self.decision.batch

    @property
    def clock_hz(self) -> float | None:
        """The clock that was set last, in hertz; None where the driver chooses."""
        return self._clock_hz

    @property
    def throttled(self) -> bool:
        """Whether even the smallest batch exceeds the cap, so that pauses must keep to it."""
        if self.cap is None or not self._power_known or self._policy.decision.batch != self._sizes[0]:
            return False
        exceeds = self._active_w is not None and self._active_w > self.cap.watts
        return exceeds or self._policy.decision.state == "smallest"

    def change_cap(self, cap: PowerCap | None, meter: Meter | None) -> None:
        """From the next batch on another cap, and a meter where there was none. Any thread may call this."""
        self._next_cap = cap, meter

    @property
    def coming_cap(self) -> PowerCap | None:
        """The cap of the next batch."""
        return self.cap if self._next_cap is None else self._next_cap[0]

    def _take_cap(self) -> None:
        change, self._next_cap = self._next_cap, None
        if change is None:
            return
        self.cap = change[0]
        if self._meter is None and change[1] is not None:
            self.abandon()
            self._meter, self._power_known = change[1], True
        if self.cap is not None and self._meter is None:
            self._unknown("no meter is at hand")

    def idle(self) -> None:
        """No batch can be formed at the moment."""
        now = self._clock()
        if self._idle_since_s is None:
            self._idle_since_s = now
            self._announce(0)
        elif now - self._idle_since_s > _IDLE_LIMIT_S:
            self.abandon()

    def run(self, size: int, items: int, call: Callable[[], _T]) -> _T:
        """Run one batch; `rest` comes after it.

        Args:
            size: its size.
            items: rows in it that are not padding.
            call: computes it; what it raises passes through, and the window is given up.
        """
        self._take_cap()
        cap_w = self.cap.current(self.now_s) if self.cap else None
        self._set_clock(self.decision.configuration.clock_hz)
        self._open(size)
        start_s = self._clock()
        try:
            result = call()
        except BaseException:
            self.abandon()
            raise
        busy_s = self._clock() - start_s
        self._failed.ran(size)
        if self._guard:
            self._guard.observe(size, busy_s)
            self._check_latency(size)
        window = self._window
        if window is not None:
            self._account(window, size, items, busy_s)
            if self._meter is None or not window.metered:
                self._record(window, busy_s, None, cap_w)
                self._window = None
            else:
                self._settle_window(window, self._meter, busy_s, cap_w)
        return result

    def _set_clock(self, clock_hz: float | None) -> None:
        """Change the clock, and begin a new window with it; where that fails, go on without this knob."""
        if self._clocks is None or clock_hz == self._clock_hz:
            return
        self.abandon()
        try:
            self._clocks.set(clock_hz)
            self._clock_hz = clock_hz
        except ClockError as error:
            self._clocks, self._clock_hz = None, None
            self._say_once("clocks", f"{error}; the clock stays as it is, the batch size alone is chosen")

    def rest(self) -> None:
        """After a batch, and after its answers were delivered: pause where the cap demands it."""
        due, self._due = self._due, None
        if due is not None:
            due()
        self._note_change()

    def _settle_window(self, window: Window, meter: Meter, busy_s: float, cap_w: float | None) -> None:
        """After a batch: close the window where it is long enough, and note what pause is due."""
        covered = self._clock() - window.start_s >= meter.window_s
        if not self.throttled or cap_w is None:
            if covered:
                self._close(window, meter, cap_w)
            return
        if self._idle_w is None or (covered and not window.pause_s):
            self._close(window, meter, cap_w, pause=True)
        else:
            self._due = partial(self._pause_within, window, meter, self._owed_s(busy_s, cap_w), cap_w)

    def _pause_within(self, window: Window, meter: Meter, pause_s: float, cap_w: float) -> None:
        """Pause inside of the window, which is too short to end at each batch."""
        self._pause(pause_s)
        window.pause_s += pause_s
        if self._clock() - window.start_s >= meter.window_s:
            self._close(window, meter, cap_w)

    def _close(self, window: Window, meter: Meter, cap_w: float | None, *, pause: bool = False) -> None:
        """Close the window and let the policy decide; with ``pause``, a pause is read apart and both count as one."""
        self._window = None
        try:
            reading = meter.end(window.work)
        except MeterError as error:
            self._lost(error)
            self._record(window, self._clock() - window.start_s, None, cap_w)
            return
        power_w = self._told(reading, meter, window)
        if not self._power_known:
            self._record(window, reading.seconds, None, cap_w)
            return
        if reading.seconds >= meter.window_s * _FULL:
            self._step(window, power_w, reading.peak_w, cap_w)
        joules = None if power_w is None else reading.joules
        if pause and cap_w is not None and joules is not None:
            self._due = partial(self._pause_apart, window, meter, reading, joules, cap_w)
        else:
            self._record(window, reading.seconds, joules, cap_w, meter, reading.peak_w)

    def _pause_apart(self, window: Window, meter: Meter, reading: Reading, joules: float, cap_w: float) -> None:
        """Pause with a meter's window of its own, which tells idle power, and record batch and pause as one."""
        owed_s = self._owed_s(window.busy_s, cap_w)
        rest_s = rest_j = 0.0
        try:
            for _ in range(2 if owed_s else 0):  # the first pause assumed an idle power that it then measured
                still_s = max(owed_s - rest_s, 0.0 if rest_s else meter.window_s)
                meter.begin()
                self._pause(still_s)
                resting = meter.end(_HARDLY_ANY)
                if resting.joules is None or not resting.seconds:
                    break
                rest_s, rest_j = rest_s + resting.seconds, rest_j + resting.joules
                self._idle_w = rest_j / rest_s
                owed_s = self._owed_s(window.busy_s, cap_w)
                if owed_s <= rest_s:
                    break
        except MeterError as error:
            self._lost(error)
        self._record(window, reading.seconds + rest_s, joules + rest_j, cap_w, meter, reading.peak_w)

    def _told(self, reading: Reading, meter: Meter, window: Window) -> float | None:
        """Power over the window, None (and said so) where the reading does not tell it."""
        if reading.power_w is None or (window.work == NO_WORK and meter.source == "estimated"):
            if self.cap is not None:
                self._unknown(f"the meter {meter.name} cannot tell it without knowing the work that a batch does")
            return None
        fault = self._health.judge(reading, window.main_size, measured=meter.source in _SENSORS)
        if fault is not None:
            self._lost(MeterError(fault))
            return None
        if not self._power_known and self._health.well:
            self._power_known = True
            self._said.discard("meter")
            _log.info("power is known again")
        return reading.power_w

    def _step(self, window: Window, power_w: float | None, peak_w: float | None, cap_w: float | None) -> None:
        """Let the policy take the reading."""
        if power_w is None or cap_w is None:
            return
        active_w = power_w
        if window.pause_s and self._idle_w is not None:  # what the batches alone drew
            whole_s = window.busy_s + window.pause_s
            active_w = (power_w * whole_s - self._idle_w * window.pause_s) / window.busy_s
        size = window.main_size if window.typical else None
        if size == self._sizes[0]:
            self._active_w = active_w
        telemetry = Telemetry(
            None if size is None else Configuration(size, clock_hz=self._clock_hz),
            power_w=active_w,
            peak_w=peak_w,
            t_s=self.now_s,
            seconds=self._clock() - window.start_s,
            batches=window.batches,
            batch_s=window.busy_s / window.batches,
            items=window.items,
            largest=self._largest if self._largest < self._sizes[-1] else None,
            latency_s=window.longest_s,
            sensor_window_s=0.0 if self._meter is None else self._meter.window_s,
        )
        decision = self._policy.step(telemetry, cap_w)
        if self.throttled:
            self._say_once(
                "smallest",
                f"even the smallest batch size, {decision.batch}, draws {active_w:.4g} W, more than the cap of "
                f"{cap_w:.4g} W; pausing between batches keeps the mean to it",
            )
        else:  # the fault has ended; another one is said anew
            self._said -= {"smallest", "idle"}
            if decision.fault is not None:
                self._say_once("meter", decision.fault)
        if decision.fault is None:
            self._said.discard("meter")

    def _owed_s(self, busy_s: float, cap_w: float) -> float:
        """Pause after a batch that brings the mean power over both down to the cap."""
        if self._active_w is None or self._active_w <= cap_w:
            return 0.0
        idle_w = self._idle_w or 0.0
        if idle_w >= cap_w:
            self._say_once("idle", f"idle power, {idle_w:.4g} W, already exceeds the cap of {cap_w:.4g} W")
            return _LONGEST_PAUSE_S
        return busy_s * (self._active_w - cap_w) / (cap_w - idle_w)

    def _pause(self, seconds: float) -> None:
        self._announce(0)
        self._sleep(seconds)

    def _open(self, size: int) -> None:
        """Make sure that a window is open for a batch of the size."""
        if self._window is not None and self._idle_since_s is not None:
            self._window.idle_s += self._clock() - self._idle_since_s
        self._idle_since_s = None
        self._announce(size)
        if self._window is None:
            self._window = Window(self._clock())
            self._window.metered = self._begin()

    def _begin(self) -> bool:
        """Open the meter's window; False where there is none."""
        if self._meter is None or not self._health.due:
            return False
        try:
            self._meter.begin()
        except MeterError as error:
            self._lost(error)
            return False
        return True

    def abandon(self) -> None:
        """Give up the open window, if there is one."""
        window, self._window = self._window, None
        if window is None or self._meter is None or not window.metered:
            return
        try:
            self._meter.end()
        except MeterError as error:  # its reading is not wanted; a sensor that is gone shows when the next one opens
            _log.debug("a window that was given up could not be ended: %s", error)

    def _account(self, window: Window, size: int, items: int, busy_s: float) -> None:
        window.batches += 1
        window.items += items
        window.longest_s = max(window.longest_s, busy_s)
        window.busy_by_size[size] = window.busy_by_size.get(size, 0.0) + busy_s
        work = self._work(size)
        if work is not None:
            window.work += work

    def _record(
        self,
        window: Window,
        seconds: float,
        joules: float | None,
        cap_w: float | None,
        meter: Meter | None = None,
        peak_w: float | None = None,
    ) -> None:
        power_w = None if joules is None or seconds <= 0 else joules / seconds
        self.recorder.add(
            Sample(
                t_s=window.start_s - self._origin_s,
                seconds=seconds,
                batch=window.main_size,
                batches=window.batches,
                items=window.items,
                power_w=power_w,
                peak_w=peak_w if peak_w is not None else power_w,
                cap_w=cap_w,
                power_source=meter.source if meter is not None and power_w is not None else None,
            )
        )

    def _announce(self, size: int) -> None:
        meter: object = self._meter
        if meter is not None and isinstance(meter, BatchAware):
            meter.batch(size)

    def _note_change(self) -> None:
        decision = self.decision
        if decision.batch != self._before:
            self.recorder.change(BatchChange(self.now_s, self._before, decision.batch, decision.reason))
            _log.info("batch size %d -> %d: %s", self._before, decision.batch, decision.reason)
            self._before = decision.batch

    def _check_latency(self, size: int) -> None:
        if self._guard and size == self._sizes[0] and not self._guard.meets(size):
            self._say_once("latency", f"even the smallest batch size, {size}, takes longer than the latency objective")

    def _lost(self, error: MeterError) -> None:
        """The meter failed: go on without it, and try it again after a while."""
        self._health.fail()
        if self.cap is None:
            self._power_known = False
            self._say_once("meter", f"the meter failed ({error}); power is not known until it recovers")
            return
        self._unknown(f"the meter failed: {error}")

    def _unknown(self, why: str) -> None:
        self._power_known = False
        self._say_once("meter", f"power is not known ({why}); the smallest batch size is kept to stay below the cap")

    def _say_once(self, subject: str, message: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            self._say(message)
