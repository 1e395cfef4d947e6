"""What a session believes of a sensor that fails, and of batch sizes that fail; and when either is tried again.

Where the line to `joulec.runtime.policies.guarded` runs: `GuardedPolicy` judges telemetry. It knows no device and no
clock, serves the simulator too, and says what runs while a reading is stale or stuck or a cap absurd. What is here
judges raw readings, which never become telemetry where they are no numbers, and decides when a device that failed is
asked again. `FailedSizes` holds with and without a cap, where no policy is asked; a policy hears of it by the largest
size allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from joulec.profiler.meter import Reading

_WELL = 3
"""Readings in a row that make sense before a sensor that failed is believed again."""
_STUCK_READINGS = 4
_EQUAL = 1e-6
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 10.0


class SensorHealth:
    """Judges a meter's readings.

    A reading is wrong where its power is not finite or is negative, and, of a sensor, where it is zero although a batch
    ran, or where four or more readings are equal to six digits although the batch size changed among them: a sensor's
    noise alone would tell them apart. After a failure the sensor is left alone for half a second, then for twice as
    long each time, up to ten seconds; three sensible readings in a row end the fault.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wait_s = _FIRST_WAIT_S
        self._next_s = -math.inf
        self._good = _WELL
        self._power_w = math.nan
        self._equal = 0
        self._sizes: set[int] = set()

    @property
    def due(self) -> bool:
        """Whether the meter may be asked now."""
        return self._clock() >= self._next_s

    @property
    def well(self) -> bool:
        """Whether the last readings made sense."""
        return self._good >= _WELL

    def fail(self) -> None:
        """The meter raised an error, or a reading was wrong."""
        self._good = 0
        self._next_s = self._clock() + self._wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)

    def judge(self, reading: Reading, size: int, *, measured: bool) -> str | None:
        """What is wrong with a reading; None where it makes sense.

        Args:
            reading: with a power that is not None.
            size: the batch size that ran.
            measured: whether it comes from a sensor.
        """
        power_w = reading.power_w
        assert power_w is not None
        if not math.isfinite(power_w) or power_w < 0:
            return f"it reads {power_w:g} W"
        if measured and (stuck := self._stuck(power_w, size)):
            return stuck
        self._good += 1
        if self.well:
            self._wait_s = _FIRST_WAIT_S
        return None

    def _stuck(self, power_w: float, size: int) -> str | None:
        if power_w == 0:
            return "it reads 0 W while batches run"
        if math.isclose(power_w, self._power_w, rel_tol=_EQUAL):
            self._equal += 1
            self._sizes.add(size)
        else:
            self._power_w, self._equal, self._sizes = power_w, 1, {size}
        if self._equal >= _STUCK_READINGS and len(self._sizes) > 1:
            return f"it has read {power_w:.6g} W {self._equal} times while the batch size changed"
        return None


class FailedSizes:
    """Batch sizes that fail. Each is left out, with all larger ones, for a second, then twice as long, up to a minute.

    Args:
        sizes: all batch sizes, ascending. The smallest is never left out.
        clock: monotonic seconds.
    """

    def __init__(self, sizes: Sequence[int], clock: Callable[[], float]) -> None:
        self._sizes = sizes
        self._clock = clock
        self._until_s: dict[int, float] = {}
        self._wait_s: dict[int, float] = {}

    def add(self, size: int) -> bool:
        """The size failed; whether that is news."""
        if size == self._sizes[0]:
            return False
        news = size not in self._wait_s
        self._wait_s[size] = wait_s = min(2 * self._wait_s.get(size, 0.5), 60.0)
        self._until_s[size] = self._clock() + wait_s
        return news

    def ran(self, size: int) -> None:
        """A batch of the size was computed: its fault is over."""
        if self._wait_s:
            self._wait_s.pop(size, None)
            self._until_s.pop(size, None)

    def __bool__(self) -> bool:
        """Whether any size is left out."""
        return bool(self._until_s)

    @property
    def largest(self) -> int:
        """The largest size below those that are left out now."""
        if not self._until_s:
            return self._sizes[-1]
        now_s = self._clock()
        out = min((size for size, until_s in self._until_s.items() if now_s < until_s), default=math.inf)
        return max(size for size in self._sizes if size < out)
