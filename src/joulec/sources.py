"""The user's model, one canonical graph per batch size, with what computes the original."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joulec.around import Around, surround
from joulec.passes.graph import Graph
from joulec.passes.verification import (
    Ranges,
    Reference,
    ReferenceRefusal,
    VerificationError,
    likely_inputs,
    random_inputs,
)

if TYPE_CHECKING:
    from joulec.passes.onnx.importer import ImportedModel

_NOTHING = Reference("nothing", lambda given: ())
"""What computes a graph without outputs."""

_WHOLE = ("int32", "int64")
_SETTLING_S = 20.0
"""How long finding inputs that the model takes may compute, per set."""

Tidy = Callable[[Graph], Graph]


class SourceError(ValueError):
    """A model of a kind that joulec does not read, or options that do not fit it."""


@dataclass(frozen=True)
class Source:
    """A model at one batch size.

    Attributes:
        batch: the batch size; 1 where none can be recognised.
        batched: whether its inputs and outputs all lead with the batch.
        graph: canonical.
        reference: makes what computes the original, on demand.
        numbers: integers that the model holds, which may be what it expects of an input.
        ranges: of inputs of whole numbers, by name: the least, and the one after the largest.
        notes: what the user should know of how the model was read.
        branched: whether both branches of an If are in the graph; of these, random inputs may take one alone.
        around: what of the model runs before and after the graph; None where the graph is all of it.
    """

    batch: int
    batched: bool
    graph: Graph
    reference: Callable[[], Reference]
    numbers: tuple[int, ...] = ()
    ranges: Ranges = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    branched: bool = False
    around: Around | None = None

    def inputs(self, seed: int) -> list[dict[str, Any]]:
        """Random inputs that keep to the ranges; what a head before the graph gives, where there is one."""
        if self.around is not None and self.around.parts.head is not None and self.around.samples:
            return [dict(sample.taken) for sample in self.around.samples]
        return random_inputs(self.graph.inputs, seed, self.ranges)

    def likely_inputs(self, seed: int) -> list[dict[str, Any]]:
        """Inputs that hold the numbers which the model does."""
        return likely_inputs(self.graph.inputs, self.numbers, seed, self.ranges)


def read_sources(
    model: Any,
    tidy: Tidy,
    batch_sizes: Sequence[int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    entry: str | None = None,
    branches: bool = False,
    integers: bool = False,
) -> list[Source]:
    """Read a model for each batch size asked for, or as it stands.

    Args:
        model: path of an ONNX file, a ModelProto, or an IRModule (Relax, or Relay under TVM 0.19).
        tidy: brings a graph into the form that the back end prices.
        entry: which function of an IRModule; None takes ``main``, or the only one that is public.
        branches: whether graphs may hold both branches of an If (`joulec.passes.onnx.branches`).
        integers: whether quantised numbers are multiplied as bytes (`joulec.passes.onnx.integers`).

    Raises:
        ModelError: the ONNX model cannot be read or does not take a batch size.
        ImportModuleError: the IRModule cannot be read.
        SourceError: the model is something else, or the batch sizes do not fit.
    """
    sizes = None if batch_sizes is None else sorted(set(batch_sizes))
    if sizes is not None and (not sizes or sizes[0] < 1):
        raise SourceError(f"batch sizes are whole numbers from 1 on, not {list(batch_sizes or [])}")
    wanted: list[int | None] = [None] if sizes is None else [*sizes]
    if isinstance(model, (str, os.PathLike)) or type(model).__name__ == "ModelProto":
        if entry is not None:
            raise SourceError("an ONNX model has one graph; entry= chooses among the functions of an IRModule")
        return [_from_onnx(model, tidy, size, input_shapes or {}, branches, integers) for size in wanted]
    if type(model).__name__ == "IRModule":
        return [_from_module(model, tidy, size, input_shapes or {}, entry) for size in wanted]
    raise SourceError(
        f"a model is the path of an ONNX file, an onnx.ModelProto or an IRModule, not {type(model).__name__}"
    )


def _from_onnx(
    model: Any,
    tidy: Tidy,
    batch: int | None,
    input_shapes: Mapping[str, Sequence[int]],
    branches: bool,
    integers: bool,
) -> Source:
    from joulec.passes.onnx.importer import import_onnx
    from joulec.passes.onnx.program import held_numbers
    from joulec.passes.onnx.reference import check_shapes, onnx_reference

    imported = import_onnx(model, input_shapes, batch, branches, integers)
    size = batch or imported.batch
    graph = tidy(imported.graph)
    if input_shapes:  # shapes that the model does not take are told before anything is measured
        check_shapes(imported.model if imported.whole is None else imported.whole.model)
    numbers = held_numbers(imported.model.graph)
    notes = _notes(imported.seen)
    if imported.whole is not None:
        core = onnx_reference(imported.model) if graph.outputs else _NOTHING
        around, more = surround(imported, graph, core)
        known = (numbers, imported.ranges, (*notes, *more), imported.branched, around)
        return Source(size or 1, False, graph, lambda: core, *known)
    ranges = _settled(imported, graph, numbers)
    return Source(
        size or 1,
        _leads_with(graph, size),
        graph,
        lambda: onnx_reference(imported.model),
        numbers,
        ranges,
        notes,
        imported.branched,
    )


def _settled(imported: ImportedModel, graph: Graph, numbers: Sequence[int]) -> Ranges:
    """The ranges of inputs; where the model takes no random ones of these, the numbers of likely ones that it takes."""
    from joulec.passes.onnx.reference import onnx_reference

    free = [value for value in graph.inputs if value.type.dtype in _WHOLE and value.name not in imported.ranges]
    if not free or not numbers:
        return imported.ranges
    reference = onnx_reference(imported.model, _SETTLING_S)
    likely = likely_inputs(graph.inputs, numbers, 0, imported.ranges)
    for given in [*random_inputs(graph.inputs, 0, imported.ranges)[:1], *likely]:
        try:
            reference.run(given)
        except ReferenceRefusal:
            continue
        except VerificationError:  # too slow to try more
            break
        told = {value.name: given[value.name] for value in free if given[value.name].size}
        single = {name: int(array.flat[0]) for name, array in told.items() if (array == array.flat[0]).all()}
        taken = {name: (number, number + 1) for name, number in single.items() if number not in (0, 1)}
        return {**imported.ranges, **taken}
    return imported.ranges


def _notes(seen: Sequence[str]) -> tuple[str, ...]:
    if not seen:
        return ()
    return (
        f"no rule tells the shape of {', '.join(seen)}: so it was in all runs on random inputs; a call whose data give "
        "another shape ends in an error",
    )


def _from_module(
    module: Any, tidy: Tidy, batch: int | None, input_shapes: Mapping[str, Sequence[int]], entry: str | None
) -> Source:
    from joulec.frontends import chosen_frontend, load_tools

    tools = load_tools(chosen_frontend(None))
    module, bound = tools.prepare(module, entry, input_shapes, batch)
    imported = tools.import_module(module)
    leading = {value.type.shape[:1] for value in (*imported.inputs, *imported.outputs)}
    size = next(iter(leading))[0] if len(leading) == 1 and () not in leading else None
    if batch is not None and batch != size:
        why = (
            "its inputs and outputs do not all lead with it"
            if bound
            else f"an IRModule of fixed shapes is compiled for these (batch {size})"
        )
        raise SourceError(f"the module cannot be made for a batch of {batch}: {why}")
    graph = tidy(imported)
    names = [value.name for value in graph.inputs]
    return Source(size or 1, _leads_with(graph, size), graph, lambda: tools.reference(module, names))


def _leads_with(graph: Graph, batch: int | None) -> bool:
    """Whether all inputs and outputs lead with the batch, so that rows may be split and joined."""
    values = (*graph.inputs, *graph.outputs)
    return batch is not None and bool(graph.inputs) and all(value.type.shape[:1] == (batch,) for value in values)
