"""The control loop: runs batches in metered windows, asks the policy for the next configuration, and keeps to the cap.

`Metering` opens and closes the windows, `Throttle` says how long to pause, `FailedSizes` and `LatencyGuard` what may
run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from joulec.profiler.candidate import Work
from joulec.profiler.meter import Meter, MeterError, Reading
from joulec.runtime.cap import PowerCap
from joulec.runtime.clocks import ClockError, ClockKnob
from joulec.runtime.faults import FailedSizes
from joulec.runtime.latency import LatencyGuard
from joulec.runtime.metering import Metering
from joulec.runtime.notices import Notices
from joulec.runtime.policies import Configuration, Decision, Policy, Telemetry
from joulec.runtime.telemetry import BatchChange, Recorder, Sample
from joulec.runtime.throttle import Throttle
from joulec.runtime.window import Window

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Governor:
    """Decides what runs next, and how long to wait after a batch. Used by one thread.

    A meter's window spans as many batches as its sensor needs (``window_s``) and then counts as one reading. Without a
    cap the largest size runs. Where power is unknown while there is a cap (no meter, a failed one, or one that cannot
    tell), the safest configuration does, until the meter makes sense again.

    Args:
        sizes: batch sizes, ascending.
        work: what one batch of a size does in a variant, None where that is not known.
        meter: measures power; None where there is none.
        cap: the cap; None for none.
        policy: decides under a cap.
        guard: the latency objective; None for none.
        uncapped: what to run where there is no cap; the largest size when None.
        safest: what to run where power is not known beneath a cap; the smallest size when None.
        clocks: sets the device's clock to what the policy chose; None where it cannot be set.
        clock: monotonic seconds.
        sleep: waits for seconds, less when the session is closed.
        say: receives, once each, what the user should know.
        doing: told what is done next that might hang; the empty text: nothing.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        work: Callable[[int, str | int], Work | None],
        meter: Meter | None,
        cap: PowerCap | None,
        policy: Policy,
        guard: LatencyGuard | None,
        uncapped: Configuration | None = None,
        safest: Configuration | None = None,
        clocks: ClockKnob | None = None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        say: Callable[[str], None],
        doing: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.recorder = Recorder()
        self.cap = cap
        self._sizes = list(sizes)
        self._policy = policy
        self._guard = guard
        self._plain = Decision(uncapped or Configuration(self._sizes[-1]), "held", "there is no power cap")
        self._safest = safest or Configuration(self._sizes[0])
        self._clocks = clocks
        self._clock_hz: float | None = None
        self._clock = clock
        self._sleep = sleep
        self._doing = doing
        self._origin_s = clock()
        self._notices = Notices(say)
        self._metering = Metering(meter, work, clock, self._notices)
        self._throttle = Throttle(self._notices, self._pause)
        self._failed = FailedSizes(self._sizes, clock)
        self._due: Callable[[], None] | None = None
        self._next_cap: tuple[PowerCap | None, Meter | None] | None = None
        self._check_meter()
        self._before = self.decision.configuration

    @property
    def now_s(self) -> float:
        """Seconds since the session's start."""
        return self._clock() - self._origin_s

    @property
    def decision(self) -> Decision:
        """What to run and why."""
        if self.cap is None:
            if self._guard is None and not self._failed:
                return self._plain
            return self._quick_enough(self._plain, self._largest)
        if not self._metering.known:
            safest = self._safest if self._clocks is not None else replace(self._safest, clock_hz=None)
            return Decision(safest, "held", "power is not known, so the smallest batch size is kept")
        return self._quick_enough(self._policy.decision, self._largest)

    def _quick_enough(self, decision: Decision, largest: int) -> Decision:
        """The decision, or one near it, that latency and failures allow."""
        if decision.batch > largest:
            smaller = replace(decision.configuration, batch=largest)
            failing = largest == self._failed.largest
            why = "larger ones fail" if failing else "larger ones take longer than the latency objective"
            decision = replace(decision, configuration=smaller, reason=why)
        if self._guard is not None:
            wanted = decision.configuration
            variant = self._guard.meeting(wanted.batch, wanted.variant)
            if variant != wanted.variant:
                why = f"the variant {wanted.variant} takes longer than the latency objective"
                decision = replace(decision, configuration=replace(wanted, variant=variant), reason=why)
        return decision

    @property
    def policy(self) -> str | None:
        """The name of the policy that decides; None where there is no cap to decide for."""
        return None if self.cap is None else self._policy.name

    @property
    def _largest(self) -> int:
        """The largest size that latency and failures allow."""
        return min(self._guard.largest if self._guard else self._sizes[-1], self._failed.largest)

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
        if self.cap is None or not self._metering.known or self._policy.decision.batch != self._sizes[0]:
            return False
        return self._throttle.exceeds(self.cap.watts) or self._policy.decision.state == "smallest"

    def blame(self, size: int, error: Exception) -> None:
        """Batches of the size fail, although their rows can be computed: leave it out for a while."""
        if self._failed.add(size):
            self._notices.say(
                f"batch size {size} fails ({error or type(error).__name__}); smaller ones are used, and it is tried "
                "again later"
            )
        self._note_change()

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
        if self._metering.meter is None and change[1] is not None:
            self._metering.replace(change[1])
        self._check_meter()

    def _check_meter(self) -> None:
        self._metering.capped = self.cap is not None
        if self.cap is not None and self._metering.meter is None:
            self._metering.unknown("no meter is at hand")

    def idle(self) -> None:
        """No batch can be formed at the moment."""
        self._metering.idle()

    def abandon(self) -> None:
        """Give up the open window, if there is one."""
        self._metering.abandon()

    def run(self, size: int, items: int, call: Callable[[str | int], _T]) -> _T:
        """Run one batch; `rest` comes after it.

        Args:
            size: its size.
            items: rows in it that are not padding.
            call: computes it in the variant given; what it raises passes through, and the window is given up.
        """
        self._take_cap()
        cap_w = None
        if self.cap is not None:
            self._doing("the power cap's source")
            cap_w = self.cap.current(self.now_s)
        chosen = self.decision.configuration
        variant = chosen.variant
        self._set_clock(chosen.clock_hz)
        metered = self._metering.meter is not None
        if metered:
            self._metering.open(size, variant)
        self._doing("a batch")
        start_s = self._clock()
        try:
            result = call(variant)
        except BaseException:
            self._metering.abandon()
            raise
        busy_s = self._clock() - start_s
        self._failed.ran(size)
        if self._guard:
            self._guard.observe(size, busy_s, variant)
            self._check_latency(size, variant)
        if metered:
            self._doing("the meter")
            self._account(size, variant, items, busy_s, cap_w)
        else:
            setting = (size, cap_w, _named(variant), self._clock_hz)
            self.recorder.count(start_s - self._origin_s, busy_s, items, setting)
        self._doing("")
        return result

    def _set_clock(self, clock_hz: float | None) -> None:
        """Change the clock, and begin a new window with it; where that fails, go on without this knob."""
        if self._clocks is None or clock_hz == self._clock_hz:
            return
        self._doing("the device's clock")
        self._metering.abandon()
        try:
            self._clocks.set(clock_hz)
            self._clock_hz = clock_hz
        except ClockError as error:
            self._clocks, self._clock_hz = None, None
            self._notices.once("clocks", f"{error}; the clock stays as it is, the batch size alone is chosen")

    def rest(self) -> None:
        """After a batch, and after its answers were delivered: pause where the cap demands it."""
        due, self._due = self._due, None
        if due is not None:
            due()
        self._note_change()

    def _account(self, size: int, variant: str | int, items: int, busy_s: float, cap_w: float | None) -> None:
        """A batch ran in the open window, if there is one."""
        window = self._metering.window
        if window is None:
            return
        self._metering.account(size, variant, items, busy_s)
        if window.metered:
            self._settle_window(window, busy_s, cap_w)
        else:
            self._metering.window = None
            self._record(window, busy_s, None, cap_w)

    def _settle_window(self, window: Window, busy_s: float, cap_w: float | None) -> None:
        """After a batch: close the window where it is long enough, and note what pause is due."""
        covered = self._metering.covered(window)
        if not self.throttled or cap_w is None:
            if covered:
                self._close(window, cap_w)
            return
        if self._throttle.idle_w is None or (covered and not window.pause_s):
            self._close(window, cap_w, pause=True)
        else:
            self._due = partial(self._pause_within, window, self._throttle.owed_s(busy_s, cap_w), cap_w)

    def _pause_within(self, window: Window, pause_s: float, cap_w: float) -> None:
        """Pause inside of the window, which is too short to end at each batch."""
        self._pause(pause_s)
        window.pause_s += pause_s
        if self._metering.covered(window):
            self._close(window, cap_w)

    def _close(self, window: Window, cap_w: float | None, *, pause: bool = False) -> None:
        """Close the window and let the policy decide; with ``pause``, a pause is read apart and both count as one."""
        reading = self._metering.close(window)
        if reading is None:
            self._record(window, self._clock() - window.start_s, None, cap_w)
            return
        power_w = self._metering.told(reading, window)
        if not self._metering.known:
            self._record(window, reading.seconds, None, cap_w)
            return
        if self._metering.full(reading):
            self._step(window, power_w, reading.peak_w, cap_w)
        joules = None if power_w is None else reading.joules
        if pause and cap_w is not None and joules is not None:
            self._due = partial(self._pause_apart, window, reading, joules, cap_w)
        else:
            self._record(window, reading.seconds, joules, cap_w, reading.peak_w)

    def _pause_apart(self, window: Window, reading: Reading, joules: float, cap_w: float) -> None:
        """Pause with a meter's window of its own, and record batch and pause as one."""
        rest_s = rest_j = 0.0
        assert self._metering.meter is not None
        try:
            rest_s, rest_j = self._throttle.rest_metered(self._metering.meter, window.busy_s, cap_w)
        except MeterError as error:
            self._metering.lost(error)
        self._record(window, reading.seconds + rest_s, joules + rest_j, cap_w, reading.peak_w)

    def _step(self, window: Window, power_w: float | None, peak_w: float | None, cap_w: float | None) -> None:
        """Let the policy take the reading."""
        if power_w is None or cap_w is None:
            return
        active_w = self._throttle.active(power_w, window)
        ran = Configuration(*window.main, clock_hz=self._clock_hz) if window.typical else None
        if ran is not None and ran.batch == self._sizes[0]:
            self._throttle.active_w = active_w
        telemetry = Telemetry(
            ran,
            power_w=active_w,
            peak_w=peak_w,
            t_s=self.now_s,
            seconds=self._clock() - window.start_s,
            batches=window.batches,
            batch_s=window.busy_s / window.batches,
            items=window.items,
            largest=self._largest if self._largest < self._sizes[-1] else None,
            latency_s=window.longest_s,
            sensor_window_s=self._metering.window_s,
            age_s=window.age_s,
            whole=True,
        )
        decision = self._policy.step(telemetry, cap_w)
        if self.throttled:
            self._notices.once(
                "smallest",
                f"even the smallest batch size, {decision.batch}, draws {active_w:.4g} W, more than the cap of "
                f"{cap_w:.4g} W; pausing between batches keeps the mean to it",
            )
        else:  # the fault has ended; another one is said anew
            self._notices.forget("smallest", "idle")
            if decision.fault is not None:
                self._notices.once("meter", decision.fault)
        if decision.fault is None:
            self._notices.forget("meter")

    def _pause(self, seconds: float) -> None:
        self._metering.announce(0)
        self._sleep(seconds)

    def _record(
        self, window: Window, seconds: float, joules: float | None, cap_w: float | None, peak_w: float | None = None
    ) -> None:
        power_w = None if joules is None or seconds <= 0 else joules / seconds
        meter = self._metering.meter
        self.recorder.add(
            Sample(
                t_s=window.start_s - self._origin_s,
                seconds=seconds,
                batch=window.main[0],
                batches=window.batches,
                items=window.items,
                power_w=power_w,
                peak_w=peak_w if peak_w is not None else power_w,
                cap_w=cap_w,
                power_source=meter.source if meter is not None and power_w is not None else None,
                variant=_named(window.main[1]),
                clock_hz=self._clock_hz,
            )
        )

    def _note_change(self) -> None:
        decision, before = self.decision, self._before
        after = decision.configuration
        if after is before:
            return
        other = after.variant != before.variant
        if after.batch != before.batch or other:
            change = BatchChange(self.now_s, before.batch, after.batch, decision.reason, _named(after.variant))
            self.recorder.change(change, of_variant=other)
            _log.info("%s -> %s: %s", before, after, decision.reason)
            self._before = after

    def _check_latency(self, size: int, variant: str | int) -> None:
        if self._guard and size == self._sizes[0] and not self._guard.meets(size, variant):
            self._notices.once(
                "latency", f"even the smallest batch size, {size}, takes longer than the latency objective"
            )


def _named(variant: str | int) -> str | None:
    """A variant as it is shown: None where there is one only."""
    return variant if isinstance(variant, str) else None
