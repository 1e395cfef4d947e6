"""The meter's contract."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work

Every = Callable[[float, Callable[[], object]], Callable[[], None]]
"""Calls something every so many seconds until the function that it returns is called."""


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
        spread: half width of the 95% confidence interval of the joules that the sensor's steps and the scatter of its
            readings leave, relative to them, for a load that was steady; None where the meter does not know.
        age_s: how old the newest value of the sensor was at the end of the window, in seconds, where the meter knows.
    """

    seconds: float
    joules: float | None
    source: EnergySource
    peak_w: float | None = None
    spread: float | None = None
    age_s: float = 0.0

    @property
    def power_w(self) -> float | None:
        """Mean power over the window in watts."""
        return None if self.joules is None or self.seconds <= 0 else self.joules / self.seconds


class Meter(Protocol):
    """Measures windows. ``begin`` and ``end`` come in pairs; the caller synchronises the device before both."""

    @property
    def name(self) -> str:
        """How the user names it: ``nvml``, ``rapl``, ``zeus``, ``estimate``…"""

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


@runtime_checkable
class PartTime(Protocol):
    """A meter whose sensor sees only the last ``average_s`` of each ``update_s``: periodic work may alias with that."""

    @property
    def update_s(self) -> float:
        """Seconds between readings."""

    @property
    def average_s(self) -> float:
        """Seconds before each update over which a reading averages."""


@dataclass(frozen=True)
class Conditions:
    """The state of the device; None where it cannot be read.

    Attributes:
        temperature_c: its temperature.
        clock_mhz: its compute clock.
        throttled: why it runs slower than it was asked to (heat, a power brake), empty where it does not.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    throttled: str = ""


@runtime_checkable
class Watching(Protocol):
    """A meter that can also tell the state of its device."""

    def conditions(self) -> Conditions:
        """The state now. What cannot be read is None; never fails."""


@runtime_checkable
class Occupied(Protocol):
    """A meter that can also tell how much of the time its device is in use."""

    def utilization(self) -> float | None:
        """Share of the time just past in which something ran; None where the device does not tell."""


def every_in_thread(period_s: float, call: Callable[[], object]) -> Callable[[], None]:
    """Call something every ``period_s`` on a thread of its own; returns what ends that and waits for the thread."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(period_s):
            call()

    thread = threading.Thread(target=loop, name="joulec-sampling", daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    return stop
