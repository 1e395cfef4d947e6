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
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.fold import fold_once
from joulec.passes.onnx.integers import in_bytes
from joulec.passes.onnx.load import load
from joulec.passes.onnx.partition import Partition, partition
from joulec.passes.onnx.program import Program, title
from joulec.passes.onnx.ranges import Range, input_ranges
from joulec.passes.onnx.regions import regions
from joulec.passes.onnx.shapes import fix
from joulec.passes.onnx.widening import widened


@dataclass(frozen=True)
class Whole:
    """A model of which the graph is a part.

    Attributes:
        partition: its parts.
        model: all of it, shapes fixed and constants folded.
        types: of the values whose shape is known.
        ranges: of inputs of whole numbers, by name.
    """

    partition: Partition
    model: onnx.ModelProto
    types: Mapping[str, TensorType]
    ranges: Mapping[str, Range]


@dataclass(frozen=True)
class ImportedModel:
    """A model as graph, and the model that the graph stands for.

    Attributes:
        graph: values carry ONNX's names, nodes those of the ONNX nodes.
        model: what the graph stands for, shapes fixed and constants folded, otherwise as the file has it: the original
            for verification.
        batch: the leading dimension that all inputs and outputs share, None where there is none.
        ranges: of inputs of whole numbers, by name, as far as the model tells (`joulec.passes.onnx.ranges`).
        whole: the model with what runs before and after the graph; None where the graph is all of it.
        seen: values whose shape no inference tells, as operator and type: runs on random inputs showed it.
        branched: whether nodes of both branches of an If are in the graph.
    """

    graph: Graph
    model: onnx.ModelProto
    batch: int | None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    seen: tuple[str, ...] = ()
    branched: bool = False
    whole: Whole | None = None

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
    integers: bool = False,
) -> ImportedModel:
    """Read an ONNX model.

    Args:
        model: a file or a loaded model (which is not changed).
        input_shapes: sizes of the inputs by name, needed where the model leaves a dimension open.
        batch: the leading dimension of all inputs and outputs; None keeps the model's own.
        branches: put the nodes of both branches of an If into the graph (`joulec.passes.onnx.branches`), for a back
            end that runs only what the condition asks for.
        integers: compute products between dequantisation and quantisation with bytes (`joulec.passes.onnx.integers`).

    Raises:
        ModelError: the model cannot be read, or not with these shapes; one line that says why and what to do.
    """
    program = load(model)
    fold_once(program, {})
    program, types, found = fix(program, input_shapes, batch)
    _check_sizes(program, types)
    parts = partition(program, types, _edges(types))
    core = program if parts is None else parts.core
    within, its_types = opened(core, types) if branches else (core, types)
    numbers = widened(within, its_types)
    graph, ranges = _graph(*(in_bytes(*numbers) if integers else numbers)), input_ranges(program, types)
    whole = None if parts is None else Whole(parts, program.model(types), types, ranges)
    return ImportedModel(graph, core.model(types), found, ranges, _seen(within), within is not core, whole)


def _seen(program: Program) -> tuple[str, ...]:
    made = [(node, name) for node in program.nodes for name in node.output if name in program.seen]
    return tuple(f"'{name}' of {title(node)} ({node.op_type}) as {program.seen[name]}" for node, name in made)


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


def _edges(types: Mapping[str, TensorType]) -> set[str]:
    """The values that can be edges of the graph: tensors of numbers whose shape is known."""
    return {name for name, type in types.items() if type.dtype != "object"}


def _graph(program: Program, types: Mapping[str, TensorType]) -> Graph:
    inputs = [Value.input(value.name, types[value.name]) for value in program.inputs]
    builder = Builder(program.constants, {value.name: value for value in inputs}, unsure=program.unsure)
    names = [value.name for value in program.outputs]
    for region in regions(program.nodes, _edges(types), names):
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
