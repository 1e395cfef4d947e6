"""The CPU this process runs on, from ``/proc`` and ``/sys``; what cannot be read is empty, None or a default."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TURBO_DRIVERS = frozenset({"intel_pstate", "intel_cpufreq", "amd-pstate", "amd-pstate-epp", "cppc_cpufreq"})
"""Frequency drivers whose ``cpuinfo_max_freq`` includes the boost; ``acpi-cpufreq`` leaves it out."""


@dataclass(frozen=True)
class CpuFacts:
    """What kernels, constants and rooflines must know.

    Attributes:
        model: marketing name, and family, model and stepping where there are such (hypervisors shorten the name).
        microcode: its revision, empty where not readable.
        isa: ``x86-64-avx512``, ``x86-64-avx2``, ``x86-64``, ``aarch64``, or the machine's own name.
        lanes: float32 lanes of a vector register.
        registers: vector registers.
        pipe_lanes: float32 lanes of one multiply-add pipe (AMD before Zen 5 runs 512-bit operations in halves).
        governor: frequency governor, empty where not readable.
        max_hz: highest clock including boost, None where not known for sure.
        power_limit_w: long-term limit of one package, None where not readable.
        l1_bytes, l2_bytes, l3_bytes: data caches as one core sees them.
    """

    model: str
    microcode: str
    isa: str
    lanes: int
    registers: int
    pipe_lanes: int
    governor: str = ""
    max_hz: float | None = None
    power_limit_w: float | None = None
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 256 * 1024
    l3_bytes: int = 0


def default_threads() -> int:
    """The CPUs that this process may run on (its affinity, which ``taskset`` and container CPU sets restrict)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_facts(root: Path = Path("/"), machine: str = "") -> CpuFacts:
    """Read the facts.

    Args:
        root: where ``proc`` and ``sys`` are.
        machine: the architecture as ``uname -m`` names it; this machine's when omitted.
    """
    machine = machine or platform.machine()
    info = _cpuinfo(root)
    isa, lanes, registers = _isa(machine, set(info.get("flags", "").split()))
    halves = info.get("vendor_id") == "AuthenticAMD" and info.get("cpu family", "") in ("23", "25")
    cpu = root / "sys/devices/system/cpu"
    caches = _caches(cpu / "cpu0/cache")
    return CpuFacts(
        model=_model(info, machine),
        microcode=info.get("microcode", ""),
        isa=isa,
        lanes=lanes,
        registers=registers,
        pipe_lanes=min(lanes, 8) if halves else lanes,
        governor=_text(cpu / "cpu0/cpufreq/scaling_governor"),
        max_hz=_max_hz(cpu),
        power_limit_w=_power_limit_w(root / "sys/class/powercap"),
        l1_bytes=caches.get(1, 32 * 1024),
        l2_bytes=caches.get(2, 256 * 1024),
        l3_bytes=caches.get(3, 0),
    )


def _isa(machine: str, flags: set[str]) -> tuple[str, int, int]:
    if machine in ("aarch64", "arm64"):
        return "aarch64", 4, 32
    if machine not in ("x86_64", "AMD64"):
        return machine or "unknown", 4, 16
    if {"avx512f", "avx512vl", "avx512dq", "avx512bw"} <= flags:
        return "x86-64-avx512", 16, 32
    if {"avx2", "fma"} <= flags:
        return "x86-64-avx2", 8, 16
    return "x86-64", 4, 16


def _cpuinfo(root: Path) -> Mapping[str, str]:
    """The first processor's block of ``/proc/cpuinfo``."""
    info: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            break
        info[key.strip()] = value.strip()
    return info


def _model(info: Mapping[str, str], machine: str) -> str:
    name = info.get("model name") or info.get("CPU implementer", "") or platform.processor() or machine
    parts = [info[key] for key in ("cpu family", "model", "stepping") if key in info]
    parts += [info[key] for key in ("CPU architecture", "CPU variant", "CPU part", "CPU revision") if key in info]
    return f"{name} ({'/'.join(parts)})" if parts else name


def _caches(folder: Path) -> Mapping[int, int]:
    """Bytes per level, instruction caches left out."""
    sizes: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        level, size = _text(index / "level"), _text(index / "size")
        if _text(index / "type") == "Instruction" or not level.isdecimal() or not size[:-1].isdecimal():
            continue
        sizes[int(level)] = int(size[:-1]) * {"K": 1024, "M": 1024**2}.get(size[-1], 1)
    return sizes


def _max_hz(cpu: Path) -> float | None:
    found = []
    for folder in cpu.glob("cpu[0-9]*/cpufreq"):
        text = _text(folder / "cpuinfo_max_freq")
        if _text(folder / "scaling_driver") in _TURBO_DRIVERS and text.isdecimal():
            found.append(int(text) * 1e3)
    return max(found, default=None)


def _power_limit_w(powercap: Path) -> float | None:
    text = _text(powercap / "intel-rapl:0/constraint_0_power_limit_uw")
    return int(text) * 1e-6 if text.isdecimal() else None


def _text(file: Path) -> str:
    """A file's text, stripped; empty where it is not there or may not be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
