"""What a graph costs under an assignment, and the bounds that a user may set on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from joulec.passes.graph import Graph, Reshape, Value, parts_of


class BoundsError(ValueError):
    """No graph and assignment was found that keeps the bounds."""


@dataclass(frozen=True)
class Totals:
    """Sums over a graph's nodes (first paper, Section 3.2). Fields may be arrays of equal shape: many points at once.

    Attributes:
        time_s: seconds per call.
        energy_j: joules per call.
        flops: arithmetic operations per call.
        bytes: bytes that the operators' operands and results hold, each touched once.
        peak_memory_bytes: most bytes of run-time tensors alive at once.
        kernels: nodes that run (views do not).
    """

    time_s: Any
    energy_j: Any
    flops: float = 0.0
    bytes: float = 0.0
    peak_memory_bytes: float = 0.0
    kernels: int = 0

    @property
    def power_w(self) -> Any:
        """Mean power, energy over time (first paper, Section 3.2); 0 where nothing runs."""
        if isinstance(self.time_s, np.ndarray):
            return np.divide(self.energy_j, self.time_s, out=np.zeros_like(self.time_s), where=self.time_s != 0)
        return self.energy_j / self.time_s if self.time_s else 0.0


@dataclass(frozen=True)
class Bounds:
    """Upper bounds that a result must keep; None where there is none."""

    max_time_s: float | None = None
    max_energy_j: float | None = None
    max_power_w: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_time_s", "max_energy_j", "max_power_w"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"the bound {name} is greater than zero, not {bound}")

    def excess(self, totals: Totals) -> Any:
        """By how much the bounds are broken: the sum of relative excesses, 0 where all are kept."""
        total: Any = 0.0
        pairs = ((self.max_time_s, "time_s"), (self.max_energy_j, "energy_j"), (self.max_power_w, "power_w"))
        for bound, field in pairs:
            if bound is not None:
                total = total + np.maximum(getattr(totals, field) / bound - 1.0, 0.0)
        return total

    def __bool__(self) -> bool:
        return any(bound is not None for bound in (self.max_time_s, self.max_energy_j, self.max_power_w))


@dataclass(frozen=True)
class GraphFigures:
    """The part of the totals that no algorithm changes."""

    flops: float
    bytes: float
    peak_memory_bytes: float
    kernels: int

    @staticmethod
    def of(graph: Graph) -> GraphFigures:
        """Figures of a graph."""
        running = [node for node in graph.nodes if not node.op.is_view]
        return GraphFigures(
            float(sum(node.spec.flops for node in running)),
            float(sum(node.spec.bytes for node in running)),
            float(peak_memory_bytes(graph)),
            len(running),
        )

    def totals(self, time_s: Any, energy_j: Any) -> Totals:
        """Totals with these figures."""
        return Totals(time_s, energy_j, self.flops, self.bytes, self.peak_memory_bytes, self.kernels)


def peak_memory_bytes(graph: Graph) -> int:
    """Most bytes of run-time tensors alive at once when nodes run in the graph's order.

    Views share their operand's memory, operands of a concat that are written in place its result's.
    """
    last_use: dict[Value, int] = {}
    owner = {value: part.whole for value, part in parts_of(graph).items()}
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            last_use[owner.get(value, value)] = index
        if isinstance(node.op, Reshape):
            source = node.inputs[0]
            owner[node.outputs[0]] = owner.get(source, source)
    end = len(graph.nodes)
    for value in graph.outputs:
        last_use[owner.get(value, value)] = end
    expiring: dict[int, list[Value]] = {}
    for value, index in last_use.items():
        expiring.setdefault(index, []).append(value)
    alive = peak = sum(value.type.bytes for value in graph.inputs)
    held = set(graph.inputs)
    for index, node in enumerate(graph.nodes):
        fresh = {owner.get(value, value) for value in node.outputs} - held
        held |= fresh
        alive += sum(value.type.bytes for value in fresh)
        peak = max(peak, alive)
        alive -= sum(value.type.bytes for value in expiring.get(index, ()))
        alive -= sum(value.type.bytes for value in fresh if value not in last_use)
    return peak
