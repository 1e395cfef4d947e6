"""Graphs to ONNX models: what a search found, in a file that every engine reads."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.shape_inference

from joulec.passes.graph import Graph, Node, TensorType, Value
from joulec.passes.graph.node import Operand
from joulec.passes.onnx import exporter_opaque
from joulec.passes.onnx.exporter_operators import EXPORTERS, add_bias, write_activation
from joulec.passes.onnx.exporter_writer import OPSET, ExportError, Writer

__all__ = ["ExportError", "export_onnx"]


def export_onnx(graph: Graph, name: str = "model", taken: Collection[str] = ()) -> onnx.ModelProto:
    """Write a graph as an ONNX model.

    Epilogues are written out, placed concats become concats, weights are folded and stored once per content, operators
    that joulec does not model are put back as they were. Inputs and outputs keep their names.

    Args:
        name: the name of the ONNX graph.
        taken: names that stand for something elsewhere, so that nothing inside may bear them.

    Returns:
        A model that ONNX's checker accepts, shape inference included.

    Raises:
        ExportError: a node has no counterpart in ONNX; the message names it.
    """
    writer = Writer(opset=exporter_opaque.opset_for(graph, OPSET))
    writer.taken.update(taken)
    writer.taken.update(value.name for value in graph.inputs)
    writer.taken.update(graph.output_names)
    writer.taken.update(exporter_opaque.inner_names(graph))
    writer.names.update((value, value.name) for value in graph.inputs)
    returned = _returned(graph)
    for node in graph.nodes:
        for index, value in enumerate(node.outputs):
            suffix = f":{index}" if len(node.outputs) > 1 else ""
            writer.names[value] = returned.get(value) or writer.fresh(f"{node.name or node.op.name}{suffix}")
        _write(writer, node)
    for value, output in zip(graph.outputs, graph.output_names, strict=True):
        if writer.names[value] != output:
            writer.emit("Identity", [writer.names[value]], [output], name=output)
    return _model(writer, graph, name)


def _returned(graph: Graph) -> dict[Value, str]:
    """The output's name for each value that the graph computes and returns."""
    table: dict[Value, str] = {}
    inputs = set(graph.inputs)
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if value not in inputs:
            table.setdefault(value, name)
    return table


def _write(writer: Writer, node: Node) -> None:
    """A node: its anchor, then what is fused into it."""
    export = EXPORTERS.get(type(node.op))
    if export is None:
        raise ExportError(
            f"cannot write {node.name or node.op.name} to ONNX: there is no exporter for {type(node.op).__name__}"
        )
    finals = [writer.names[value] for value in node.outputs]
    steps = list(node.epilogue)
    operands = list(node.epilogue_operands)
    bias: Operand | None = None
    if steps and steps[0].kind == "bias" and export.takes_bias(node):
        bias = operands.pop(0)
        steps.pop(0)
    outputs = finals if not steps else [writer.fresh(f"{finals[0]}.anchor"), *finals[1:]]
    export.write(writer, node, outputs, bias)
    current = outputs[0]
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        target = finals[0] if last else writer.fresh(f"{finals[0]}.{step.activation or step.kind}")
        if step.kind == "activation":
            write_activation(writer, step.activation, step.params, current, target, node.name)
        elif step.kind == "bias":
            add_bias(writer, operands.pop(0), len(node.outputs[0].type.shape), current, target, node.name)
        else:
            writer.emit("Add", [current, writer.operand(operands.pop(0))], [target], name=node.name)
        current = target


def _model(writer: Writer, graph: Graph, name: str) -> onnx.ModelProto:
    inputs = [typed(value.name, value.type) for value in graph.inputs]
    outputs = [typed(output, value.type) for value, output in zip(graph.outputs, graph.output_names, strict=True)]
    told = {value.name for value in (*inputs, *outputs)}
    infos = [typed(known, value.type) for value, known in writer.names.items() if known not in told]
    proto = onnx.helper.make_graph(
        writer.nodes, name, inputs, outputs, list(writer.constants.values()), value_info=infos
    )
    opsets = [onnx.helper.make_opsetid("", writer.opset)]
    opsets += [onnx.helper.make_opsetid(domain, version) for domain, version in sorted(writer.opsets.items())]
    ir_version = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    model = onnx.helper.make_model(proto, opset_imports=opsets, ir_version=ir_version, producer_name="joulec")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph gives no valid ONNX model: {' '.join(str(error).split())}") from error
    return model


def typed(name: str, type: TensorType) -> onnx.ValueInfoProto:
    """A name with its type, in ONNX's words."""
    elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(type.dtype))
    return onnx.helper.make_tensor_value_info(name, elem, type.shape)
