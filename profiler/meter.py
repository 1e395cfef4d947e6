"""The meter's contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work


class MeterError(RuntimeError):
    """A meter that is not there, may not be read, or has failed. The message says what to do."""


@dataclass(frozen=True)
class Reading:
    """What a window cost.

    Attributes:
        seconds: length of the window on the monotonic clock.
        joules: energy in the window; None where the meter cannot tell without knowing the work done (estimate).
        source: where the joules come from.
        peak_w: highest power seen in the window, None where the meter has only a counter.
    """

    seconds: float
    joules: float | None
    source: EnergySource
    peak_w: float | None = None

    @property
    def power_w(self) -> float | None:
        """Mean power over the window in watts."""
        return None if self.joules is None or self.seconds <= 0 else self.joules / self.seconds


class Meter(Protocol):
    """Measures windows. ``begin`` and ``end`` come in pairs; the caller synchronises the device before both."""

    @property
    def name(self) -> str:
        """How the user names it: ``nvml``, ``rapl`` or ``estimate``."""

    @property
    def source(self) -> EnergySource:
        """The source that its joules carry."""

    @property
    def window_s(self) -> float:
        """Over how many seconds a reading averages at least; shorter windows say little."""

    def begin(self) -> None:
        """Open a window.

        Raises:
            MeterError: the sensor cannot be read.
        """

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window; the work done in it is what an estimate rests on, a sensor ignores it.

        Raises:
            MeterError: the sensor cannot be read.
        """

    def close(self) -> None:
        """Release the sensor."""
