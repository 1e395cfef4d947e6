"""Loops that state no condition."""

from __future__ import annotations

import numpy as np
import onnx

from joulec.passes.onnx.program import Program, bodies

_CONDITION = "joulec/condition"


def state_conditions(program: Program) -> None:
    """Give each `Loop` without a condition one that is true, in the program itself.

    That is what leaving it out means; ONNX's reference implementation takes it for false, and runs no iteration.
    """
    if any(map(_lacks, program.nodes)):
        program.nodes = [_stated(node) if _lacks(node) else node for node in program.nodes]
        program.constants[_CONDITION] = np.array(True)


def _is_bare(node: onnx.NodeProto) -> bool:
    return node.op_type == "Loop" and node.domain in ("", "ai.onnx") and not node.input[1]


def _lacks(node: onnx.NodeProto) -> bool:
    """Whether the node, or one in the graphs that it holds, is such a loop."""
    return _is_bare(node) or any(_lacks(inner) for body in bodies(node) for inner in body.node)


def _stated(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _state(copy)
    return copy


def _state(node: onnx.NodeProto) -> None:
    if _is_bare(node):
        node.input[1] = _CONDITION
    for body in bodies(node):
        for inner in body.node:
            _state(inner)
