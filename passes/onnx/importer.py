"""ONNX models to graphs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from joulec.passes.graph import Graph, OperatorError, TensorType, Value
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.branches import opened
from joulec.passes.onnx.converters import CONVERTERS, Builder, Source, opaque
from joulec.passes.onnx.engines import has_onnxruntime
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.fold import fold_once
from joulec.passes.onnx.load import load
from joulec.passes.onnx.program import Program, title
from joulec.passes.onnx.ranges import Range, input_ranges
from joulec.passes.onnx.regions import regions
from joulec.passes.onnx.shapes import fix
from joulec.passes.onnx.widening import widened


@dataclass(frozen=True)
class ImportedModel:
    """A model as graph, and the model that the graph stands for.

    Attributes:
        graph: values carry ONNX's names, nodes those of the ONNX nodes.
        model: shapes fixed and constants folded, otherwise as the file has it: the original for verification.
        batch: the leading dimension that all inputs and outputs share, None where there is none.
        ranges: of inputs of whole numbers, by name, as far as the model tells (`joulec.passes.onnx.ranges`).
        seen: values whose shape no inference tells, as operator and type: runs on random inputs showed it.
        branched: whether nodes of both branches of an If are in the graph.
    """

    graph: Graph
    model: onnx.ModelProto
    batch: int | None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    seen: tuple[str, ...] = ()
    branched: bool = False

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in the model's order."""
        return tuple(value.name for value in self.graph.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in the model's order."""
        return self.graph.output_names


def import_onnx(
    model: onnx.ModelProto | str | os.PathLike[str],
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    branches: bool = False,
) -> ImportedModel:
    """Read an ONNX model.

    Args:
        model: a file or a loaded model (which is not changed).
        input_shapes: sizes of the inputs by name, needed where the model leaves a dimension open.
        batch: the leading dimension of all inputs and outputs; None keeps the model's own.
        branches: put the nodes of both branches of an If into the graph (`joulec.passes.onnx.branches`), for a back
            end that runs only what the condition asks for.

    Raises:
        ModelError: the model cannot be read, or not with these shapes; one line that says why and what to do.
    """
    program = load(model)
    fold_once(program, {})
    program, types, found = fix(program, input_shapes, batch)
    within, its_types = opened(program, types) if branches else (program, types)
    graph, ranges = _graph(*widened(within, its_types)), input_ranges(program, types)
    return ImportedModel(graph, program.model(types), found, ranges, _seen(within), within is not program)


def _seen(program: Program) -> tuple[str, ...]:
    made = [(node, name) for node in program.nodes for name in node.output if name in program.seen]
    return tuple(f"'{name}' of {title(node)} ({node.op_type}) as {program.seen[name]}" for node, name in made)


def _edges(program: Program, types: Mapping[str, TensorType]) -> set[str]:
    """The values that can be edges of the graph: tensors of numbers whose shape is known.

    Raises:
        ModelError: an input or output of the model is none.
    """
    _check_sizes(program, types)
    edges = {name for name, type in types.items() if type.dtype != "object"}
    for value in (*program.inputs, *program.outputs):
        if value.name not in types:
            made = next((node for node in program.nodes if value.name in node.output), None)
            place = "" if made is None else f" at node '{title(made)}' ({made.op_type})"
            raise ModelError(
                f"{program.name}: the shape of output '{value.name}'{place} cannot be told ahead: it depends on data, "
                f"or is no tensor; joulec needs fixed shapes: export the model with that output's shape, or cut it off"
                + ("" if has_onnxruntime() else "; joulec[onnxruntime] knows more operators")
            )
        if value.name not in edges:
            raise ModelError(f"{program.name}: '{value.name}' holds text; joulec takes tensors of numbers only")
    return edges


def _check_sizes(program: Program, types: Mapping[str, TensorType]) -> None:
    """Refuse a tensor that no memory holds, before anything tries to make it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    made = [(f"node '{title(node)}' ({node.op_type}) makes", name) for node in program.nodes for name in node.output]
    for what, name in [*((f"input '{value.name}' is", value.name) for value in program.inputs), *made]:
        size = types[name].bytes if name in types else 0
        if size > memory:
            raise ModelError(
                f"{program.name}: {what} {types[name]}, which takes {size / 2**30:.3g} GiB; this machine has "
                f"{memory / 2**30:.3g} GiB of memory: check the shapes, or compile it on another"
            )


def _graph(program: Program, types: Mapping[str, TensorType]) -> Graph:
    inputs = [Value.input(value.name, types[value.name]) for value in program.inputs]
    builder = Builder(program.constants, {value.name: value for value in inputs}, unsure=program.unsure)
    names = [value.name for value in program.outputs]
    for region in regions(program.nodes, _edges(program, types), names):
        source = Source(region.nodes[-1], program.opsets, types, builder)
        if len(region.nodes) > 1 or list(region.outputs) != source.outputs:
            whole = opaque.convert_region(region, program.opsets, types, builder)
            builder.bind(region.outputs, source.title, whole)
            continue
        results = _modelled(source)
        builder.bind(source.outputs, source.title, opaque.convert(source) if results is None else results)
    outputs = [builder.value(name) for name in names]
    return Graph.build(inputs, outputs, builder.nodes, names)


def _modelled(source: Source) -> Sequence[Operand] | None:
    """The results of a node in joulec's own operators, None where they do not cover it."""
    convert = None if _follows_data(source) else CONVERTERS.get(source.node.op_type)
    if convert is None or source.node.domain not in ("", "ai.onnx") or not source.is_float32:
        source.builder.discard()
        return None
    try:
        results = convert(source)
    except OperatorError:
        results = None
    if results is None or [result.type for result in results] != source.result_types:
        source.builder.discard()
        return None
    return results


def _follows_data(source: Source) -> bool:
    """Whether integers that are computed decide a result's shape, so that it is not certain to be the one seen."""
    computed = [name for name in source.node.input[1:] if name and name not in source.builder.constants]
    return any(name in source.builder.unsure for name in source.outputs) and any(
        source.types[name].dtype in ("int32", "int64") for name in computed if name in source.types
    )
