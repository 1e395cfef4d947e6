"""A simulated meter: power by batch size, from a file. For trying policies and caps on any machine.

The file is TOML or JSON with a table ``watts`` (batch size to watts; other sizes are interpolated) and optionally
``idle_w`` (watts while nothing runs, default 0) and ``window_s`` (the meter's window, default 0)::

    idle_w = 20
    [watts]
    1 = 40
    2 = 60
    4 = 95
    8 = 150

``[variants]`` says by what factor a variant of the graph draws more or less above idle (``frugal = 0.8``; 1 for those
not named). A file that is nothing but such pairs (``{"1": 40, "8": 150}``) is taken as the table.
"""

from __future__ import annotations

import bisect
import json
import math
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import MeterError, Reading


class ScriptedMeter:
    """Reads the watts of its script for the batch size that the session last announced. Source: ``simulated``.

    Args:
        watts: power by batch size, in watts.
        idle_w: power while no batch runs (announced as batch size 0).
        variants: factors on power above idle, by variant of the graph.
        window_s: over how many seconds a reading averages at least.
        clock: monotonic seconds.

    Raises:
        MeterError: no sizes, or a value that is not a finite number of watts from 0 up.
    """

    name = "scripted"
    source: EnergySource = "simulated"

    def __init__(
        self,
        watts: Mapping[int, float],
        *,
        idle_w: float = 0.0,
        window_s: float = 0.0,
        variants: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not watts or min(watts) < 1:
            raise MeterError("a scripted meter needs watts for batch sizes from 1 up")
        self.variants = dict(variants or {})
        for value in (*watts.values(), *self.variants.values(), idle_w, window_s):
            if not math.isfinite(value) or value < 0:
                raise MeterError(f"a scripted meter's values must be finite and at least 0, not {value}")
        self.watts = dict(watts)
        self.idle_w = idle_w
        self.window_s = window_s
        self._clock = clock
        self._size = 0
        self._variant: str | int = 0
        self._start: float | None = None
        self._since = 0.0
        self._joules = 0.0

    def batch(self, size: int, variant: str | int = 0) -> None:
        """The session announces the batch size and variant that run from now on; 0 where nothing runs."""
        self._accrue()
        self._size, self._variant = size, variant

    def begin(self) -> None:
        """Open a window."""
        self._start = self._since = self._clock()
        self._joules = 0.0

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window.

        Raises:
            MeterError: none is open.
        """
        if self._start is None:
            raise MeterError("the meter's window was ended before it was begun")
        self._accrue()
        seconds, self._start = self._since - self._start, None
        return Reading(seconds, self._joules, self.source)

    def close(self) -> None:
        """Nothing to release."""

    def _accrue(self) -> None:
        now = self._clock()
        self._joules += self.power_w(self._size, self._variant) * (now - self._since)
        self._since = now

    def power_w(self, size: int, variant: str | int = 0) -> float:
        """Watts at a batch size: those of the script, a straight line between its sizes, level beyond them."""
        if size == 0:
            return self.idle_w
        factor = self.variants.get(str(variant), 1.0)
        return self.idle_w + factor * (self._scripted_w(size) - self.idle_w)

    def _scripted_w(self, size: int) -> float:
        sizes = sorted(self.watts)
        index = bisect.bisect_left(sizes, size)
        if index == len(sizes) or sizes[index] == size or index == 0:
            return self.watts[sizes[min(index, len(sizes) - 1)]]
        low, high = sizes[index - 1], sizes[index]
        share = (size - low) / (high - low)
        return self.watts[low] * (1 - share) + self.watts[high] * share


def read_script(path: str | Path, clock: Callable[[], float] = time.perf_counter) -> ScriptedMeter:
    """A meter from a file (see the module's text for its form).

    Raises:
        MeterError: the file cannot be read or does not have that form.
    """
    file = Path(path)
    try:
        text = file.read_text()
        data = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except OSError as error:
        raise MeterError(f"cannot read the meter's script {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise MeterError(f"the meter's script {file} is neither TOML nor JSON: {error}") from error
    try:
        table = data.get("watts", data)
        watts = {int(size): float(value) for size, value in table.items()}
        idle_w = float(data.get("idle_w", 0.0))
        window_s = float(data.get("window_s", 0.0))
        variants = {str(name): float(factor) for name, factor in data.get("variants", {}).items()}
        return ScriptedMeter(watts, idle_w=idle_w, window_s=window_s, variants=variants, clock=clock)
    except (AttributeError, TypeError, ValueError, MeterError) as error:
        raise MeterError(f"the meter's script {file} must map batch sizes to watts: {error}") from error
