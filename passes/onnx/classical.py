"""Operators of classical machine learning that are arithmetic, in ONNX's own words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.helper

from joulec.passes.onnx.program import Program, title

_DOMAIN = "ai.onnx.ml"
_BROADCASTS = 7
"""The opset from which on operands broadcast."""


def write_out(program: Program) -> None:
    """Put subtractions and products in place of `Scaler` and `LinearRegressor`, in the program itself.

    No inference tells the shapes of their results, which would keep all that follows in one piece.
    """
    if program.opset >= _BROADCASTS:
        program.nodes = [one for node in program.nodes for one in _written_out(node, program)]


def _written_out(node: onnx.NodeProto, program: Program) -> Iterator[onnx.NodeProto]:
    attributes: dict[str, Any] = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.domain != _DOMAIN or node.op_type not in ("Scaler", "LinearRegressor"):
        yield node
        return
    data, result = node.input[0], node.output[0]
    if node.op_type == "Scaler":
        steps = [("Sub", "offset", attributes.get("offset")), ("Mul", "scale", attributes.get("scale"))]
        arrays = [(kind, name, np.asarray(held, np.float32)) for kind, name, held in steps if held]
    elif attributes.get("post_transform", b"NONE") == b"NONE" and attributes.get("coefficients"):
        rows = np.asarray(attributes["coefficients"], np.float32).reshape(attributes.get("targets", 1), -1)
        shift = attributes.get("intercepts")
        arrays = [("MatMul", "coefficients", np.ascontiguousarray(rows.T))]
        arrays += [("Add", "intercepts", np.asarray(shift, np.float32))] if shift else []
    else:
        yield node
        return
    before = f"{result}/float32"
    yield onnx.helper.make_node("Cast", [data], [before], name=f"{title(node)}/cast", to=onnx.TensorProto.FLOAT)
    for index, (kind, name, array) in enumerate(arrays):
        program.constants[f"{result}/{name}"] = array
        after = result if index == len(arrays) - 1 else f"{result}/{kind}"
        yield onnx.helper.make_node(kind, [before, f"{result}/{name}"], [after], name=f"{title(node)}/{kind}")
        before = after
    if not arrays:
        yield onnx.helper.make_node("Identity", [before], [result], name=title(node))
