"""GPU energy through NVML. Millijoules and milliwatts become SI units here."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import pynvml

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import Conditions, Every, MeterError, Reading, every_in_thread
from joulec.profiler.meters.series import readings, staircase

Sensor = Literal["counter", "power", "instant"]
"""The energy counter, the power reading, or instant power (a field value)."""

COUNTER_WINDOW_S = 0.5
"""The energy counter steps every 20 to 100 ms: five steps at least, between which it is exact."""
POLL_S = 0.005
"""How often a sensor is looked at; a call itself takes up to 20 ms."""
_STUCK_S = 0.4
"""A counter that has not moved for so long stands still: no GPU draws nothing."""
_PART_TIME = frozenset({(8, 0), (9, 0)})
"""Compute capabilities whose power readings average 25 of every 100 ms (A100, H100; Yang et al. 2024, "Part-time Power
Measurements: nvidia-smi's Lack of Attention")."""

_SLOWED = (
    (pynvml.nvmlClocksEventReasonSwThermalSlowdown, "heat"),
    (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, "heat (hardware)"),
    (pynvml.nvmlClocksThrottleReasonHwSlowdown, "hardware slowdown"),
    (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"),
)

_REMEDIES: dict[int, str] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the NVIDIA driver (it brings libnvidia-ml.so.1); in a container, "
    "start it with `--gpus all` and the driver capability `utility`",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the driver (`modprobe nvidia`) or reboot after installing it",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and kernel module have different versions: reboot, or reload "
    "the nvidia kernel module",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open the GPU: check the permissions of /dev/nvidia*, in a "
    "container start it with `--gpus all`",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "this GPU has no such sensor: use --meter estimate",
    pynvml.NVML_ERROR_GPU_IS_LOST: "the GPU has fallen off the bus: reboot the machine",
    pynvml.NVML_ERROR_INVALID_ARGUMENT: "no GPU has this number: `joulec devices` lists those there are",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the driver is too old for this query: update it",
}


@contextmanager
def nvml_errors(action: str) -> Iterator[None]:
    """Turn NVML's errors into `MeterError`: what was tried, what NVML says, what to do."""
    try:
        yield
    except pynvml.NVMLError as error:
        remedy = _REMEDIES.get(error.value, "check that `nvidia-smi` works, or use --meter estimate")
        raise MeterError(f"NVML cannot {action}: {error}; {remedy}") from error


@contextmanager
def nvml_session() -> Iterator[None]:
    """NVML initialised; sessions nest.

    Raises:
        MeterError: there is no library or driver.
    """
    with nvml_errors("start"):
        pynvml.nvmlInit()
    try:
        yield
    finally:
        with nvml_errors("shut down"):
            pynvml.nvmlShutdown()


class NvmlMeter:
    """Energy of one GPU, from one of its sensors, which is looked at all through a window.

    Attributes:
        sensor: ``counter`` (Volta and newer), ``power`` or ``instant``.
        update_s: seconds between the sensor's updates.
        average_s: seconds before each update that it sees; the counter misses nothing.
        window_s: how long a window must be to hold some updates of its own.
    """

    name = "nvml"
    source: EnergySource = "nvml"

    def __init__(
        self,
        index: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        *,
        sensor: Sensor | None = None,
        every: Every = every_in_thread,
    ) -> None:
        """Open GPU ``index`` (NVML's order: by PCI bus, whatever CUDA_VISIBLE_DEVICES says).

        Args:
            index: which GPU.
            clock: monotonic seconds.
            sensor: which sensor (`joulec.profiler.meters.nvml_check.check_sensors` finds the one to trust); the
                counter where there is one, else the power reading, when omitted.
            every: calls a function again and again beside the work (a thread).

        Raises:
            MeterError: no library, driver or GPU, or no such sensor; the message says what to do.
        """
        self._clock = clock
        self._every = every
        self._samples: list[tuple[float, float]] = []
        self._error: MeterError | None = None
        self._stop: Callable[[], None] | None = None
        self._start_s: float | None = None
        self._open = False
        with nvml_errors("start"):
            pynvml.nvmlInit()
        self._open = True
        try:
            with nvml_errors(f"open GPU {index}"):
                self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            self.sensor: Sensor = sensor or ("counter" if self.has_counter() else "power")
            self._describe()
            self.read(self.sensor)
        except MeterError:
            self.close()
            raise

    def _describe(self) -> None:
        with nvml_errors("tell the GPU's architecture"):
            self.capability: tuple[int, ...] = tuple(pynvml.nvmlDeviceGetCudaComputeCapability(self._handle))
        self.update_s, self.average_s = averaging(self.capability, self.sensor)
        self.window_s = COUNTER_WINDOW_S if self.sensor == "counter" else self.average_s + 2.5 * self.update_s

    def has_counter(self) -> bool:
        """Whether the GPU has an energy counter.

        Raises:
            MeterError: it has one that cannot be read.
        """
        with nvml_errors("read the GPU's energy counter"):
            try:
                pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
                return False
        return True

    def read(self, sensor: Sensor) -> float:
        """A sensor's value now: joules of the counter, watts of the others.

        Raises:
            MeterError: it cannot be read.
        """
        if sensor == "counter":
            with nvml_errors("read the GPU's energy counter"):
                return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) * 1e-3
        if sensor == "power":
            with nvml_errors("read the GPU's power"):
                return float(pynvml.nvmlDeviceGetPowerUsage(self._handle)) * 1e-3
        with nvml_errors("read the GPU's instant power"):
            (value,) = pynvml.nvmlDeviceGetFieldValues(self._handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
            if value.nvmlReturn != pynvml.NVML_SUCCESS:
                raise pynvml.NVMLError(value.nvmlReturn)
            return float(value.value.uiVal) * 1e-3

    def _poll(self) -> None:
        if self._error is not None:
            return
        before_s = self._clock()
        try:
            value = self.read(self.sensor)
        except MeterError as error:
            self._error = error
            return
        self._samples.append(((before_s + self._clock()) / 2, value))

    def begin(self) -> None:
        """Open a window; a window still open is dropped.

        Raises:
            MeterError: the sensor cannot be read.
        """
        self._drop()
        self._samples, self._error = [], None
        if self.sensor == "counter":
            self._poll()
            self._raise()
        self._start_s = self._clock()
        self._stop = self._every(POLL_S, self._poll)

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window; the work is ignored.

        Raises:
            MeterError: no window is open, or the sensor could not be read, stood still or went backwards in it.
        """
        if self._start_s is None:
            raise MeterError("end() without begin(): the NVML meter has no window open")
        start_s, end_s = self._start_s, self._clock()
        self._drop()
        if not self._samples or self._samples[-1][0] < end_s:
            self._poll()
        self._raise()
        seconds = end_s - start_s
        if self.sensor == "counter":
            self._check_counter(seconds)
            energy = staircase(self._samples, start_s, end_s)
            return Reading(seconds, energy.joules, self.source, spread=energy.spread)
        energy = readings(self._samples, start_s, end_s, self.update_s, self.average_s)
        peak_w = max(watts for _, watts in self._samples)
        return Reading(seconds, energy.joules, self.source, peak_w, energy.spread)

    def _check_counter(self, seconds: float) -> None:
        values = [joules for _, joules in self._samples]
        if any(after < before for before, after in itertools.pairwise(values)):
            raise MeterError(
                "the GPU's energy counter went backwards (the driver was reloaded or the GPU reset): measure again"
            )
        if seconds >= _STUCK_S and values[0] == values[-1]:
            raise MeterError(
                f"the GPU's energy counter stood still for {seconds:.1f} s: reload the driver, or start joulec again, "
                "which checks the counter against the power readings and uses those"
            )

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def conditions(self) -> Conditions:
        """Temperature, SM clock and why it is slowed down, as far as NVML tells."""
        celsius = _optional(lambda: pynvml.nvmlDeviceGetTemperature(self._handle, pynvml.NVML_TEMPERATURE_GPU))
        mhz = _optional(lambda: pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_SM))
        mask = _optional(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)) or 0
        return Conditions(celsius, mhz, ", ".join(text for bit, text in _SLOWED if mask & bit))

    def utilization(self) -> float | None:
        """Share of the time in which a kernel ran, as NVML tells it; None where it does not."""
        percent = _optional(lambda: pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        return None if percent is None else percent / 100

    def _drop(self) -> None:
        stop, self._stop, self._start_s = self._stop, None, None
        if stop is not None:
            stop()

    def close(self) -> None:
        """Release NVML; a second call does nothing.

        Raises:
            MeterError: NVML cannot shut down.
        """
        if not self._open:
            return
        self._open = False
        self._drop()
        with nvml_errors("shut down"):
            pynvml.nvmlShutdown()


def averaging(capability: tuple[int, ...], sensor: Sensor) -> tuple[float, float]:
    """Seconds between a sensor's updates, and over how many it averages, by compute capability.

    25 of every 100 ms on A100 and H100, the last 20 ms before Ampere, else the last second (NVML's documentation of
    ``nvmlDeviceGetPowerUsage``; Yang et al. 2024).
    """
    if sensor == "counter":
        return 0.1, 0.1
    if capability in _PART_TIME:
        return 0.1, 0.025
    if capability < (8, 0):
        return 0.02, 0.02
    return (0.1, 0.1) if sensor == "instant" else (0.1, 1.0)


def _optional(query: Callable[[], int]) -> int | None:
    """What is nice to know and not to be had on every GPU."""
    try:
        return query()
    except pynvml.NVMLError:
        return None
