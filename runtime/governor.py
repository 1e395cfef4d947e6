"""The control loop: runs batches in metered windows, asks the policy for the next size, and keeps to the cap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

from joulec.profiler.meter import Meter, MeterError, Reading
from joulec.runtime.cap import PowerCap
from joulec.runtime.latency import LatencyGuard
from joulec.runtime.manifest import WorkTotals
from joulec.runtime.policy import Decision, Policy, Telemetry
from joulec.runtime.telemetry import BatchChange, Recorder, Sample

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_IDLE_LIMIT_S = 1.0  # a window in which nothing ran for longer says nothing of a batch
_IDLE_SHARE = 0.1
_MAIN_SHARE = 0.75
_LONGEST_PAUSE_S = 1.0
_FULL = 0.99  # of a meter's window; its clock and ours are read at different moments


@runtime_checkable
class BatchAware(Protocol):
    """A meter that wants to know which batch size runs: a simulated one."""

    def batch(self, size: int) -> None:
        """From now on batches of this size run; 0: nothing runs."""


@dataclass
class _Window:
    """What happened since the meter's window was opened. Seconds, counts, and the work done."""

    start_s: float
    batches: int = 0
    items: int = 0
    busy_by_size: dict[int, float] = field(default_factory=dict)
    idle_s: float = 0.0
    pause_s: float = 0.0
    flops: float = 0.0
    dram_bytes: float = 0.0
    cache_bytes: float = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds in batches."""
        return sum(self.busy_by_size.values())

    @property
    def main_size(self) -> int:
        """The batch size that most of the time went to."""
        return max(self.busy_by_size, key=lambda size: self.busy_by_size[size])

    @property
    def typical(self) -> bool:
        """Whether the window is what a device busy with the main size looks like."""
        waited = self.idle_s > _IDLE_SHARE * (self.busy_s + self.idle_s)
        return not waited and self.busy_by_size[self.main_size] >= _MAIN_SHARE * self.busy_s


class Governor:
    """Decides how large the next batch is, and how long to wait after one. Used by one thread.

    A meter's window spans as many batches as its sensor needs (``window_s``) and then counts as one reading. Without a
    cap the largest size runs. Where power is unknown while there is a cap (no meter, a failed one, or one that cannot
    tell), the smallest does.

    Args:
        sizes: batch sizes, ascending.
        work: what one batch of a size does, None where that is not known.
        meter: measures power; None where there is none.
        cap: the cap; None for none.
        policy: decides under a cap.
        guard: the latency objective; None for none.
        uncapped: the size to run where there is no cap; the largest when None.
        clock: monotonic seconds.
        sleep: waits for seconds, less when the session is closed.
        say: receives, once each, what the user should know.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        work: Callable[[int], WorkTotals | None],
        meter: Meter | None,
        cap: PowerCap | None,
        policy: Policy,
        guard: LatencyGuard | None,
        uncapped: int | None = None,
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
        self._clock = clock
        self._sleep = sleep
        self._say = say
        self._origin_s = clock()
        self._window: _Window | None = None
        self._idle_since_s: float | None = None
        self._power_known = True
        self._active_w: float | None = None
        self._idle_w: float | None = None
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
        largest = self._guard.largest if self._guard else self._sizes[-1]
        if self.cap is None:
            return Decision(min(largest, self._uncapped), "held", "there is no power cap")
        if not self._power_known:
            return Decision(self._sizes[0], "held", "power is not known, so the smallest batch size is kept")
        decision = self._policy.decision
        if decision.batch > largest:
            return replace(decision, batch=largest, reason="larger ones take longer than the latency objective")
        return decision

    @property
    def size(self) -> int:
        """The batch size to run."""
        return self.decision.batch

    @property
    def throttled(self) -> bool:
        """Whether even the smallest batch exceeds the cap, so that pauses must keep to it."""
        return self.cap is not None and self._power_known and self._policy.decision.state == "smallest"

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
        """Run one batch.

        Args:
            size: its size.
            items: rows in it that are not padding.
            call: computes it; what it raises passes through, and the window is given up.
        """
        self._take_cap()
        cap_w = self.cap.current(self.now_s) if self.cap else None
        self._open(size)
        start_s = self._clock()
        try:
            result = call()
        except BaseException:
            self.abandon()
            raise
        busy_s = self._clock() - start_s
        if self._guard:
            self._guard.observe(size, busy_s)
            self._check_latency(size)
        window = self._window
        if window is not None:
            self._account(window, size, items, busy_s)
            if self._meter is None:
                self._record(window, busy_s, None, cap_w)
                self._window = None
            else:
                self._settle_window(window, self._meter, busy_s, cap_w)
        self._note_change()
        return result

    def _settle_window(self, window: _Window, meter: Meter, busy_s: float, cap_w: float | None) -> None:
        """After a batch: close the window where it is long enough, and pause where the cap demands it."""
        throttled = self.throttled
        covered = self._clock() - window.start_s >= meter.window_s
        if not throttled or cap_w is None:
            if covered:
                self._close(window, meter, cap_w)
            return
        pause_s = self._owed_s(busy_s, cap_w)
        if self._idle_w is None or (covered and not window.pause_s):
            self._close(window, meter, cap_w, pause=True)
            return
        self._pause(pause_s)
        window.pause_s += pause_s
        if self._clock() - window.start_s >= meter.window_s:
            self._close(window, meter, cap_w)

    def _close(self, window: _Window, meter: Meter, cap_w: float | None, *, pause: bool = False) -> None:
        """Close the window and let the policy decide; with ``pause``, read a pause apart and count both as one."""
        self._window = None
        try:
            reading = meter.end(window.flops, window.dram_bytes, window.cache_bytes)
            power_w = self._told(reading, meter, window)
            if reading.seconds >= meter.window_s * _FULL:
                self._step(window, power_w, reading.peak_w, cap_w)
            rested = self._rest(window, meter, cap_w) if pause and cap_w is not None else None
        except MeterError as error:
            self._lost(error)
            self._record(window, self._clock() - window.start_s, None, cap_w)
            return
        if power_w is None:
            self._record(window, reading.seconds, None, cap_w, meter)
            return
        seconds, joules = reading.seconds, reading.joules or 0.0
        if rested is not None:
            seconds, joules = seconds + rested[0], joules + rested[1]
        self._record(window, seconds, joules, cap_w, meter, reading.peak_w)

    def _told(self, reading: Reading, meter: Meter, window: _Window) -> float | None:
        """Power over the window, None (and said so) where the reading does not tell it."""
        known = window.flops or window.dram_bytes or window.cache_bytes or meter.source != "estimated"
        if reading.power_w is None or not known:
            if self.cap is not None:
                self._unknown(f"the meter {meter.name} cannot tell it without knowing the work that a batch does")
            return None
        self._power_known = True
        return reading.power_w

    def _step(self, window: _Window, power_w: float | None, peak_w: float | None, cap_w: float | None) -> None:
        """Let the policy take the reading."""
        if power_w is None or cap_w is None:
            return
        active_w = power_w
        if window.pause_s and self._idle_w is not None:  # what the batches alone drew
            whole_s = window.busy_s + window.pause_s
            active_w = (power_w * whole_s - self._idle_w * window.pause_s) / window.busy_s
        size = window.main_size if window.typical else 0
        if size == self._sizes[0]:
            self._active_w = active_w
        largest = self._guard.largest if self._guard else None
        highest_w = max(active_w, peak_w or 0.0)
        decision = self._policy.step(Telemetry(size, highest_w, window.batches, largest), cap_w)
        if decision.state == "smallest":
            self._say_once(
                "smallest",
                f"even the smallest batch size, {decision.batch}, draws {active_w:.4g} W, more than the cap of "
                f"{cap_w:.4g} W; pausing between batches keeps the mean to it",
            )

    def _owed_s(self, busy_s: float, cap_w: float) -> float:
        """Pause after a batch that brings the mean power over both down to the cap."""
        if self._active_w is None or self._active_w <= cap_w:
            return 0.0
        idle_w = self._idle_w or 0.0
        if idle_w >= cap_w:
            self._say_once("idle", f"idle power, {idle_w:.4g} W, already exceeds the cap of {cap_w:.4g} W")
            return _LONGEST_PAUSE_S
        return busy_s * (self._active_w - cap_w) / (cap_w - idle_w)

    def _rest(self, window: _Window, meter: Meter, cap_w: float) -> tuple[float, float] | None:
        """Pause with a meter's window of its own, which tells idle power: its seconds and joules."""
        owed_s = self._owed_s(window.busy_s, cap_w)
        if not owed_s:
            return None
        seconds = joules = 0.0
        for _ in range(2):  # the first pause assumed an idle power that it then measured
            still_s = max(owed_s - seconds, 0.0 if seconds else meter.window_s)
            if not still_s:
                break
            meter.begin()
            self._pause(still_s)
            reading = meter.end(flops=1.0)  # an estimate without any work declines to tell
            if reading.joules is None or not reading.seconds:
                break
            seconds, joules = seconds + reading.seconds, joules + reading.joules
            self._idle_w = joules / seconds
            owed_s = self._owed_s(window.busy_s, cap_w)
        return (seconds, joules) if seconds else None

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
            try:
                if self._meter is not None:
                    self._meter.begin()
            except MeterError as error:
                self._lost(error)
            self._window = _Window(self._clock())

    def abandon(self) -> None:
        """Give up the open window, if there is one."""
        if self._window is None:
            return
        self._window = None
        if self._meter is None:
            return
        try:
            self._meter.end()
        except MeterError as error:  # its reading is not wanted; a sensor that is gone shows when the next one opens
            _log.debug("a window that was given up could not be ended: %s", error)

    def _account(self, window: _Window, size: int, items: int, busy_s: float) -> None:
        window.batches += 1
        window.items += items
        window.busy_by_size[size] = window.busy_by_size.get(size, 0.0) + busy_s
        work = self._work(size)
        if work is not None:
            window.flops += work.flops
            window.dram_bytes += work.dram_bytes
            window.cache_bytes += work.cache_bytes

    def _record(
        self,
        window: _Window,
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
        if isinstance(meter, BatchAware):
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
        """The meter failed: go on without it."""
        self._meter = None
        if self.cap is None:
            self._say_once("meter", f"the meter failed ({error}); power is not known from here on")
            return
        self._unknown(f"the meter failed: {error}")

    def _unknown(self, why: str) -> None:
        self._power_known = False
        self._say_once("meter", f"power is not known ({why}); the smallest batch size is kept to stay below the cap")

    def _say_once(self, subject: str, message: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            self._say(message)
