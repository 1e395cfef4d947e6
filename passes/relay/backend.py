"""The Relay back end on CPU: its algorithms, their keys, and candidates for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from joulec.costdb.cost import CostKey, EnergySource
from joulec.passes.backend import cost_key
from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Conv2d,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    NodeSpec,
    Opaque,
    Step,
)
from joulec.passes.kernels.kernel import CpuTarget
from joulec.passes.layouts.layout import layout_name
from joulec.passes.relay.algorithm import RelayAlgorithm, algorithms_of
from joulec.passes.relay.tuned import TuningRecords
from joulec.passes.relay.workload import RelayPayload
from joulec.profiler.candidate import Candidate
from joulec.profiler.roofline import Roofline

_BEFORE_ACTIVATION = (Add, Binary, ChannelAffine, MaxPool2d, AvgPool2d)


@dataclass(frozen=True)
class RelayBackEnd:
    """Prices and computes nodes with TVM 0.19 on a CPU; attributes as of `RelaxBackEnd`, and the user's records."""

    target: CpuTarget
    device: str
    compiler: str
    energy_source: EnergySource
    protocol: str
    roofline: Roofline
    excluded: frozenset[str] = frozenset()
    max_error: float | None = None
    records: TuningRecords | None = None
    _algorithms: dict[NodeSpec, tuple[RelayAlgorithm, ...]] = field(default_factory=dict, compare=False, repr=False)

    name = "relay"

    def fuses(self, spec: NodeSpec, step: Step) -> bool:
        """Epilogues: bias, then residual add, then activation on convolutions and products; activation elsewhere."""
        op = spec.op
        if isinstance(op, (Opaque, Activation, LocalResponseNorm)) or op.is_view or len(spec.results) != 1:
            return False
        if any(result.dtype != "float32" for result in spec.results):
            return False
        kinds = [done.kind for done in spec.epilogue]
        if isinstance(op, (Conv2d, MatMul)):
            order = ("bias", "add", "activation")
            return step.kind not in kinds and all(order.index(kind) < order.index(step.kind) for kind in kinds)
        return step.kind == "activation" and not kinds and isinstance(op, _BEFORE_ACTIVATION)

    def algorithms(self, spec: NodeSpec) -> Sequence[RelayAlgorithm]:
        """The strategy's implementations with their configurations, then what TVM itself would do."""
        if spec not in self._algorithms:
            tuned = () if self.records is None else self.records.ways(spec)
            *others, last = algorithms_of(spec, self.target, self.roofline, tuned)
            kept = [one for one in others if one.implementation not in self.excluded]
            self._algorithms[spec] = (*kept, last)
        return self._algorithms[spec]

    def key(self, spec: NodeSpec, algorithm: RelayAlgorithm) -> CostKey:
        """The complete key of the cost database."""
        return cost_key(
            spec,
            layouts=f"{layout_name(algorithm.reads)} -> {layout_name(algorithm.writes)}",
            algorithm=algorithm.implementation,
            parameters=",".join(algorithm.parameters),
            digest=algorithm.digest,
            device=self.device,
            compiler=f"{self.compiler} {self.target.target}",
            energy_source=self.energy_source,
            protocol=self.protocol,
        )

    def candidate(self, spec: NodeSpec, algorithm: RelayAlgorithm) -> Candidate:
        """What the profiler is to measure."""
        builder = "joulec.runtime.external:build" if algorithm.external else "joulec.passes.relay.workload:build"
        payload = RelayPayload(spec, algorithm, self.target)
        label = f"{spec} by {algorithm.name}"
        return Candidate(self.key(spec, algorithm), builder, payload, algorithm.work(spec), label)
