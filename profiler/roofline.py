"""Lower bounds on time: no execution of some work can be faster."""

from __future__ import annotations

from dataclasses import dataclass

from joulec.profiler.candidate import Work
from joulec.profiler.cpu import CpuFacts

_HIGHEST_HZ = 6.2e9
"""No processor has been sold that boosts further; used where the machine's own limit is not known for sure."""
_PIPES = 2
"""Multiply-add pipes of a core: two in every x86-64 server and desktop core; four narrow ones on some ARM cores."""
_ARM_PIPES = 4
_BYTES_PER_CYCLE = 64
"""What a core's second-level cache can deliver at most in a cycle (one line)."""


@dataclass(frozen=True)
class Roofline:
    """Upper bounds of what a device can do.

    Attributes:
        flops_per_s: arithmetic operations per second (a multiply-add counts two).
        bytes_per_s: bytes per second into the cores from beyond their first-level caches. Operands may well lie in
            the second level, so this is that cache's rate and not the memory's: a bound, not a prediction.
    """

    flops_per_s: float
    bytes_per_s: float

    def lower_bound_s(self, work: Work) -> float:
        """Seconds below which the work cannot be done. Only ``flops`` and ``dram_bytes`` (each byte once) count."""
        return max(work.flops / self.flops_per_s, work.dram_bytes / self.bytes_per_s)


def cpu_roofline(facts: CpuFacts, threads: int) -> Roofline:
    """The bound of ``threads`` cores: clock × pipes × lanes × 2, and clock × one cache line."""
    clock_hz = facts.max_hz or _HIGHEST_HZ
    pipes = _ARM_PIPES if facts.isa == "aarch64" else _PIPES
    return Roofline(threads * clock_hz * pipes * facts.pipe_lanes * 2, threads * clock_hz * _BYTES_PER_CYCLE)
