"""ONNX models to graphs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from joulec.passes.graph import Graph, OperatorError, TensorType, Value
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters import CONVERTERS, Builder, Source, opaque
from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.fold import fold_once
from joulec.passes.onnx.load import load
from joulec.passes.onnx.program import Program, captured, title
from joulec.passes.onnx.shapes import fix


@dataclass(frozen=True)
class ImportedModel:
    """A model as graph, and the model that the graph stands for.

    Attributes:
        graph: values carry ONNX's names, nodes those of the ONNX nodes.
        model: shapes fixed and constants folded, otherwise as the file has it: the original for verification.
        batch: the leading dimension that all inputs and outputs share, None where there is none.
    """

    graph: Graph
    model: onnx.ModelProto
    batch: int | None

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
) -> ImportedModel:
    """Read an ONNX model.

    Args:
        model: a file or a loaded model (which is not changed).
        input_shapes: sizes of the inputs by name, needed where the model leaves a dimension open.
        batch: the leading dimension of all inputs and outputs; None keeps the model's own.

    Raises:
        ModelError: the model cannot be read, or not with these shapes; one line that says why and what to do.
    """
    program = load(model)
    fold_once(program, {})
    program, types, found = fix(program, input_shapes, batch)
    _check_types(program, types)
    return ImportedModel(_graph(program, types), program.model(types), found)


def _check_types(program: Program, types: Mapping[str, TensorType]) -> None:
    """Refuse results without a fixed shape, and what is no tensor of numbers."""
    for node in program.nodes:
        for name in (*node.input, *captured(node), *node.output):
            if name and name not in types:
                kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
                raise ModelError(
                    f"{program.name}: the shape of '{name}' at node '{title(node)}' ({kind}) cannot be told ahead: it "
                    f"depends on data, is no tensor, or the operator is not ONNX's own; joulec needs fixed shapes"
                )
    for value in (*program.inputs, *program.outputs):
        if value.name not in types:
            raise ModelError(f"{program.name}: the shape of '{value.name}' cannot be told ahead; joulec needs it fixed")
        if types[value.name].dtype == "object":
            raise ModelError(f"{program.name}: '{value.name}' holds text; joulec takes tensors of numbers only")


def _graph(program: Program, types: Mapping[str, TensorType]) -> Graph:
    inputs = [Value.input(value.name, types[value.name]) for value in program.inputs]
    builder = Builder(program.constants, {value.name: value for value in inputs})
    for node in program.nodes:
        source = Source(node, program.opsets, types, builder)
        results = _modelled(source)
        builder.bind(source, opaque.convert(source) if results is None else results)
    outputs = [builder.value(value.name) for value in program.outputs]
    return Graph.build(inputs, outputs, builder.nodes, [value.name for value in program.outputs])


def _modelled(source: Source) -> Sequence[Operand] | None:
    """The results of a node in joulec's own operators, None where they do not cover it."""
    convert = CONVERTERS.get(source.node.op_type)
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
