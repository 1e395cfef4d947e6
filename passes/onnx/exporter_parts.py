"""A graph's ONNX model with what runs before and after it put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx.checker
import onnx.helper

from joulec.passes.graph import Graph
from joulec.passes.onnx.exporter import export_onnx
from joulec.passes.onnx.exporter_opaque import fitting
from joulec.passes.onnx.exporter_writer import ExportError
from joulec.passes.onnx.importer import Whole


def export_whole(graph: Graph, whole: Whole, name: str = "model") -> onnx.ModelProto:
    """Write a graph as an ONNX model, between the head and the tail that it had.

    Args:
        graph: what was made of the model's compiled part.
        whole: the model.
        name: the name of the ONNX graph.

    Raises:
        ExportError: a node has no counterpart in ONNX, or a part cannot be put into the version that the graph needs.
    """
    parts = [part.model for part in (whole.partition.head, whole.partition.tail) if part is not None]
    taken = {text for part in parts for text in _names(part.graph)}
    core = export_onnx(graph, name, taken)
    opset = next(entry.version for entry in core.opset_import if not entry.domain)
    head, tail = (
        [] if part is None else [fitting(part.model, opset, part.first)]
        for part in (whole.partition.head, whole.partition.tail)
    )
    return _joined([*head, core, *tail], whole.model.graph, name)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """All names that stand for something in a graph and in those inside its nodes."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield node.name
        yield from (*node.input, *node.output)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _names(inner)


def _joined(models: Sequence[onnx.ModelProto], whole: onnx.GraphProto, name: str) -> onnx.ModelProto:
    """One model of parts that name the values between them alike."""
    constants = {tensor.name: tensor for model in models for tensor in model.graph.initializer}
    versions: dict[str, int] = {}
    for model in models:
        for entry in model.opset_import:
            versions[entry.domain] = max(entry.version, versions.get(entry.domain, 0))
    graph = onnx.helper.make_graph(
        [node for model in models for node in model.graph.node],
        name,
        list(whole.input),
        list(whole.output),
        list(constants.values()),
    )
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())]
    written = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=max(model.ir_version for model in models), producer_name="joulec"
    )
    try:
        onnx.checker.check_model(written, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the parts give no valid ONNX model: {' '.join(str(error).split())}") from error
    return written
