"""Pauses between batches, where even the smallest one exceeds the cap."""

from __future__ import annotations

from collections.abc import Callable

from joulec.profiler.candidate import Work
from joulec.profiler.meter import Meter
from joulec.runtime.notices import Notices
from joulec.runtime.window import Window

_LONGEST_PAUSE_S = 1.0
_HARDLY_ANY = Work(flops=1.0, dram_bytes=0.0)  # an estimate without any work declines to tell


class Throttle:
    """How long to pause after a batch so that the mean power over both keeps to the cap.

    Attributes:
        active_w: what the smallest batch draws; None where that was not seen yet.
        idle_w: what the device draws at rest; None where that was not seen yet.

    Args:
        notices: what the user is told.
        pause: waits for seconds, less when the session is closed.
    """

    def __init__(self, notices: Notices, pause: Callable[[float], None]) -> None:
        self.active_w: float | None = None
        self.idle_w: float | None = None
        self._notices = notices
        self._pause = pause

    def exceeds(self, cap_w: float) -> bool:
        """Whether the smallest batch is known to draw more than the cap."""
        return self.active_w is not None and self.active_w > cap_w

    def owed_s(self, busy_s: float, cap_w: float) -> float:
        """Pause after so many seconds of batches that brings the mean power over both down to the cap."""
        if self.active_w is None or self.active_w <= cap_w:
            return 0.0
        idle_w = self.idle_w or 0.0
        if idle_w >= cap_w:
            self._notices.once("idle", f"idle power, {idle_w:.4g} W, already exceeds the cap of {cap_w:.4g} W")
            return _LONGEST_PAUSE_S
        return busy_s * (self.active_w - cap_w) / (cap_w - idle_w)

    def active(self, power_w: float, window: Window) -> float:
        """What the batches of a window alone drew, given the mean over batches and pauses."""
        if not window.pause_s or self.idle_w is None:
            return power_w
        whole_s = window.busy_s + window.pause_s
        return (power_w * whole_s - self.idle_w * window.pause_s) / window.busy_s

    def rest_metered(self, meter: Meter, busy_s: float, cap_w: float) -> tuple[float, float]:
        """Pause for what is owed, with a meter's window of its own, which tells idle power.

        Returns:
            Seconds and joules of the pause.

        Raises:
            MeterError: the sensor cannot be read.
        """
        owed_s = self.owed_s(busy_s, cap_w)
        rest_s = rest_j = 0.0
        for _ in range(2 if owed_s else 0):  # the first pause assumed an idle power that it then measured
            still_s = max(owed_s - rest_s, 0.0 if rest_s else meter.window_s)
            meter.begin()
            self._pause(still_s)
            resting = meter.end(_HARDLY_ANY)
            if resting.joules is None or not resting.seconds:
                break
            rest_s, rest_j = rest_s + resting.seconds, rest_j + resting.joules
            self.idle_w = rest_j / rest_s
            owed_s = self.owed_s(busy_s, cap_w)
            if owed_s <= rest_s:
                break
        return rest_s, rest_j
