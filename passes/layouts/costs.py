"""Cost sources that know what a change of layout on an edge costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from joulec.passes.backend import BackEnd
from joulec.passes.graph import Concat, NodeSpec, TensorType
from joulec.passes.layouts.layout import PLAIN, Relayout, layout_read, relayout_spec, same_memory
from joulec.passes.search.choices import Choice, Entry, Options
from joulec.passes.search.costing import MeasuredCosts, RooflineCosts, Unpriced
from joulec.passes.search.edges import Floats, edge_matrix
from joulec.passes.search.estimates import EstimatedCosts
from joulec.profiler.entrant import Point


class _Layouts:
    """`EdgeCosts` over a cost source; conversions are priced like any operator, by their fastest algorithm."""

    _edges: dict[tuple[TensorType, int, int], tuple[float, float]]
    _matrices: dict[tuple[NodeSpec, NodeSpec, int], Floats]

    def matrix(self, spec_from: NodeSpec, spec_to: NodeSpec, operand: int) -> Floats:
        """`edge` for all choices; see `EdgeMatrices`."""
        key = spec_from, spec_to, operand
        if key not in self._matrices:
            sizes = len(self.options(spec_from)), len(self.options(spec_to))  # type: ignore[attr-defined]
            self._matrices[key] = edge_matrix(self, *key, sizes)
        return self._matrices[key]

    def edge(
        self, spec_from: NodeSpec, choice_from: int, spec_to: NodeSpec, operand: int, choice_to: int
    ) -> tuple[float, float]:
        """Seconds and joules of the conversion between the layouts at both ends; see `EdgeCosts`."""
        type = spec_to.operands[operand].type
        given, taken = self.options(spec_from).choices[choice_from], self.options(spec_to).choices[choice_to]  # type: ignore[attr-defined]
        source, target = _layout(given, writes=True), _taken(spec_to, taken, operand)
        if source != target and _placed(spec_from) and _placed(spec_to, operand):
            return float("inf"), float("inf")  # one tensor holds both
        return self._between(type, source, target)

    def entry(self, spec: NodeSpec, operand: int, choice: int) -> tuple[float, float]:
        """Of a graph's input, which is row-major; see `EndCosts`."""
        taken = self.options(spec).choices[choice]  # type: ignore[attr-defined]
        return self._between(spec.operands[operand].type, PLAIN, _taken(spec, taken, operand))

    def exit(self, spec: NodeSpec, result: int, choice: int) -> tuple[float, float]:
        """Of a graph's output, which is row-major; see `EndCosts`."""
        given = self.options(spec).choices[choice]  # type: ignore[attr-defined]
        return self._between(spec.results[result], _layout(given, writes=True), PLAIN)

    def _between(self, type: TensorType, source: int, target: int) -> tuple[float, float]:
        if source == target or len(type.shape) != 4 or same_memory(type.shape, source, target):
            return 0.0, 0.0
        key = type, source, target
        if key not in self._edges:
            self._edges[key] = self._conversion(*key)
        return self._edges[key]

    def _conversion(self, type: TensorType, source: int, target: int) -> tuple[float, float]:
        sample = _sample(type, source, target)
        spec = relayout_spec(sample, source, target)
        self.prepare([spec])  # type: ignore[attr-defined]
        options = self.options(spec)  # type: ignore[attr-defined]
        if not len(options):
            return float("inf"), float("inf")
        share = type.bytes / sample.bytes
        time_s, energy_j = options.cheapest_point(1.0, 0.0)
        return share * time_s, share * energy_j


def _sample(type: TensorType, source: int, target: int) -> TensorType:
    """The tensor that is converted to know what a conversion costs: planes alike, the next power of two of blocks.

    A network has many numbers of channels (DenseNet another one in each layer), and each block costs the same.
    """
    batch, channels, *plane = type.shape
    block = max(source, target)
    blocks = 1 << (channels // block - 1).bit_length()
    return TensorType((batch, blocks * block, *plane), type.dtype)


def _placed(spec: NodeSpec, operand: int | None = None) -> bool:
    """Whether a concat has some operand in place, or this one."""
    if not isinstance(spec.op, Concat) or not spec.op.in_place:
        return False
    return operand is None or spec.op.in_place[operand]


def _views(backend: BackEnd, spec: NodeSpec, free: Options) -> Options:
    """The only choice of a view, once for each layout in which it can stand."""
    layouts: Callable[[NodeSpec], Sequence[int]] | None = getattr(backend, "view_layouts", None)
    choice = free.choices[0]
    if layouts is None or not spec.op.is_view or not isinstance(choice.algorithm, Unpriced):
        return free
    return Options(
        [Choice(replace(choice.algorithm, reads=layout, writes=layout), choice.cost) for layout in layouts(spec)]
    )


def _taken(spec: NodeSpec, choice: Choice, operand: int) -> int:
    return layout_read(spec, operand, _layout(choice, writes=False), _layout(choice, writes=True))


def _layout(choice: Choice, *, writes: bool) -> int:
    """Algorithms that say nothing of layouts are row-major at both ends."""
    return int(getattr(choice.algorithm, "writes" if writes else "reads", PLAIN))


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


def _conversions(spec: NodeSpec, options: Options) -> Iterator[NodeSpec]:
    """From and to row-major, for every tensor that some choice reads or writes in another layout."""
    for choice in options.choices:
        for index, operand in enumerate(spec.operands):
            if not operand.constant:
                yield from _conversion(operand.type, PLAIN, _taken(spec, choice, index))
        for type in spec.results:
            yield from _conversion(type, _layout(choice, writes=True), PLAIN)


def _conversion(type: TensorType, source: int, target: int) -> Iterator[NodeSpec]:
    if source != target and len(type.shape) == 4 and not same_memory(type.shape, source, target):
        yield relayout_spec(_sample(type, source, target), source, target)


@dataclass
class LayoutMeasuredCosts(_Layouts, MeasuredCosts):
    """Measured costs with conversions."""

    _edges: dict[tuple[TensorType, int, int], tuple[float, float]] = field(default_factory=dict)
    _matrices: dict[tuple[NodeSpec, NodeSpec, int], Floats] = field(default_factory=dict)
    _few: dict[NodeSpec, Options] = field(default_factory=dict)

    def free(self, spec: NodeSpec) -> Options | None:
        """As of `MeasuredCosts`; a view in every layout in which it can stand."""
        found = MeasuredCosts.free(self, spec)
        return None if found is None else _views(self.backend, spec, found)

    def prepare(self, specs: Collection[NodeSpec]) -> None:
        """As of `MeasuredCosts`, then the conversions that the specs may need, together."""
        new = [spec for spec in specs if not self.knows(spec)]
        MeasuredCosts.prepare(self, specs)
        MeasuredCosts.prepare(self, {one for spec in new for one in _conversions(spec, self.options(spec))})

    def estimated(self, *, sparse: bool = True) -> EstimatedCosts:
        """As of `MeasuredCosts`, with conversions."""
        monotone = self.objective is not None and self.objective.monotone
        return LayoutEstimatedCosts(self, sparse, monotone=monotone)

    def options(self, spec: NodeSpec) -> Options:
        """As of `MeasuredCosts`, without what cannot win under a monotone objective."""
        if self.objective is None or not self.objective.monotone:
            return MeasuredCosts.options(self, spec)
        if spec not in self._few:
            self._few[spec] = _undominated(MeasuredCosts.options(self, spec))
        return self._few[spec]


@dataclass
class LayoutEstimatedCosts(_Layouts, EstimatedCosts):
    """Known and estimated costs with conversions.

    Attributes:
        monotone: whether what another choice of the same layouts beats can be left out.
    """

    monotone: bool = False
    _edges: dict[tuple[TensorType, int, int], tuple[float, float]] = field(default_factory=dict)
    _matrices: dict[tuple[NodeSpec, NodeSpec, int], Floats] = field(default_factory=dict)

    def _choices(self, spec: NodeSpec, entries: Sequence[Entry]) -> list[Choice]:
        """As of `EstimatedCosts`, without what cannot win under a monotone objective."""
        choices = EstimatedCosts._choices(self, spec, entries)
        return list(_undominated(Options(choices)).choices) if self.monotone else choices

    def staked(self, spec: NodeSpec) -> Point:
        """As of `EstimatedCosts`; nothing of conversions, which are quickly measured."""
        return Point(0.0, 0.0) if isinstance(spec.op, Relayout) else self.stake

    def guesses(self, specs: Iterable[NodeSpec]) -> bool:
        """As of `EstimatedCosts`; conversions that the specs may need count."""
        specs = set(specs)
        conversions = {one for spec in specs for one in _conversions(spec, self.options(spec))}
        self.prepare(conversions)
        return EstimatedCosts.guesses(self, specs | conversions)


@dataclass
class LayoutRooflineCosts(_Layouts, RooflineCosts):
    """Estimated costs with conversions."""

    monotone: bool = False
    _edges: dict[tuple[TensorType, int, int], tuple[float, float]] = field(default_factory=dict)
    _matrices: dict[tuple[NodeSpec, NodeSpec, int], Floats] = field(default_factory=dict)

    def _price(self, spec: NodeSpec) -> list[Choice]:
        """As of `RooflineCosts`, without what cannot win under a monotone objective."""
        choices = RooflineCosts._price(self, spec)
        if spec.op.is_view:
            return list(_views(self.backend, spec, Options(choices)).choices)
        return list(_undominated(Options(choices)).choices) if self.monotone else choices
