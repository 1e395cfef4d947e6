"""Operators that joulec does not model, put back into a model in ONNX's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import onnx
import onnx.defs
import onnx.numpy_helper
import onnx.version_converter

from joulec.passes.graph import Graph, Node, Opaque
from joulec.passes.onnx.exporter_writer import ExportError, Writer

_OWN = ("", "ai.onnx")


def opset_for(graph: Graph, least: int) -> int:
    """The version of ONNX's own operators in which the graph can be written."""
    versions: list[int] = [
        opset.version
        for node in graph.nodes
        if isinstance(node.op, Opaque) and node.op.dialect == "onnx"
        for opset in _definition(node.op).opset_import
        if opset.domain in _OWN
    ]
    return max([least, *versions])


def inner_names(graph: Graph) -> set[str]:
    """Names defined inside nested graphs; no other value may bear them."""
    names: set[str] = set()
    for node in graph.nodes:
        if isinstance(node.op, Opaque) and node.op.dialect == "onnx":
            for inner in _nested(_definition(node.op).graph.node):
                names.update(value.name for value in (*inner.input, *inner.initializer))
                names.update(output for one in inner.node for output in one.output)
    return names


def write(writer: Writer, node: Node, outputs: Sequence[str]) -> None:
    """The nodes of the definition, reading and writing the names of this model."""
    op = node.op
    assert isinstance(op, Opaque)
    title = node.name or op.name
    if op.dialect != "onnx":
        raise ExportError(f"cannot write {title} to ONNX: {op.kind} is defined in Relax's words only")
    model = fitting(_definition(op), writer.opset, title)
    names = dict(zip((value.name for value in model.graph.input), map(writer.operand, node.operands), strict=True))
    names.update(zip((value.name for value in model.graph.output), outputs, strict=True))
    for tensor in model.graph.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = names[tensor.name] = writer.fresh(f"{title}.{tensor.name}")
        writer.constants[copy.name] = copy
    for one in model.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(one)
        for output in one.output:
            if output and output not in names:
                names[output] = writer.fresh(f"{title}.{output}")
        copied.name = writer.fresh(f"node:{title}").removeprefix("node:")
        _rename(copied, names)
        writer.nodes.append(copied)
    for opset in model.opset_import:
        if opset.domain not in _OWN:
            writer.opsets[opset.domain] = max(opset.version, writer.opsets.get(opset.domain, 0))


@lru_cache(maxsize=256)
def _parsed(definition: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(definition)


def _definition(op: Opaque) -> onnx.ModelProto:
    return _parsed(op.definition)


def fitting(model: onnx.ModelProto, opset: int, title: str) -> onnx.ModelProto:
    """The definition in a version: as it is where none of its operators changed, else converted.

    Raises:
        ExportError: it cannot be converted.
    """
    written = next((entry.version for entry in model.opset_import if entry.domain in _OWN), opset)
    if all(_since(node, written) == _since(node, opset) for node in _all_nodes(model.graph.node)):
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"cannot write {title} to ONNX: it is defined in opset {written} and cannot be put into {opset}: {reason}"
        ) from error


def _since(node: onnx.NodeProto, opset: int) -> int | None:
    """The version in which the operator got the meaning that it has in an opset."""
    if node.domain not in _OWN:
        return None
    try:
        return int(onnx.defs.get_schema(node.op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return -1


def _nested(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The graphs inside nodes, to any depth."""
    for node in nodes:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield inner
                yield from _nested(inner.node)


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    yield from nodes
    for inner in _nested(nodes):
        yield from inner.node


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Give the node's values their names in this model, those that nested graphs read included."""
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)
    for index, name in enumerate(node.output):
        node.output[index] = names.get(name, name)
    for attribute in node.attribute:
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for one in inner.node:
                _rename(one, names)
            for output in inner.output:
                output.name = names.get(output.name, output.name)
