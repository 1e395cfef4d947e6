"""GPUs as NVML describes them."""

from __future__ import annotations

from collections.abc import Callable

import pynvml

from joulec.profiler.device import DeviceIdentity
from joulec.profiler.meters.nvml import nvml_errors, nvml_session


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


def _optional(query: Callable[[], int]) -> int | None:
    """A query that some GPUs and drivers do not answer."""
    try:
        return query()
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NoPermission):
        return None
