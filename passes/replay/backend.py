"""The back end protocol over replayed rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from joulec.costdb.cost import Cost
from joulec.passes.graph import AvgPool2d, Conv2d, MaxPool2d, NodeSpec, Step
from joulec.passes.replay.keys import row_key
from joulec.passes.replay.rows import Row
from joulec.passes.search.choices import Choice, Options
from joulec.profiler.candidate import Work

ALGORITHMS = {
    "0": "implicit-gemm",
    "1": "implicit-precomputed-gemm",
    "2": "gemm",
    "4": "fft",
    "5": "fft-tiling",
    "6": "winograd",
    "7": "winograd-nonfused",
}
"""cuDNN's forward algorithms by the number in the rows."""


@dataclass(frozen=True)
class ReplayAlgorithm:
    """One algorithm of the rows: cuDNN's for a convolution, ``default`` for the rest, ``free`` for views."""

    name: str
    row: Row | None

    def work(self, spec: NodeSpec) -> Work:
        """What the operator does at least; rows do not say what an algorithm does."""
        return Work(float(spec.flops), float(spec.bytes))

    def lower_bound_s(self, spec: NodeSpec) -> float:
        """The measured time itself."""
        return self.row.time_s if self.row else 0.0


@dataclass(frozen=True)
class ReplayBackEnd:
    """Prices nodes by the rows of a file.

    Attributes:
        rows: as `read_rows` gives them.
        excluded: names of algorithms that must not be used.
    """

    rows: Mapping[str, Mapping[str, Row]]
    excluded: frozenset[str] = frozenset()

    name = "replay"

    def fuses(self, spec: NodeSpec, step: Step) -> bool:
        """Bias and ReLU on convolution, ReLU on pooling where such rows exist; never an add."""
        kinds = [done.activation or done.kind for done in spec.epilogue]
        wanted = step.activation or step.kind
        if isinstance(spec.op, Conv2d):
            return (wanted == "bias" and not kinds) or (wanted == "relu" and kinds in ([], ["bias"]))
        return isinstance(spec.op, (MaxPool2d, AvgPool2d)) and wanted == "relu" and not kinds

    def writes_slices(self, spec: NodeSpec) -> bool:
        """Whether the kernel can write its result into a slice of a larger buffer: a whole convolution or pooling."""
        return isinstance(spec.op, (Conv2d, MaxPool2d, AvgPool2d))

    def algorithms(self, spec: NodeSpec) -> Sequence[ReplayAlgorithm]:
        """The algorithms with a row, in the order of their numbers; none: the node cannot be priced."""
        key = row_key(spec)
        if key is None:
            return ()
        if not key:
            return (ReplayAlgorithm("free", None),)
        found = self.rows.get(key, {})
        every = (ReplayAlgorithm(ALGORITHMS.get(name, name or "default"), found[name]) for name in sorted(found))
        return tuple(algorithm for algorithm in every if algorithm.name not in self.excluded)


@dataclass
class ReplayCosts:
    """The cost source over the rows; sources are ``replay``."""

    backend: ReplayBackEnd
    _options: dict[NodeSpec, Options] = field(default_factory=dict)

    def prepare(self, specs: Collection[NodeSpec]) -> None:
        """Look the specs up."""
        for spec in specs:
            if spec not in self._options:
                self._options[spec] = Options([_choice(one) for one in self.backend.algorithms(spec)])

    def knows(self, spec: NodeSpec) -> bool:
        """Nothing needs measuring."""
        return True

    def options(self, spec: NodeSpec) -> Options:
        """Algorithms of a spec with their rows' cost."""
        self.prepare((spec,))
        return self._options[spec]

    def lower_bound(self, spec: NodeSpec) -> tuple[float, float]:
        """The least of the rows."""
        options = self.options(spec)
        return (float(options.times.min()), float(options.energies.min())) if len(options) else (0.0, 0.0)


def _choice(algorithm: ReplayAlgorithm) -> Choice:
    row = algorithm.row
    if row is None:
        return Choice(algorithm, Cost(0.0, 0.0, "replay", "replay"))
    return Choice(algorithm, Cost(row.time_s, row.energy_j, "replay", "replay"))
