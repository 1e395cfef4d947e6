"""Cost sources that know what a change of layout on an edge costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from joulec.passes.graph import NodeSpec, OperandSpec, TensorType
from joulec.passes.relay.algorithm import RelayAlgorithm
from joulec.passes.relay.relayout import PLAIN, Relayout, same_memory
from joulec.passes.search.choices import Choice, Options
from joulec.passes.search.costing import MeasuredCosts, RooflineCosts


class _Layouts:
    """`EdgeCosts` over a cost source; conversions are measured like any operator, when first asked for."""

    _edges: dict[tuple[TensorType, int, int], tuple[float, float]]

    def edge(
        self, spec_from: NodeSpec, choice_from: int, spec_to: NodeSpec, operand: int, choice_to: int
    ) -> tuple[float, float]:
        """Seconds and joules of the conversion between the layouts at both ends; see `EdgeCosts`."""
        type = spec_to.operands[operand].type
        given, taken = self.options(spec_from).choices[choice_from], self.options(spec_to).choices[choice_to]  # type: ignore[attr-defined]
        return self._between(type, _layout(given, writes=True), _taken(spec_to, taken, operand))

    def entry(self, spec: NodeSpec, operand: int, choice: int) -> tuple[float, float]:
        """Of a graph's input, which is row-major; see `EndCosts`."""
        taken = self.options(spec).choices[choice]  # type: ignore[attr-defined]
        return self._between(spec.operands[operand].type, PLAIN, _taken(spec, taken, operand))

    def exit(self, spec: NodeSpec, result: int, choice: int) -> tuple[float, float]:
        """Of a graph's output, which is row-major; see `EndCosts`."""
        given = self.options(spec).choices[choice]  # type: ignore[attr-defined]
        return self._between(spec.results[result], _layout(given, writes=True), PLAIN)

    def _between(self, type: TensorType, source: int, target: int) -> tuple[float, float]:
        if len(type.shape) != 4 or same_memory(type.shape, source, target):
            return 0.0, 0.0
        key = type, source, target
        if key not in self._edges:
            self._edges[key] = self._conversion(*key)
        return self._edges[key]

    def _conversion(self, type: TensorType, source: int, target: int) -> tuple[float, float]:
        spec = relayout_spec(type, source, target)
        self.prepare([spec])  # type: ignore[attr-defined]
        options = self.options(spec)  # type: ignore[attr-defined]
        if not len(options):
            return float("inf"), float("inf")
        return options.choices[0].time_s, options.choices[0].energy_j


def relayout_spec(type: TensorType, source: int, target: int) -> NodeSpec:
    """A conversion as something that can be measured."""
    return NodeSpec(Relayout(source, target), (OperandSpec(type, False),), (), (type,))


def _taken(spec: NodeSpec, choice: Choice, operand: int) -> int:
    """The layout in which an operand is read: what an epilogue adds stands in that of the result."""
    return _layout(choice, writes=operand >= len(spec.anchor_operands))


def _layout(choice: Choice, *, writes: bool) -> int:
    algorithm = choice.algorithm
    if not isinstance(algorithm, RelayAlgorithm):
        return PLAIN
    return algorithm.writes if writes else algorithm.reads


def _undominated(options: Options) -> Options:
    """Without choices that another of the same layouts beats in time and energy: no monotone objective takes them."""
    kept: list[Choice] = []
    for choice in sorted(options.choices, key=lambda one: (one.time_s, one.energy_j)):
        ends = _layout(choice, writes=False), _layout(choice, writes=True)
        if not any(
            (_layout(other, writes=False), _layout(other, writes=True)) == ends and other.energy_j <= choice.energy_j
            for other in kept
        ):
            kept.append(choice)
    return Options(kept)


@dataclass
class LayoutMeasuredCosts(_Layouts, MeasuredCosts):
    """Measured costs with conversions."""

    _edges: dict[tuple[TensorType, int, int], tuple[float, float]] = field(default_factory=dict)
    _few: dict[NodeSpec, Options] = field(default_factory=dict)

    def options(self, spec: NodeSpec) -> Options:
        """As of `MeasuredCosts`, without what cannot win under a monotone objective."""
        if self.objective is None or not self.objective.monotone:
            return MeasuredCosts.options(self, spec)
        if spec not in self._few:
            self._few[spec] = _undominated(MeasuredCosts.options(self, spec))
        return self._few[spec]


@dataclass
class LayoutRooflineCosts(_Layouts, RooflineCosts):
    """Estimated costs with conversions; whatever applies, TVM's own strategy has scheduled it."""

    monotone: bool = False
    unscheduled: float = 1.0
    _edges: dict[tuple[TensorType, int, int], tuple[float, float]] = field(default_factory=dict)

    def _price(self, spec: NodeSpec) -> list[Choice]:
        """As of `RooflineCosts`, without what cannot win under a monotone objective."""
        choices = RooflineCosts._price(self, spec)
        return list(_undominated(Options(choices)).choices) if self.monotone else choices
