"""The contract of a kernel: one family of TVM implementations of one or more operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from joulec.passes.graph import NodeSpec
from joulec.profiler.candidate import Work

Params = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class CpuTarget:
    """What kernels must know of the target; nothing in a kernel may depend on the machine that compiles.

    Attributes:
        target: TVM's target as JSON text, e.g. ``{"kind": "llvm", "mcpu": "znver4"}``.
        lanes: float32 lanes of a vector register (4 SSE/NEON, 8 AVX2, 16 AVX-512).
        registers: number of vector registers (16 or 32).
        threads: worker threads at run time.
        l1_bytes: first-level data cache of a core.
        l2_bytes: second-level cache of a core.
    """

    target: str
    lanes: int
    registers: int
    threads: int
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024


class Kernel(Protocol):
    """One family of implementations. Stateless."""

    name: str

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """The schedules worth measuring: a small, principled set, likeliest first; empty where it does not apply."""

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The constant operand ``index`` as the kernel reads it (packed once, at compile time)."""

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc: operands in the spec's order (constants packed), then results; scheduled and marked."""

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Arithmetic done and bytes moved by one execution."""
