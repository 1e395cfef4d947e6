"""What of an ONNX model runs before and after its compiled function, while it is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from joulec.passes.verification import (
    MOST_TEXT,
    Reference,
    ReferenceRefusal,
    VerificationError,
    likely_inputs,
    random_inputs,
)
from joulec.profiler.candidate import Work
from joulec.profiler.meter import Meter
from joulec.profiler.values import random_value
from joulec.runtime.external import ExternalError
from joulec.runtime.inputs import InputError
from joulec.runtime.manifest import Budget, TensorInfo
from joulec.runtime.parts import Part, Parts, ValueInfo
from joulec.runtime.staging import Staging, taken
from joulec.runtime.timing import time_calls

if TYPE_CHECKING:
    from joulec.passes.graph import Graph
    from joulec.passes.onnx.importer import ImportedModel, Whole
    from joulec.passes.onnx.partition import PartModel

_SAMPLES = 3
_NAMED = 6
"""How many kinds of operators a part is called by."""
_WINDOW_S = 0.05
_MOST_WINDOWS = 6
_REFUSALS = (ReferenceRefusal, ExternalError, InputError)


@dataclass(frozen=True)
class Sample:
    """One run of the original on random inputs, part by part.

    Attributes:
        given: the model's inputs by name.
        taken: what the compiled function takes of them and of the head.
        before_tail: all values that are known when the tail begins.
    """

    given: Mapping[str, Any]
    taken: Mapping[str, Any]
    before_tail: Mapping[str, Any]


@dataclass(frozen=True)
class Around:
    """The head and tail of a model.

    Attributes:
        parts: what they are, as the artifact's manifest says it.
        definitions: their ONNX models by key.
        inputs: of the compiled function.
        outputs: of the compiled function.
        whole: the model that they are of.
        reference: computes the whole original.
        core: computes what the compiled function stands for.
        samples: runs on inputs that the original takes; empty where it takes none of the random ones.
    """

    parts: Parts
    definitions: Mapping[str, bytes]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    whole: Whole
    reference: Reference
    core: Reference
    samples: tuple[Sample, ...] = ()

    def staging(self, threads: int = 1) -> Staging:
        """The parts, ready to run."""
        return Staging(self.parts, self.definitions, threads)

    def run(self, staging: Staging, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """The outputs with the original in the compiled function's place."""
        names = [one.name for one in self.inputs]
        values = [given[one.name] for one in self.parts.inputs]
        return staging.run(
            values, self.inputs, self.outputs, lambda arrays: self.core.run(dict(zip(names, arrays, strict=True)))
        )


def surround(imported: ImportedModel, graph: Graph, core: Reference) -> tuple[Around, tuple[str, ...]]:
    """The parts of a model that has some, with an engine chosen for each, and what the user should know.

    Args:
        core: computes what the graph stands for.

    Raises:
        ModelError: no engine knows an operator of a part.
        VerificationError: the original takes too long to compute.
    """
    from joulec.passes.onnx.program import held_words
    from joulec.passes.onnx.reference import onnx_reference

    whole = imported.whole
    assert whole is not None
    words = held_words(whole.model.graph)
    parts = Parts(
        tuple(_info(value, whole) for value in whole.model.graph.input),
        tuple(_info(value, whole) for value in whole.model.graph.output),
        words=words,
    )
    inputs = tuple(TensorInfo(value.name, value.type.shape, value.type.dtype) for value in graph.inputs)
    outputs = tuple(
        TensorInfo(name, value.type.shape, value.type.dtype)
        for name, value in zip(graph.output_names, graph.outputs, strict=True)
    )
    around = Around(parts, {}, inputs, outputs, whole, onnx_reference(whole.model), core)
    given = _taken_by_original(whole, around, words)
    around = _with(around, "head", whole.partition.head, given[0] if given else None)
    around = replace(around, samples=_samples(around, given))
    known = around.samples[0].before_tail if around.samples else None
    around = _with(around, "tail", whole.partition.tail, known)
    return around, _notes(around, whole)


def _info(value: Any, whole: Whole) -> ValueInfo:
    from joulec.passes.onnx.program import dimensions, form_of

    type = whole.types.get(value.name)
    shape: tuple[int | None, ...] | None = None if type is None else type.shape
    tensor = value.type.tensor_type
    if type is None and value.type.HasField("tensor_type") and tensor.HasField("shape"):
        shape = tuple(size if isinstance(size, int) else None for size in dimensions(value))
    return ValueInfo(value.name, form_of(value), shape, whole.ranges.get(value.name))


def _taken_by_original(whole: Whole, around: Around, words: Sequence[str]) -> list[dict[str, Any]]:
    """Random inputs that the original takes, else the first of the likely ones that it takes."""
    from joulec.passes.graph import Value
    from joulec.passes.onnx.program import held_numbers

    plain = [Value.input(one.name, whole.types[one.name]) for one in around.parts.inputs if one.name in whole.types]
    if any(value.type.dtype == "object" and value.type.size > MOST_TEXT for value in plain):
        return []
    others = [one for one in around.parts.inputs if one.name not in whole.types]
    numbers = held_numbers(whole.model.graph)
    found: list[dict[str, Any]] = []
    for index, given in enumerate(
        chain(random_inputs(plain, 0, whole.ranges, words), likely_inputs(plain, numbers, 0, whole.ranges, words))
    ):
        if len(found) == _SAMPLES or (found and index >= _SAMPLES):
            break
        rng = np.random.default_rng(index)
        values = given | {one.name: random_value(rng, one.form, one.shape, words) for one in others}
        try:
            around.reference.run(values)
        except ReferenceRefusal:
            continue
        except VerificationError:  # too slow to try more
            if not found:
                raise
            break
        found.append(values)
    return found


def _with(around: Around, place: str, model: PartModel | None, given: Mapping[str, Any] | None) -> Around:
    """With one more part."""
    from joulec.passes.onnx.engines import engine_for_part, external_key
    from joulec.passes.onnx.program import form_of

    if model is None:
        return around
    definition = model.model.SerializeToString(deterministic=True)
    forms = [form_of(value) for value in (*model.model.graph.input, *model.model.graph.output)]
    operators = model.model.graph.name
    feeds = None if given is None else {name: given[name] for name in model.inputs}
    engine = engine_for_part(definition, operators, forms, feeds)
    key = external_key(engine, definition)
    part = Part(place, key, engine, _shortened(operators), len(model.model.graph.node), model.inputs, model.outputs)
    parts = replace(around.parts, **{place: part})  # type: ignore[arg-type]
    return replace(around, parts=parts, definitions={**around.definitions, key: definition})


def _shortened(operators: str) -> str:
    kinds = operators.split("+")
    return "+".join((*kinds[:_NAMED], "…") if len(kinds) > _NAMED else kinds)


def _samples(around: Around, sets: Sequence[Mapping[str, Any]]) -> tuple[Sample, ...]:
    staging, samples = around.staging(), []
    for given in sets:
        values: dict[str, Any] = staging.bind([given[one.name] for one in around.parts.inputs])
        try:
            staging.before(values)
            arrays = dict(zip((one.name for one in around.inputs), taken(values, around.inputs), strict=True))
            values.update(zip((one.name for one in around.outputs), around.core.run(arrays), strict=True))
        except _REFUSALS:
            continue
        samples.append(Sample(given, arrays, values))
    return tuple(samples)


def _notes(around: Around, whole: Whole) -> tuple[str, ...]:
    notes = []
    for part, model, where, rest in (
        (around.parts.head, whole.partition.head, "before", "all that it needs"),
        (around.parts.tail, whole.partition.tail, "after", "all that follows from it"),
    ):
        if part is not None and model is not None:
            notes.append(
                f"node {model.first} takes or gives what compiled code does not hold (text, a sequence, an optional, "
                f"or a size that depends on data): with {rest}, {model.share:.0%} of the nodes, it runs in "
                f"{part.engine}, {where} the compiled function"
            )
    return tuple(notes)


def priced(around: Around, meter: Meter | None, threads: int) -> Around:
    """With the cost of each part, measured on a run of the original; unknown where there was none.

    Raises:
        ModelError: an engine that knows a part's operators cannot compute them.
        MeterError: the meter failed.
    """
    if not around.samples:
        return around
    staging, sample = around.staging(threads), around.samples[0]
    head = _priced(around.parts.head, staging, sample.given, meter)
    tail = _priced(around.parts.tail, staging, sample.before_tail, meter)
    return replace(around, parts=replace(around.parts, head=head, tail=tail))


def _priced(part: Part | None, staging: Staging, values: Mapping[str, Any], meter: Meter | None) -> Part | None:
    from joulec.passes.onnx.errors import ModelError

    if part is None:
        return None
    call: Callable[[], object] = partial(staging.compute, part, values)
    try:
        found = staging.compute(part, values)
    except ExternalError as error:
        raise ModelError(f"nothing here computes {part.operators}: {error}; export the model without it") from error
    moved = float(sum(map(_size, (*(values[name] for name in part.inputs), *found))))
    how: dict[str, Any] = {"repeats": 5, "window_s": _WINDOW_S, "most_windows": _MOST_WINDOWS, "meter": meter}
    budget = time_calls(call, work=Work(0.0, moved), **how).budget
    return replace(
        part, time_s=budget.time_s, energy_j=budget.energy_j, energy_source=budget.energy_source, dram_bytes=moved
    )


def _size(value: Any) -> int:
    """Bytes of a value, of text those of its references."""
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return int(value.nbytes) if isinstance(value, np.ndarray) else 0


def parts_work(around: Around | None) -> Work:
    """What the parts read and give."""
    return Work(0.0, 0.0 if around is None else sum(part.dram_bytes for part in around.parts.there))


def outside_budget(around: Around | None, budget: Budget) -> Budget:
    """The cost of a call with that of its parts; not known where one of them is not.

    Where joules come from several sources, their sum is called an estimate.
    """
    parts = () if around is None else around.parts.there
    if not parts:
        return budget
    costs = [(part.time_s, part.energy_j, part.energy_source) for part in parts]
    if budget.time_s != 0:
        costs.append((budget.time_s, budget.energy_j, budget.energy_source))
    times, energies, sources = ([one for one in column if one is not None] for column in zip(*costs, strict=True))
    if len(times) < len(costs):
        return Budget()
    time_s, time_source = sum(times), budget.time_source if budget.time_s else "measured"
    if not time_s or len(energies) < len(costs) or len(sources) < len(costs):
        return Budget(time_s, time_source)
    mixed = len(set(sources)) > 1
    return Budget(time_s, time_source, sum(energies), "estimated" if mixed else sources[0], sum(energies) / time_s)
