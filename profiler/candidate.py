"""What the measuring harness is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from joulec.costdb.cost import CostKey


@dataclass(frozen=True)
class Work:
    """What one execution does, as its algorithm states it: the estimate meter's and the roofline's input.

    Attributes:
        flops: arithmetic operations (a multiply-add counts two).
        dram_bytes: bytes that must come from or go to memory at least once.
        cache_bytes: bytes moved between the last-level or second-level cache and the core's own.
        register_bytes: bytes moved between the first-level cache and registers.
    """

    flops: float
    dram_bytes: float
    cache_bytes: float = 0.0
    register_bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(
            self.flops + other.flops,
            self.dram_bytes + other.dram_bytes,
            self.cache_bytes + other.cache_bytes,
            self.register_bytes + other.register_bytes,
        )

    def scaled(self, count: float) -> Work:
        """``count`` executions."""
        return Work(self.flops * count, self.dram_bytes * count, self.cache_bytes * count, self.register_bytes * count)


NO_WORK = Work(0.0, 0.0)
"""Nothing, or nothing that is known of."""


@dataclass(frozen=True)
class Candidate:
    """One operator under one algorithm, in a form that a worker process can build without knowing of passes.

    Attributes:
        key: where the outcome is kept.
        builder: ``module:function``; called with the payload in the worker, returns a `Workload`.
        payload: picklable argument of the builder.
        work: what one execution does.
        label: for people.
    """

    key: CostKey
    builder: str
    payload: object
    work: Work
    label: str


class Workload(Protocol):
    """A built candidate, ready to be timed. Its data are random (seeded), never zeros."""

    def run(self, calls: int) -> None:
        """Execute ``calls`` times, rotating among the copies of weights and inputs; return when all are done."""

    def overhead_s(self) -> float:
        """Seconds per call that ``run`` spends outside the kernel (the caller's loop), to be subtracted."""
