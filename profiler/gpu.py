"""GPUs as NVML describes them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pynvml

from joulec.profiler.device import DeviceIdentity
from joulec.profiler.meter import MeterError
from joulec.profiler.meters.nvml import nvml_errors, nvml_session
from joulec.profiler.roofline import Roofline

_MOST_CORES = 32768
_HIGHEST_MHZ = 3500


def gpu_count() -> int:
    """How many GPUs NVML shows; zero where the driver's library is not installed.

    Raises:
        MeterError: the library is there but cannot be used (driver not loaded, versions differ).
    """
    with nvml_errors("start"):
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError_LibraryNotFound:
            return 0
    try:
        with nvml_errors("count the GPUs"):
            return int(pynvml.nvmlDeviceGetCount())
    finally:
        with nvml_errors("shut down"):
            pynvml.nvmlShutdown()


def require_cuda_driver() -> None:
    """Make sure that CUDA's own driver can be used by this process, which NVML does not tell.

    Raises:
        MeterError: its library is missing, or finds no GPU; the message says what to do.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise MeterError(
            f"CUDA cannot start: {error}; install the NVIDIA driver (it brings libcuda.so.1); in a container, start it "
            "with `--gpus all` and the driver capability `compute`"
        ) from error
    code = driver.cuInit(0)
    if code:
        raise MeterError(f"CUDA cannot start: cuInit answers {code}; does CUDA_VISIBLE_DEVICES hide the GPU?")


def local_gpu(index: int = 0) -> DeviceIdentity:
    """GPU ``index`` (NVML's order: by PCI bus).

    Raises:
        MeterError: there is no such GPU, or NVML cannot be used; the message says what to do.
    """
    with nvml_session():
        with nvml_errors(f"open GPU {index}"):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            model = str(pynvml.nvmlDeviceGetName(handle))
            driver = str(pynvml.nvmlSystemGetDriverVersion())
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        limit_mw = _optional(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        sm_mhz = _optional(lambda: pynvml.nvmlDeviceGetApplicationsClock(handle, pynvml.NVML_CLOCK_SM))
        memory_mhz = _optional(lambda: pynvml.nvmlDeviceGetApplicationsClock(handle, pynvml.NVML_CLOCK_MEM))
    clocks = [f"sm {sm_mhz} MHz"] if sm_mhz is not None else []
    clocks += [f"memory {memory_mhz} MHz"] if memory_mhz is not None else []
    return DeviceIdentity(
        kind="cuda",
        model=model,
        version=driver,
        clocks=" ".join(clocks),
        power_limit_w=None if limit_mw is None else limit_mw * 1e-3,
        threads=1,
        isa=f"sm_{major}{minor}",
    )


def gpu_roofline(index: int = 0) -> Roofline:
    """The bound of GPU ``index``: cores × highest clock × 2, and a byte per core and cycle from beyond the first cache.

    A streaming multiprocessor of 64 or 128 cores takes at most 64 bytes in a cycle from the second-level cache. What
    NVML does not tell is taken as more than any GPU has.

    Raises:
        MeterError: there is no such GPU, or NVML cannot be used.
    """
    with nvml_session():
        with nvml_errors(f"open GPU {index}"):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        cores = _optional(lambda: pynvml.nvmlDeviceGetNumGpuCores(handle)) or _MOST_CORES
        mhz = _optional(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)) or _HIGHEST_MHZ
    cycles = cores * mhz * 1e6
    return Roofline(2 * cycles, cycles)


def _optional(query: Callable[[], int]) -> int | None:
    """A query that some GPUs and drivers do not answer."""
    try:
        return query()
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NoPermission):
        return None
