"""Against what never comes back: a kernel, a meter, the source of a cap."""

from __future__ import annotations

import threading
from collections.abc import Callable

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import Meter, MeterError, Reading
from joulec.runtime.thread import CallHangs, CallThread

SENSORS = ("nvml", "rapl", "zeus")
"""Sources of energy that are read from a device, and so may hang."""

_METER_S = 2.0
_LOOKS = 8
_LONGEST_LOOK_S = 1.0


class BatchHangs(TimeoutError):
    """A batch has been running for longer than ``batch_timeout_s``: its requests have failed."""


class WatchedMeter:
    """A meter whose calls are made on a thread of their own, and given up after two seconds.

    While a call that was given up has not come back, the meter answers with a `MeterError` at once.

    Args:
        meter: the meter; `close` closes it, unless it hangs.
        timeout_s: how long a call may take, in seconds.
    """

    def __init__(self, meter: Meter, timeout_s: float = _METER_S) -> None:
        self._meter = meter
        self._timeout_s = timeout_s
        self._thread = CallThread("joulec-meter")
        self._lost: threading.Event | None = None
        self._closed = False

    @property
    def name(self) -> str:
        return self._meter.name

    @property
    def source(self) -> EnergySource:
        return self._meter.source

    @property
    def window_s(self) -> float:
        return self._meter.window_s

    def begin(self) -> None:
        self._call(self._meter.begin)

    def end(self, work: Work = NO_WORK) -> Reading:
        reading: list[Reading] = []
        self._call(lambda: reading.append(self._meter.end(work)))
        return reading[0]

    def _call(self, work: Callable[[], None]) -> None:
        if self._closed:
            raise MeterError(f"the meter {self.name} is closed")
        if self._lost is not None and not self._lost.is_set():
            raise MeterError(f"the meter {self.name} still does not answer")
        back = threading.Event()

        def watched() -> None:
            try:
                work()
            finally:
                back.set()

        try:
            self._thread.call(watched, self._timeout_s)
        except CallHangs as error:
            self._lost = back
            raise MeterError(f"the meter {self.name} does not answer: {error}") from error

    def close(self) -> None:
        """Close the meter, unless it hangs. Idempotent."""
        if self._closed:
            return
        try:
            self._call(self._meter.close)
        except MeterError:
            if self._lost is None or self._lost.is_set():
                raise
        finally:
            self.release()

    def release(self) -> None:
        """End the thread and leave the meter open."""
        self._closed = True
        self._thread.stop(0.0)


class Watch:
    """Looks from a thread of its own at what another one is doing, and says when that takes too long.

    Args:
        limit_s: how long one thing may take, in seconds.
        clock: monotonic seconds.
        hangs: told what is being done and for how many seconds, again and again while it lasts.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float], hangs: Callable[[str, float], None]) -> None:
        self.limit_s = limit_s
        self._clock = clock
        self._hangs = hangs
        self._doing: tuple[str, float] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="joulec-watch", daemon=True)
        self._thread.start()

    def begin(self, what: str) -> None:
        """The watched thread begins something; what it did before is over."""
        self._doing = what, self._clock()

    def end(self) -> None:
        """The watched thread does nothing that could hang."""
        self._doing = None

    @property
    def hanging(self) -> bool:
        """Whether the limit has passed."""
        doing = self._doing
        return doing is not None and self._clock() - doing[1] > self.limit_s

    def _look(self) -> None:
        while not self._over.wait(min(self.limit_s / _LOOKS, _LONGEST_LOOK_S)):
            doing = self._doing
            if doing is not None and self._clock() - doing[1] > self.limit_s:
                self._hangs(doing[0], self._clock() - doing[1])

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()
