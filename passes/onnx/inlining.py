"""Graphs inside of nodes brought out of them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.numpy_helper

from joulec.passes.onnx.program import Array, bodies


def inlined(body: onnx.GraphProto, prefix: str) -> tuple[list[onnx.NodeProto], dict[str, Array], list[str]]:
    """A graph without inputs taken apart, all that it defines under names that no other graph uses.

    Args:
        prefix: of the new names.

    Returns:
        Its nodes, its constants by name, and the names of its outputs.
    """
    made = [
        *(tensor.name for tensor in body.initializer),
        *(name for node in body.node for name in node.output if name),
    ]
    names = {name: f"{prefix}/{name}" for name in made}
    constants = {names[tensor.name]: onnx.numpy_helper.to_array(tensor) for tensor in body.initializer}
    outputs = [names.get(value.name, value.name) for value in body.output]
    return [renamed(node, names) for node in body.node], constants, outputs


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """The node with other names for some of the values that it and the graphs inside of it read and make."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _rename(copy, names)
    return copy


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for body in bodies(node):
        own = {value.name for value in (*body.input, *body.initializer)}
        own.update(name for inner in body.node for name in inner.output)
        outer = {name: other for name, other in names.items() if name not in own}
        for inner in body.node:
            _rename(inner, outer)
        for value in body.output:
            value.name = outer.get(value.name, value.name)
