"""Windows of a meter kept in a file, and a meter that gives them again.

The file is JSON Lines: a header ``{"joulec_meter": NAME, "source": SOURCE, "window_s": SECONDS}``, then a line for each
window: seconds, joules, source, peak_w, spread, and the work done in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import Meter, MeterError, Reading

_HEADER = "joulec_meter"


def start_recording(file: Path, meter: Meter) -> None:
    """Begin a recording, in place of what the file held.

    Raises:
        MeterError: it cannot be written.
    """
    header = {_HEADER: meter.name, "source": meter.source, "window_s": meter.window_s}
    _write(file, header, "w")


class RecordingMeter:
    """Passes a meter's readings on and appends each to a file begun by `start_recording`.

    Args:
        inner: the meter.
        file: the recording.
    """

    def __init__(self, inner: Meter, file: Path) -> None:
        self._inner = inner
        self._file = file
        self.name, self.source, self.window_s = inner.name, inner.source, inner.window_s

    def __getattr__(self, name: str) -> Any:
        """What else the meter has (constants of an estimate, conditions, periods of its sensor)."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def begin(self) -> None:
        """Open a window."""
        self._inner.begin()

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window and record it.

        Raises:
            MeterError: the meter failed, or the file cannot be written.
        """
        reading = self._inner.end(work)
        _write(self._file, {**asdict(reading), "work": asdict(work)}, "a")
        return reading

    def close(self) -> None:
        """Close the meter."""
        self._inner.close()


def _write(file: Path, line: dict[str, Any], mode: str) -> None:
    try:
        with file.open(mode, encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
    except OSError as error:
        raise MeterError(f"cannot record to {file}: {error.strerror or error}; free space or name another") from error


class ReplayMeter:
    """Gives the power of recorded windows again, over windows as long as they are now. Source: ``replay``.

    Windows are looked up by the proportions of the work done in them (arithmetic to bytes), those of equal proportions
    in the order in which they were recorded, over and over: so it does not matter in which process, or how often, a
    candidate is measured. Work that the recording has not seen is an error, never a guess.

    Args:
        file: a recording.
        clock: monotonic seconds.

    Raises:
        MeterError: the file cannot be read, or is no recording.
    """

    name = "replay"
    source: EnergySource = "replay"

    def __init__(self, file: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self._file, self._clock = file, clock
        self._start_s: float | None = None
        self._windows: dict[tuple[float, ...], list[Reading]] = {}
        self._given: dict[tuple[float, ...], int] = {}
        header, *lines = _lines(file)
        try:
            self.recorded, self.window_s = str(header[_HEADER]), float(header["window_s"])
            for line in lines:
                key = _proportions(Work(**line.pop("work")))
                reading = Reading(**line)
                if reading.source not in get_args(EnergySource):
                    raise ValueError(f"unknown source {reading.source!r}")
                self._windows.setdefault(key, []).append(reading)
        except (KeyError, TypeError, ValueError) as error:
            raise MeterError(
                f"{file} is no recording of a meter: {error!r}; make one with --meter record:FILE"
            ) from error
        if not self._windows:
            raise MeterError(f"the recording {file} holds no windows")

    def begin(self) -> None:
        """Open a window."""
        self._start_s = self._clock()

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window.

        Raises:
            MeterError: no window is open, or the recording holds none of such work.
        """
        if self._start_s is None:
            raise MeterError("end() without begin(): the replay meter has no window open")
        seconds, self._start_s = self._clock() - self._start_s, None
        key = _proportions(work)
        if key not in self._windows:
            raise MeterError(
                f"the recording {self._file} holds no window of such work: record the same command on the same model"
            )
        count = self._given[key] = self._given.get(key, -1) + 1
        reading = self._windows[key][count % len(self._windows[key])]
        joules = None if reading.power_w is None else reading.power_w * seconds
        return Reading(seconds, joules, self.source, reading.peak_w, reading.spread)

    def close(self) -> None:
        """Nothing to release."""
        self._start_s = None


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise MeterError(f"cannot read the recording {file}: {error}") from error
    if not found or not all(isinstance(line, dict) for line in found) or _HEADER not in found[0]:
        raise MeterError(f"{file} is no recording of a meter; make one with --meter record:FILE")
    return found


def _proportions(work: Work) -> tuple[float, ...]:
    """What stays the same however often the work is done, to six digits."""
    parts = (work.flops, work.dram_bytes, work.cache_bytes, work.register_bytes)
    total = sum(parts)
    return tuple(float(f"{part / total:.6g}") for part in parts) if total else (0.0,) * len(parts)
