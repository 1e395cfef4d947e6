"""Half precision where the work is: computed in float32, whose kernels are fast, and rounded once per operator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.helper

from joulec.passes.graph import TensorType
from joulec.passes.onnx.program import Program

_HEAVY = frozenset({"Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
_NARROW = "float16"
_WIDE = "float32"


def widened(program: Program, types: Mapping[str, TensorType]) -> tuple[Program, dict[str, TensorType]]:
    """The program with products of half precision in float32, between Casts.

    This is what CPUs do anyway: they have no arithmetic of half precision worth the name. Constants are cast ahead.

    Args:
        types: of the program's values.

    Returns:
        The program given and its types where there is nothing to widen.
    """
    if not any(_is_narrow(node, types) for node in program.nodes):
        return program, dict(types)
    renewed, known = program.copy(), dict(types)
    renewed.nodes = []
    for node in program.nodes:
        if not _is_narrow(node, types):
            renewed.nodes.append(node)
            continue
        wide = onnx.NodeProto()
        wide.CopyFrom(node)
        wide.input[:] = [_wide_operand(name, renewed, known) for name in node.input]
        wide.output[:] = [name and f"{name}/{_WIDE}/result" for name in node.output]
        renewed.nodes.append(wide)
        for name, result in zip(node.output, wide.output, strict=True):
            if name:
                known[result] = TensorType(types[name].shape, _WIDE)
                renewed.nodes.append(_cast(result, name, onnx.TensorProto.FLOAT16))
    renewed.prune()
    return renewed, known


def _is_narrow(node: onnx.NodeProto, types: Mapping[str, TensorType]) -> bool:
    values = [types.get(name) for name in (*node.input[:1], *node.output) if name]
    named = node.op_type in _HEAVY and node.domain in ("", "ai.onnx")
    return named and all(type is not None and type.dtype == _NARROW for type in values)


def _wide_operand(name: str, program: Program, known: dict[str, TensorType]) -> str:
    """The operand in float32: a constant, or a Cast of which all readers share one."""
    if not name or known[name].dtype != _NARROW:
        return name
    wide = f"{name}/{_WIDE}"
    if wide in known:
        return wide
    known[wide] = TensorType(known[name].shape, _WIDE)
    if name in program.constants:
        program.constants[wide] = program.constants[name].astype(np.float32)
    else:
        program.nodes.append(_cast(name, wide, onnx.TensorProto.FLOAT))
    return wide


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [result], name=result, to=to)
