"""Energy of AMD GPUs, Apple silicon and NVIDIA Jetson through Zeus (https://ml.energy/zeus), an optional extra."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import MeterError, Reading

_WINDOW = "joulec"
_WHOLE = ("total_energy_mj",)
_PARTS = ("cpu_total_mj", "cpu_energy_mj", "dram_mj", "gpu_mj", "gpu_sram_mj", "gpu_energy_mj", "ane_mj")
"""Fields of Zeus's measurements of a system on a chip: its own total (Jetson), else the parts that do not overlap."""


class ZeusMeter:
    """Energy of the system on a chip where Zeus finds one, else of one of the GPUs that it finds.

    Args:
        index: which GPU.
        clock: monotonic seconds.

    Raises:
        MeterError: Zeus is not installed, finds nothing to read, or may not read it.
    """

    name = "zeus"
    source: EnergySource = "zeus"
    window_s = 0.5

    def __init__(self, index: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start_s: float | None = None
        self._monitor = _monitor(index)
        self._soc = bool(self._monitor.soc_is_present)
        if not self._soc and not self._monitor.gpu_indices:
            raise MeterError(
                "Zeus finds no AMD or NVIDIA GPU, Apple silicon or Jetson here; check that the vendor's driver library "
                "is installed (AMD: ROCm's amdsmi), or use --meter estimate"
            )

    def begin(self) -> None:
        """Open a window; a window still open is dropped.

        Raises:
            MeterError: the sensor cannot be read.
        """
        self._call(self._drop)
        self._call(lambda: self._monitor.begin_window(_WINDOW, sync_execution=False))
        self._start_s = self._clock()

    def _drop(self) -> None:
        if self._start_s is not None:
            self._start_s = None
            self._monitor.end_window(_WINDOW, sync_execution=False, cancel=True)

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window; the work is ignored.

        Raises:
            MeterError: no window is open, or the sensor cannot be read.
        """
        if self._start_s is None:
            raise MeterError("end() without begin(): the Zeus meter has no window open")
        seconds, self._start_s = self._clock() - self._start_s, None
        found = self._call(lambda: self._monitor.end_window(_WINDOW, sync_execution=False))
        joules = _soc_j(found.soc_energy) if self._soc else float(found.total_energy)
        return Reading(seconds, joules, self.source)

    def _call(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            raise MeterError(f"Zeus cannot read the energy: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Give up an open window; a second call does nothing."""
        self._call(self._drop)


def _monitor(index: int) -> Any:
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        raise MeterError(
            f"the meter zeus needs the package of that name ({error}): pip install 'joulec[zeus]'"
        ) from error
    try:
        everything = ZeusMonitor(gpu_indices=[], cpu_indices=[])
        indices = [index] if len(everything.gpus) > index else []
        return ZeusMonitor(gpu_indices=indices, cpu_indices=[]) if indices else everything
    except Exception as error:
        raise MeterError(f"Zeus cannot start: {type(error).__name__}: {error}") from error


def _soc_j(measurement: Any) -> float | None:
    """Joules of a window on a system on a chip; None where Zeus names none of its parts."""
    for names in (_WHOLE, _PARTS):
        parts = [value for name in names if (value := getattr(measurement, name, None)) is not None]
        if parts:
            return float(sum(parts)) * 1e-3
    return None
