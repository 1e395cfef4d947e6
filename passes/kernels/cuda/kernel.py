"""The contract of an algorithm on a CUDA target, and what all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels.cuda.stages import Stage, composed, scheduled
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.kernel import Params
from joulec.profiler.candidate import Work


class CudaKernel(Protocol):
    """What `joulec.passes.kernels.kernel.Kernel` is for CPUs. Stateless."""

    name: str

    def schedules(self, spec: NodeSpec, target: CudaTarget) -> Sequence[Params]:
        """The schedules worth measuring, likeliest first; empty where it does not apply."""

    def pack(
        self, spec: NodeSpec, params: Params, target: CudaTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The constant operand ``index`` as the kernel reads it."""

    def build(self, spec: NodeSpec, params: Params, target: CudaTarget) -> Any:
        """The PrimFunc that launches the device's kernels: operands in the spec's order (constants packed), results."""

    def work(self, spec: NodeSpec, params: Params, target: CudaTarget) -> Work:
        """Arithmetic done and bytes moved by one execution."""


class Staged:
    """A kernel that is a chain of stages."""

    def stages(self, spec: NodeSpec, params: Params) -> Sequence[Stage]:
        """The stages, unscheduled."""
        raise NotImplementedError

    def pack(
        self, spec: NodeSpec, params: Params, target: CudaTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Operands are read as they are."""
        return np.ascontiguousarray(array).reshape(array.shape)

    def build(self, spec: NodeSpec, params: Params, target: CudaTarget) -> Any:
        """See `CudaKernel`."""
        chain = [scheduled(stage, target.target) for stage in self.stages(spec, params)]
        return composed(chain, len(spec.operands))

    def definition(self, spec: NodeSpec, params: Params) -> Any:
        """The same PrimFunc without its schedules: what it computes, in loops that any target can run."""
        return composed(self.stages(spec, params), len(spec.operands))

    def work(self, spec: NodeSpec, params: Params, target: CudaTarget) -> Work:
        """The operator's own arithmetic; what is read and written once each."""
        return Work(float(spec.flops), float(spec.bytes), float(spec.bytes), 4.0 * spec.flops)
