"""Which device a cost belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from joulec.profiler.cpu import CpuFacts, cpu_facts, default_threads
from joulec.profiler.meter import MeterError
from joulec.profiler.meters.rapl import RaplMeter


@dataclass(frozen=True)
class DeviceIdentity:
    """What of a device decides what work costs on it; observed clocks and temperatures are no part of it.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        model: the model's name.
        version: microcode revision or driver version.
        clocks: the clocks requested: governor and highest frequency, or the application clocks; empty if unknown.
        power_limit_w: None where not readable.
        threads: worker threads (a GPU: 1).
        isa: instruction set class, e.g. ``x86-64-avx512`` or ``sm_80``.
    """

    kind: Literal["cpu", "cuda"]
    model: str
    version: str
    clocks: str
    power_limit_w: float | None
    threads: int
    isa: str

    @property
    def fingerprint(self) -> str:
        """One line of text, equal for equal devices on all machines: ``CostKey.device``."""
        limit = "" if self.power_limit_w is None else f"{self.power_limit_w:g}W"
        return "|".join((self.kind, self.model, self.version, self.clocks, limit, f"{self.threads}t", self.isa))


@dataclass(frozen=True)
class DeviceInfo:
    """One line of ``joulec devices``.

    Attributes:
        id: ``cpu`` or ``cuda:N``.
        kind: ``cpu`` or ``cuda``.
        name: the model's name.
        fingerprint: as in the cost database.
        meters: the meters that can be used here, best first.
        note: why a better meter cannot be used; empty otherwise.
    """

    id: str
    kind: str
    name: str
    fingerprint: str
    meters: tuple[str, ...]
    note: str = ""


def local_cpu(threads: int | None = None, facts: CpuFacts | None = None) -> DeviceIdentity:
    """The CPU this process runs on, used with ``threads`` threads (all that its affinity allows when omitted)."""
    facts = facts or cpu_facts()
    clocks = " ".join(
        part for part in (facts.governor, "" if facts.max_hz is None else f"max {facts.max_hz / 1e6:.0f} MHz") if part
    )
    return DeviceIdentity(
        kind="cpu",
        model=facts.model,
        version=facts.microcode,
        clocks=clocks,
        power_limit_w=facts.power_limit_w,
        threads=threads or default_threads(),
        isa=facts.isa,
    )


def devices() -> tuple[DeviceInfo, ...]:
    """This machine's devices: the CPU, then each GPU that NVML shows. Never fails: what is missing stands in a note."""
    return (_cpu_info(), *_gpu_infos())


def _cpu_info() -> DeviceInfo:
    cpu = local_cpu()
    try:
        RaplMeter().close()
    except MeterError as error:
        return DeviceInfo("cpu", "cpu", cpu.model, cpu.fingerprint, ("estimate",), str(error))
    return DeviceInfo("cpu", "cpu", cpu.model, cpu.fingerprint, ("rapl", "estimate"))


def _gpu_infos() -> list[DeviceInfo]:
    from joulec.profiler import gpu  # NVML's bindings cost 0.1 s to import: only where GPUs are asked for
    from joulec.profiler.meters.nvml import NvmlMeter

    try:
        count = gpu.gpu_count()
    except MeterError as error:
        return [DeviceInfo("cuda", "cuda", "unknown", "", (), str(error))]
    found = []
    for index in range(count):
        name, fingerprint = "unknown", ""
        try:
            identity = gpu.local_gpu(index)
            name, fingerprint = identity.model, identity.fingerprint
            NvmlMeter(index).close()
        except MeterError as error:
            found.append(DeviceInfo(f"cuda:{index}", "cuda", name, fingerprint, ("estimate",), str(error)))
        else:
            found.append(DeviceInfo(f"cuda:{index}", "cuda", name, fingerprint, ("nvml", "estimate")))
    return found
