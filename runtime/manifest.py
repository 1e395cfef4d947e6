"""What an artifact says of itself: its entries, their tensors, what they cost and how they were compiled."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from joulec.costdb.cost import EnergySource, TimeSource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.dtypes import numpy_dtype
from joulec.runtime.fields import Fields, ManifestError
from joulec.runtime.parts import Part, Parts, ValueInfo

FORMAT_VERSION = 3
"""Layout of an artifact. A newer one than this is refused on reading; 1 had no variants, 2 no parts."""

EntryKey = tuple[int, str | None]
"""Batch size and variant; None where there is one variant only."""

_TIME_SOURCES = get_args(TimeSource)
_ENERGY_SOURCES = get_args(EnergySource)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ManifestError(message)


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an entry: its name, fixed shape, and dtype by numpy's name.

    Attributes:
        span: of an input of whole numbers, the least that the model expects and the one after the largest; None where
            that is not known, and in artifacts from before it was kept.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    span: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _require(bool(self.name), "a tensor has no name")
        _require(all(size >= 0 for size in self.shape), f"tensor {self.name!r} has a negative dimension: {self.shape}")
        try:
            known = numpy_dtype(self.dtype).kind in "biufV"
        except TypeError:
            known = False
        _require(known, f"tensor {self.name!r} has a dtype that numpy does not know: {self.dtype!r}")
        _require(self.span is None or self.span[0] < self.span[1], f"tensor {self.name!r} has an empty span")

    @staticmethod
    def from_json(data: object, where: str) -> TensorInfo:
        """Read one back; raises ManifestError, which names the place."""
        fields = Fields(data, where)
        span = fields.integers("span") if fields.has("span") and fields.child("span")[0] is not None else None
        _require(span is None or len(span) == 2, f"{where}.span must be two whole numbers")
        both = None if span is None else (span[0], span[1])
        return TensorInfo(fields.text("name"), fields.integers("shape"), fields.text("dtype"), both)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def _work_from_json(data: object, where: str) -> Work:
    fields = Fields(data, where)
    return Work(**{field.name: fields.number(field.name) for field in dataclasses.fields(Work)})


@dataclass(frozen=True)
class Budget:
    """Cost of one call of an entry. What is not known is None, its source too."""

    time_s: float | None = None
    time_source: TimeSource | None = None
    energy_j: float | None = None
    energy_source: EnergySource | None = None
    power_w: float | None = None

    def __post_init__(self) -> None:
        for name in ("time_s", "energy_j", "power_w"):
            value = getattr(self, name)
            _require(value is None or (math.isfinite(value) and value >= 0), f"{name} must be >= 0, not {value}")
        _require(self.time_source in (None, *_TIME_SOURCES), f"unknown time source {self.time_source!r}")
        _require(self.energy_source in (None, *_ENERGY_SOURCES), f"unknown energy source {self.energy_source!r}")

    @staticmethod
    def from_json(data: object, where: str) -> Budget | None:
        """Read one back, None where the artifact holds none; raises ManifestError."""
        if data is None:
            return None
        fields = Fields(data, where)
        time_source: Any = fields.optional_text("time_source")
        energy_source: Any = fields.optional_text("energy_source")
        return Budget(
            fields.optional_number("time_s"),
            time_source,
            fields.optional_number("energy_j"),
            energy_source,
            fields.optional_number("power_w"),
        )


_LATER = ("flops", "dram_bytes", "relative_error")
"""Fields that artifacts of earlier versions lack."""


@dataclass(frozen=True)
class Assigned:
    """One operator of an entry with the algorithm that computes it and what the search took it to cost.

    Attributes:
        node: its name.
        operator: what it computes.
        algorithm: what computes it.
        time_s: seconds that the search expects.
        energy_j: joules that the search expects.
        flops: arithmetic that the algorithm does; None in artifacts from before it was kept.
        dram_bytes: bytes that must come from or go to memory; None likewise.
        relative_error: norm of the difference from float64 over norm, on sampled results, where the algorithm rounds
            otherwise than the operator's definition; None elsewhere.
    """

    node: str
    operator: str
    algorithm: str
    time_s: float | None = None
    energy_j: float | None = None
    flops: float | None = None
    dram_bytes: float | None = None
    relative_error: float | None = None

    @staticmethod
    def from_json(data: object, where: str) -> Assigned:
        """Read one back; raises ManifestError."""
        fields = Fields(data, where)
        return Assigned(
            fields.text("node"),
            fields.text("operator"),
            fields.text("algorithm"),
            fields.optional_number("time_s"),
            fields.optional_number("energy_j"),
            *(fields.optional_number(name) if fields.has(name) else None for name in _LATER),
        )


def part_assigned(part: Part) -> Assigned:
    """A part as one operator with what computes it."""
    return Assigned(
        part.place, f"opaque.{part.operators}", part.engine, part.time_s, part.energy_j, None, part.dram_bytes
    )


@dataclass(frozen=True)
class Entry:
    """One compiled function: the model at one batch size, in one variant.

    Attributes:
        batch: the batch size it was compiled for.
        function: its name in the library, e.g. ``main_b8``; it takes the inputs, then the weights.
        inputs: what the caller supplies, in the model's order.
        outputs: what the caller receives; none where all of the model lies in parts (`Manifest.parts`).
        weights: digests of the weights in the order in which the function takes them.
        work: what one call does, summed over its operators; `NO_WORK` where that is not known.
        origin: cost of the original graph with its fastest algorithms.
        predicted: cost that the search expects.
        measured: cost that was seen on the device.
        assignment: algorithm of each operator.
        graph: description of the graph, for people and tools; any JSON value.
        variant: which of the manifest's variants; None where there are none.
    """

    batch: int
    function: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    weights: tuple[str, ...] = ()
    work: Work = NO_WORK
    origin: Budget | None = None
    predicted: Budget | None = None
    measured: Budget | None = None
    assignment: tuple[Assigned, ...] = ()
    graph: Any = None
    variant: str | None = None

    def __post_init__(self) -> None:
        _require(self.batch >= 1, f"an entry's batch size must be at least 1, not {self.batch}")
        _require(bool(self.function), f"the entry of batch {self.batch} names no function")
        names = [tensor.name for tensor in self.inputs]
        _require(len(set(names)) == len(names), f"the entry of batch {self.batch} has two inputs of one name: {names}")
        for name, value in asdict(self.work).items():
            _require(math.isfinite(value) and value >= 0, f"work.{name} must be a finite number >= 0, not {value}")

    @property
    def key(self) -> EntryKey:
        """What tells it from the other entries."""
        return self.batch, self.variant

    @property
    def best_known(self) -> Budget | None:
        """What a call costs: as measured where time and energy both are, else as predicted."""
        measured = self.measured
        return measured if measured is not None and measured.time_s and measured.energy_j else self.predicted

    @staticmethod
    def from_json(data: object, where: str) -> Entry:
        """Read one back; raises ManifestError."""
        fields = Fields(data, where)
        return Entry(
            batch=fields.integer("batch"),
            function=fields.text("function"),
            inputs=tuple(TensorInfo.from_json(*item) for item in fields.items("inputs")),
            outputs=tuple(TensorInfo.from_json(*item) for item in fields.items("outputs")),
            weights=fields.texts("weights"),
            work=_work_from_json(*fields.child("work")),
            origin=Budget.from_json(*fields.child("origin")),
            predicted=Budget.from_json(*fields.child("predicted")),
            measured=Budget.from_json(*fields.child("measured")),
            assignment=tuple(Assigned.from_json(*item) for item in fields.items("assignment")),
            graph=fields.child("graph")[0],
            variant=fields.optional_text("variant") if fields.has("variant") else None,
        )


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    Attributes:
        joulec_version: version that compiled it.
        compiler: the compiler with its version, e.g. ``tvm-0.27.0``.
        target: the compiler's target.
        device: fingerprint of the device whose costs decided.
        threads: worker threads it was compiled for.
        objective: what was minimised, as the user wrote it.
        entries: the compiled functions, in ascending batch size; of each, the variant that is best under the objective
            comes first.
        batched: rows of the leading dimension are independent samples, so batches may be split, joined and padded;
            then the leading dimension of every input and output is the entry's batch size.
        created: ISO 8601, UTC.
        frontend: ``relax`` or ``relay``: whose executor the library needs.
        variants: names of the graph's variants, from fast to frugal; empty where there is one only. Not every batch
            size need have all.
        parallel: whether some kernel starts worker threads.
        parts: what runs before and after the compiled functions; None where these are the whole model.
        format_version: layout of the artifact.
    """

    joulec_version: str
    compiler: str
    target: str
    device: str
    threads: int
    objective: str
    entries: tuple[Entry, ...]
    batched: bool
    created: str = ""
    frontend: str = "relax"
    variants: tuple[str, ...] = ()
    parallel: bool = True
    parts: Parts | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _require(bool(self.entries), "the manifest has no entries")
        _require(self.threads >= 1, f"threads must be at least 1, not {self.threads}")
        _require(self.parts is None or not self.batched, "rows of a model in parts are not independent")
        self._check_keys()
        first = self.entries[0]
        _require(bool(self.outputs), "the model has no outputs")
        if self.parts is not None:
            self.parts.check([one.name for one in first.inputs], [one.name for one in first.outputs])
        for entry in self.entries:
            where = f"batch {entry.batch}" + ("" if entry.variant is None else f" ({entry.variant})")
            for kind in ("inputs", "outputs"):
                ours: tuple[TensorInfo, ...] = getattr(entry, kind)
                theirs: tuple[TensorInfo, ...] = getattr(first, kind)
                same = [(t.name, t.dtype) for t in ours] == [(t.name, t.dtype) for t in theirs]
                _require(same, f"the {kind} of {where} differ in name or dtype from those of batch {first.batch}")
                if not self.batched:
                    continue
                for mine, other in zip(ours, theirs, strict=True):
                    _require(mine.shape[:1] == (entry.batch,), f"{mine.name!r} of {where} does not lead with the batch")
                    _require(mine.shape[1:] == other.shape[1:], f"{mine.name!r} of {where} has another row shape")

    @property
    def inputs(self) -> tuple[TensorInfo, ...] | tuple[ValueInfo, ...]:
        """What the caller supplies, in the model's order; shapes are those of the first entry."""
        return self.entries[0].inputs if self.parts is None else self.parts.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...] | tuple[ValueInfo, ...]:
        """What the caller receives; shapes are those of the first entry."""
        return self.entries[0].outputs if self.parts is None else self.parts.outputs

    def _check_keys(self) -> None:
        keys = [entry.key for entry in self.entries]
        batches = [batch for batch, _ in keys]
        differ = len(set(keys)) == len(keys) and batches == sorted(batches)
        _require(differ, f"batch sizes must ascend and differ (or their variants), not {batches}")
        _require(len(set(self.variants)) == len(self.variants), f"two variants have one name: {self.variants}")
        known = self.variants or (None,)
        for batch, variant in keys:
            _require(variant in known, f"the entry of batch {batch} is of the unknown variant {variant!r}")

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The compiled batch sizes, ascending."""
        return tuple(dict.fromkeys(entry.batch for entry in self.entries))

    @property
    def gpu_arch(self) -> str | None:
        """The GPU's architecture that the library is for, e.g. ``sm_80``; None for CPUs."""
        try:
            described = json.loads(self.target)
        except ValueError:
            return None
        on_gpu = isinstance(described, dict) and described.get("kind") == "cuda"
        return str(described.get("arch", "")) if on_gpu else None

    def lookup(self) -> dict[EntryKey, Entry]:
        """The entry of every batch size and variant; for the variant None, the one that is best under the objective.

        Where a batch size does not have a variant, its nearest one stands in, the faster of two.
        """
        found: dict[EntryKey, Entry] = {}
        for batch in self.batch_sizes:
            ours = [entry for entry in self.entries if entry.batch == batch]
            found[batch, None] = ours[0]
            for place, name in enumerate(self.variants):
                found[batch, name] = min(ours, key=lambda entry: self._distance(entry, place))
        return found

    def _distance(self, entry: Entry, place: int) -> tuple[int, int]:
        other = self.variants.index(entry.variant or "")
        return abs(other - place), other

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping."""
        return asdict(self)

    @staticmethod
    def from_json(data: object) -> Manifest:
        """Read a manifest back.

        Raises:
            ManifestError: a field is missing, of the wrong type or out of range, or the format is newer.
        """
        fields = Fields(data, "manifest")
        version = fields.integer("format_version")
        if version > FORMAT_VERSION:
            raise ManifestError(f"its format {version} is newer than {FORMAT_VERSION}, the newest this joulec reads")
        return Manifest(
            joulec_version=fields.text("joulec_version"),
            compiler=fields.text("compiler"),
            target=fields.text("target"),
            device=fields.text("device"),
            threads=fields.integer("threads"),
            objective=fields.text("objective"),
            entries=tuple(Entry.from_json(*item) for item in fields.items("entries")),
            batched=fields.boolean("batched"),
            created=fields.text("created"),
            frontend=fields.text("frontend") if fields.has("frontend") else "relax",
            variants=fields.texts("variants") if fields.has("variants") else (),
            parallel=fields.boolean("parallel") if fields.has("parallel") else True,
            parts=Parts.from_json(*fields.child("parts")) if fields.has("parts") else None,
            format_version=version,
        )

    def assigned(self) -> tuple[Assigned, ...]:
        """What computes each operator of all entries, and each part."""
        parts = () if self.parts is None else self.parts.there
        return (*(one for entry in self.entries for one in entry.assignment), *map(part_assigned, parts))

    def weights(self) -> Mapping[str, None]:
        """Digests of all weights, each once, in order of first use."""
        return dict.fromkeys(digest for entry in self.entries for digest in entry.weights)
