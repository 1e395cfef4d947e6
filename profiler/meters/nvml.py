"""GPU energy through NVML. Millijoules and milliwatts become SI units here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pynvml

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import MeterError, Reading

_COUNTER_WINDOW_S = 0.5
"""The energy counter steps every 20 to 100 ms: an error of at most a fifth, typically a twentieth, of this window."""
_SAMPLING_WINDOW_S = 2.0
"""From Ampere on a power reading is the mean of the last second."""
_SAMPLING_PERIOD_S = 0.02

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


class Trapezoid:
    """Power integrated over time.

    Attributes:
        joules: the integral so far.
        seconds: the time it spans.
        peak_w: the highest power seen.
    """

    def __init__(self, time_s: float, power_w: float) -> None:
        self.joules = 0.0
        self.peak_w = power_w
        self._first_s = self._last_s = time_s
        self._last_w = power_w

    def add(self, time_s: float, power_w: float) -> None:
        """Add a sample."""
        self.joules += 0.5 * (self._last_w + power_w) * (time_s - self._last_s)
        self.peak_w = max(self.peak_w, power_w)
        self._last_s, self._last_w = time_s, power_w

    @property
    def seconds(self) -> float:
        return self._last_s - self._first_s


class _PowerSampler:
    """A thread that samples power until it is told to stop."""

    def __init__(self, power_w: Callable[[], float], clock: Callable[[], float]) -> None:
        self._power_w = power_w
        self._clock = clock
        self._stop = threading.Event()
        self._error: MeterError | None = None
        first_w = power_w()
        self.integral = Trapezoid(clock(), first_w)
        self._thread = threading.Thread(target=self._loop, name="joulec-nvml", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stop.wait(_SAMPLING_PERIOD_S):
            try:
                self._sample()
            except MeterError as error:
                self._error = error
                return

    def _sample(self) -> None:
        power_w = self._power_w()
        self.integral.add(self._clock(), power_w)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def finish(self) -> Trapezoid:
        """Stop, take the last sample, and return the integral; raises what went wrong on the way."""
        self.stop()
        if self._error is not None:
            raise self._error
        self._sample()
        return self.integral


class NvmlMeter:
    """Energy of one GPU: its energy counter (Volta and newer), else its power, sampled and integrated.

    Attributes:
        counter: whether the GPU has the energy counter. Without it each window starts a thread that samples.
        window_s: 0.5 s with the counter, 2 s with sampled power (whose readings average over a second).
    """

    name = "nvml"
    source: EnergySource = "nvml"

    def __init__(self, index: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        """Open GPU ``index`` (NVML's order: by PCI bus, whatever CUDA_VISIBLE_DEVICES says).

        Raises:
            MeterError: no library, driver or GPU, or neither sensor; the message says what to do.
        """
        self._clock = clock
        self._start: tuple[float, float] | None = None
        self._sampler: _PowerSampler | None = None
        self._open = False
        with nvml_errors("start"):
            pynvml.nvmlInit()
        self._open = True
        try:
            with nvml_errors(f"open GPU {index}"):
                self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            self.counter = self._has_counter()
            if not self.counter:
                self._power_w()
        except MeterError:
            self.close()
            raise
        self.window_s = _COUNTER_WINDOW_S if self.counter else _SAMPLING_WINDOW_S

    def _has_counter(self) -> bool:
        with nvml_errors("read the GPU's energy counter"):
            try:
                pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
                return False
        return True

    def _energy_j(self) -> float:
        with nvml_errors("read the GPU's energy counter"):
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) * 1e-3

    def _power_w(self) -> float:
        with nvml_errors("read the GPU's power"):
            return float(pynvml.nvmlDeviceGetPowerUsage(self._handle)) * 1e-3

    def begin(self) -> None:
        """Open a window; a window still open is dropped.

        Raises:
            MeterError: the sensor cannot be read.
        """
        self._drop()
        if self.counter:
            joules = self._energy_j()
            self._start = (self._clock(), joules)
        else:
            self._sampler = _PowerSampler(self._power_w, self._clock)

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window; the work is ignored.

        Raises:
            MeterError: no window is open, or the sensor cannot be read.
        """
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            integral = sampler.finish()
            return Reading(integral.seconds, integral.joules, self.source, integral.peak_w)
        if self._start is None:
            raise MeterError("end() without begin(): the NVML meter has no window open")
        (start_s, start_j), self._start = self._start, None
        seconds = self._clock() - start_s
        return Reading(seconds, self._energy_j() - start_j, self.source)

    def _drop(self) -> None:
        sampler, self._sampler, self._start = self._sampler, None, None
        if sampler is not None:
            sampler.stop()

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
