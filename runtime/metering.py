"""A session's meter: its open window, and whether what it reads can be believed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import Meter, MeterError, Reading
from joulec.runtime.faults import SensorHealth
from joulec.runtime.notices import Notices
from joulec.runtime.watch import SENSORS
from joulec.runtime.window import BatchAware, Window

_log = logging.getLogger(__name__)

_IDLE_LIMIT_S = 1.0  # a window in which nothing ran for longer says nothing of a batch
_FULL = 0.99  # of a meter's window; its clock and ours are read at different moments


class Metering:
    """Opens and closes the meter's windows around batches. Used by one thread.

    Attributes:
        meter: None where there is none.
        window: the open one; without a meter it only counts.
        known: whether power is known.
        capped: whether there is a cap, for what the user is told.

    Args:
        meter: measures power; None where there is none.
        work: what one batch of a size does in a variant, None where that is not known.
        clock: monotonic seconds.
        notices: what the user is told.
    """

    def __init__(
        self,
        meter: Meter | None,
        work: Callable[[int, str | int], Work | None],
        clock: Callable[[], float],
        notices: Notices,
    ) -> None:
        self.meter = meter
        self.window: Window | None = None
        self.known = True
        self.capped = False
        self._work = work
        self._clock = clock
        self._notices = notices
        self._health = SensorHealth(clock)
        self._idle_since_s: float | None = None

    @property
    def window_s(self) -> float:
        """The meter's window; 0 without one."""
        return 0.0 if self.meter is None else self.meter.window_s

    def replace(self, meter: Meter) -> None:
        """A meter where there was none."""
        self.abandon()
        self.meter, self.known = meter, True

    def open(self, size: int, variant: str | int) -> None:
        """Make sure that a window is open for a batch of the size."""
        if self.window is not None and self._idle_since_s is not None:
            self.window.idle_s += self._clock() - self._idle_since_s
        self._idle_since_s = None
        self.announce(size, variant)
        if self.window is None:
            self.window = Window(self._clock())
            self.window.metered = self._begin()
            self.window.begun_s = self._clock()

    def _begin(self) -> bool:
        """Open the meter's window; False where there is none."""
        if self.meter is None or not self._health.due:
            return False
        try:
            self.meter.begin()
        except MeterError as error:
            self.lost(error)
            return False
        return True

    def account(self, size: int, variant: str | int, items: int, busy_s: float) -> None:
        """A batch ran in the open window."""
        window = self.window
        assert window is not None
        window.batches += 1
        window.items += items
        window.longest_s = max(window.longest_s, busy_s)
        window.busy[size, variant] = window.busy.get((size, variant), 0.0) + busy_s
        work = self._work(size, variant)
        if work is not None:
            window.work += work

    def covered(self, window: Window) -> bool:
        """Whether the window is as long as the meter needs."""
        return self._clock() - window.start_s >= self.window_s

    def full(self, reading: Reading) -> bool:
        """Whether a reading averages over the whole of the meter's window."""
        return reading.seconds >= self.window_s * _FULL

    def close(self, window: Window) -> Reading | None:
        """The reading of a window; None where the meter failed, which is said."""
        self.window = None
        assert self.meter is not None
        try:
            reading = self.meter.end(window.work)
        except MeterError as error:
            self.lost(error)
            return None
        late_s = self._clock() - (window.begun_s + reading.seconds)
        window.age_s = reading.age_s + max(late_s, 0.0)
        return reading

    def told(self, reading: Reading, window: Window) -> float | None:
        """Power over the window, None (and said so) where the reading does not tell it."""
        meter = self.meter
        assert meter is not None
        if reading.power_w is None or (window.work == NO_WORK and meter.source == "estimated"):
            if self.capped:
                self.unknown(f"the meter {meter.name} cannot tell it without knowing the work that a batch does")
            return None
        fault = self._health.judge(reading, window.main[0], measured=meter.source in SENSORS)
        if fault is not None:
            self.lost(MeterError(fault))
            return None
        if not self.known and self._health.well:
            self.known = True
            self._notices.forget("meter")
            _log.info("power is known again")
        return reading.power_w

    def abandon(self) -> None:
        """Give up the open window, if there is one."""
        window, self.window = self.window, None
        if window is None or self.meter is None or not window.metered:
            return
        try:
            self.meter.end()
        except MeterError as error:  # its reading is not wanted; a sensor that is gone shows when the next one opens
            _log.debug("a window that was given up could not be ended: %s", error)

    def idle(self) -> None:
        """Nothing runs at the moment."""
        now = self._clock()
        if self._idle_since_s is None:
            self._idle_since_s = now
            self.announce(0)
        elif now - self._idle_since_s > _IDLE_LIMIT_S:
            self.abandon()

    def announce(self, size: int, variant: str | int = 0) -> None:
        """Tell a simulated meter what runs from now on; 0: nothing."""
        meter: object = self.meter
        if meter is not None and isinstance(meter, BatchAware):
            meter.batch(size, variant)

    def lost(self, error: MeterError) -> None:
        """The meter failed: go on without it, and try it again after a while."""
        self._health.fail()
        if self.capped:
            self.unknown(f"the meter failed: {error}")
            return
        self.known = False
        self._notices.once("meter", f"the meter failed ({error}); power is not known until it recovers")

    def unknown(self, why: str) -> None:
        """Power is not known beneath a cap."""
        self.known = False
        self._notices.once(
            "meter", f"power is not known ({why}); the smallest batch size is kept to stay below the cap"
        )
