"""What the search needs to know of a back end: Relax, Relay, or rows of measurements to replay."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from joulec.costdb.cost import CostKey
from joulec.passes.graph import NodeSpec, Opaque, Step
from joulec.profiler.candidate import Candidate, Work


class Algorithm(Protocol):
    """A way to compute one operator on one back end."""

    @property
    def name(self) -> str:
        """Family and parameters, e.g. ``direct_conv(columns=14)``; unique among a spec's algorithms."""

    def work(self, spec: NodeSpec) -> Work:
        """Arithmetic done and bytes moved."""

    def lower_bound_s(self, spec: NodeSpec) -> float:
        """Roofline: seconds below which no execution can fall on this device."""


class BackEnd(Protocol):
    """The protocol that each back end implements."""

    @property
    def name(self) -> str:
        """``relax``, ``relay`` or ``replay``."""

    def fuses(self, spec: NodeSpec, step: Step) -> bool:
        """Whether it can price (and run) the spec with one more step at the end of its epilogue."""

    def algorithms(self, spec: NodeSpec) -> Sequence[Algorithm]:
        """All algorithms that apply, the back end's own lowering last. Empty: the spec cannot be priced here."""

    def key(self, spec: NodeSpec, algorithm: Any) -> CostKey:
        """``algorithm`` being one of its own: where the cost of the spec under the algorithm is kept."""

    def candidate(self, spec: NodeSpec, algorithm: Any) -> Candidate:
        """``algorithm`` being one of its own: what the profiler is to measure."""


def cost_key(spec: NodeSpec, **execution: Any) -> CostKey:
    """The key of a spec's cost: what the spec says, with the fields of `CostKey` that say how and where it is run.

    An operator outside the graph is known by its definition's digest.
    """
    definition = spec.op.definition if isinstance(spec.op, Opaque) else b""
    return CostKey(
        operator=spec.op.name,
        attributes=hashlib.sha256(definition).hexdigest() if definition else str(spec.op),
        epilogue="+".join(map(str, spec.epilogue)),
        shapes=f"{', '.join(map(str, spec.operands))} -> {', '.join(map(str, spec.results))}",
        placement="own",
        **execution,
    )
