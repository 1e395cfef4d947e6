"""The Relax back end on CPUs and GPUs: its algorithms, their keys, and candidates for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from joulec.costdb.cost import CostKey, EnergySource
from joulec.passes.backend import cost_key
from joulec.passes.digest import source_digest
from joulec.passes.graph import Activation, Concat, Conv2d, MatMul, NodeSpec, Opaque, Step
from joulec.passes.kernels.blocks import ends, fits, without_ends
from joulec.passes.kernels.conv_winograd import WinogradConv
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.cuda.winograd import CudaWinograd
from joulec.passes.kernels.integer_product import integer_flops
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.registry import AnyKernel, kernels_for
from joulec.passes.kernels.workload import KernelPayload
from joulec.passes.layouts.layout import PLAIN, Relayout, layout_name
from joulec.passes.onnx.engines import engine_for, engine_version
from joulec.passes.relax.agreement import ALGORITHM, Agreements
from joulec.passes.relax.lowering import lowers
from joulec.profiler.candidate import Candidate, Work
from joulec.profiler.roofline import Roofline

TVM_OWN = "tvm"


@dataclass(frozen=True)
class KernelAlgorithm:
    """A kernel of ours under one schedule, or TVM's own lowering (``kernel`` None), or an external engine's.

    Attributes:
        kernel: one of `kernels_of` the target.
        engine: ``onnxruntime`` or ``onnx.reference``; empty where TVM compiles the node.
        lowered: an opaque node in Relax's words, where TVM's own ONNX frontend lowers it; None elsewhere.
    """

    kernel: Any
    params: Params
    target: CpuTarget | CudaTarget
    roofline: Roofline
    engine: str = ""
    lowered: Opaque | None = None

    @property
    def reads(self) -> int:
        """Layout of the anchor's four-dimensional run-time operands."""
        return ends(self.params)[0]

    @property
    def writes(self) -> int:
        """Layout of the results, and of what the epilogue adds."""
        return ends(self.params)[1]

    @property
    def layouts(self) -> str:
        """Both, as cost keys have them."""
        if not self.reads and not self.writes:
            return "row-major"
        return f"{layout_name(self.reads)} -> {layout_name(self.writes)}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """What else the schedule says."""
        return tuple(f"{key}={value}" for key, value in without_ends(self.params))

    @property
    def family(self) -> str:
        """The kernel's name."""
        if self.lowered is not None:
            return ALGORITHM
        return str(self.kernel.name) if self.kernel else self.engine or TVM_OWN

    @property
    def digest(self) -> str:
        """Digest of what decides what it lowers to; of an external call, who computes it."""
        if self.engine:
            return engine_version(self.engine)
        if self.lowered is not None:
            return source_digest("joulec.passes.relax.frontend", *self._pipeline)
        if self.kernel is not None:
            return source_digest(type(self.kernel).__module__, "joulec.passes.kernels.pipeline")
        return source_digest("joulec.passes.relax.emit", *self._pipeline)

    @property
    def _pipeline(self) -> tuple[str, ...]:
        """What TVM's own operators are lowered by."""
        if isinstance(self.target, CudaTarget):
            return ("joulec.passes.relax.cuda_pipeline",)
        return "joulec.passes.relax.pipeline", "joulec.passes.kernels.pipeline"

    @property
    def name(self) -> str:
        """Family, layouts where they are not row-major, and parameters."""
        blocks = (self.layouts.replace(" ", ""),) if self.reads or self.writes else ()
        shown = ",".join((*blocks, *self.parameters))
        return f"{self.family}({shown})" if shown else self.family

    def work(self, spec: NodeSpec) -> Work:
        """Arithmetic done and bytes moved."""
        if self.kernel is not None:
            work: Work = self.kernel.work(spec, self.params, self.target)
            return work
        flops = float(spec.flops or integer_flops(spec))
        return Work(flops, float(spec.bytes), float(spec.bytes), 4.0 * flops)

    def lower_bound_s(self, spec: NodeSpec) -> float:
        """Roofline of the device."""
        return self.roofline.lower_bound_s(self.work(spec))


@dataclass(frozen=True)
class RelaxBackEnd:
    """Prices and computes nodes with TVM 0.27 on a CPU or a GPU.

    Attributes:
        target: what kernels follow.
        device: fingerprint of the device on which costs are measured.
        compiler: compiler and version, for the cost key.
        energy_source: source of the joules.
        protocol: measurement protocol and version.
        roofline: bounds of the device.
        excluded: families that must not be used.
        max_error: relative error that is accepted; algorithms that state a larger one are left out. None: the default.
        agreements: which operators TVM's own ONNX frontend lowers as ONNX means them; None does without it.
    """

    target: CpuTarget | CudaTarget
    device: str
    compiler: str
    energy_source: EnergySource
    protocol: str
    roofline: Roofline
    excluded: frozenset[str] = frozenset()
    max_error: float | None = None
    agreements: Agreements | None = field(default=None, compare=False, repr=False)
    _algorithms: dict[NodeSpec, tuple[KernelAlgorithm, ...]] = field(default_factory=dict, compare=False, repr=False)
    _kernels: dict[NodeSpec, bool] = field(default_factory=dict, compare=False, repr=False)

    name = "relax"

    def fuses(self, spec: NodeSpec, step: Step) -> bool:
        """Epilogues: bias, then residual add, then activation on convolutions and products; activation elsewhere."""
        if isinstance(spec.op, Opaque) or spec.op.is_view or len(spec.results) != 1 or isinstance(spec.op, Activation):
            return False
        if any(result.dtype != "float32" for result in spec.results):
            return False
        kinds = [done.kind for done in spec.epilogue]
        if isinstance(spec.op, (Conv2d, MatMul)):
            order = ("bias", "add", "activation")
            return step.kind not in kinds and all(order.index(kind) < order.index(step.kind) for kind in kinds)
        return step.kind == "activation" and not kinds and bool(_native(spec, self.target))

    def takes_parts(self, spec: NodeSpec) -> bool:
        """Whether kernels compute it that can be given parts of larger tensors to read and to write."""
        return not isinstance(self.target, CudaTarget) and not spec.op.is_view and self.has_kernel(spec)

    def has_kernel(self, spec: NodeSpec) -> bool:
        """Whether a kernel of ours computes it."""
        if isinstance(spec.op, Opaque):
            return False
        if spec not in self._kernels:
            self._kernels[spec] = any(one.kernel is not None for one in self.algorithms(spec))
        return self._kernels[spec]

    def view_layouts(self, spec: NodeSpec) -> tuple[int, ...]:
        """The layouts in which a view can stand: row-major, and a concat along channels also in whole blocks."""
        if not isinstance(spec.op, Concat) or spec.op.axis != 1 or not isinstance(self.target, CpuTarget):
            return (PLAIN,)
        types = [operand.type for operand in spec.operands]
        blocked = all(type.dtype == "float32" and fits(type, self.target) for type in types)
        return (PLAIN, self.target.lanes) if blocked else (PLAIN,)

    def algorithms(self, spec: NodeSpec) -> Sequence[KernelAlgorithm]:
        """Our kernels with their schedules, then what TVM itself would do."""
        if spec not in self._algorithms:
            self._algorithms[spec] = tuple(self._all(spec))
        return self._algorithms[spec]

    def _all(self, spec: NodeSpec) -> list[KernelAlgorithm]:
        own = [
            KernelAlgorithm(kernel, params, self.target, self.roofline)
            for kernel, params in _native(spec, self.target)
            if kernel.name not in self.excluded and not self._too_coarse(kernel, params)
        ]
        if isinstance(spec.op, Concat) and spec.op.in_place:
            return own  # what TVM would do copies all operands
        if isinstance(spec.op, Relayout):
            return own
        if isinstance(spec.op, Opaque) and spec.op.dialect == "onnx":
            return [*own, *self._outside(spec.op)]
        return [*own, KernelAlgorithm(None, (), self.target, self.roofline)]

    def _outside(self, op: Opaque) -> list[KernelAlgorithm]:
        """How an operator outside the graph is computed without kernels: compiled, or by an engine."""
        if lowers(op):
            return [KernelAlgorithm(None, (), self.target, self.roofline)]
        if isinstance(self.target, CudaTarget):
            return []  # engines compute in the host's memory
        if self.agreements is not None and ALGORITHM not in self.excluded:
            lowered = self.agreements.lowered(op)
            if lowered is not None:
                return [KernelAlgorithm(None, (), self.target, self.roofline, lowered=lowered)]
        return [KernelAlgorithm(None, (), self.target, self.roofline, engine_for(op))]

    def _too_coarse(self, kernel: AnyKernel, params: Params) -> bool:
        if self.max_error is None or not isinstance(kernel, WinogradConv | CudaWinograd):
            return False
        return kernel.rounding(params) > self.max_error

    def key(self, spec: NodeSpec, algorithm: KernelAlgorithm) -> CostKey:
        """The complete key of the cost database."""
        return cost_key(
            spec,
            layouts=algorithm.layouts,
            algorithm=algorithm.family,
            parameters=",".join(algorithm.parameters),
            digest=algorithm.digest,
            device=self.device,
            compiler=f"{self.compiler} {self.target.target}",
            energy_source=self.energy_source,
            protocol=self.protocol,
        )

    def candidate(self, spec: NodeSpec, algorithm: KernelAlgorithm) -> Candidate:
        """What the profiler is to measure."""
        on_gpu = isinstance(self.target, CudaTarget)
        native = f"joulec.passes.{'relax.cuda_workload' if on_gpu else 'kernels.workload'}:build"
        builder = "joulec.runtime.external:build" if algorithm.engine else native
        payload = KernelPayload(spec, algorithm.family, algorithm.params, self.target, seed=0)
        if algorithm.lowered is not None:
            payload = replace(payload, spec=replace(spec, op=algorithm.lowered), kernel=TVM_OWN)
        label = f"{spec} by {algorithm.name}"
        return Candidate(self.key(spec, algorithm), builder, payload, algorithm.work(spec), label)


def _native(spec: NodeSpec, target: CpuTarget | CudaTarget) -> list[tuple[Any, Params]]:
    if isinstance(spec.op, Opaque):
        if isinstance(target, CudaTarget) or spec.op.dialect != "onnx" or not spec.op.pure:
            return []
    elif any(operand.type.dtype != "float32" for operand in spec.operands):
        return []
    if any(type.size == 0 for type in (*(operand.type for operand in spec.operands), *spec.results)):
        return []
    return kernels_for(spec, target)
