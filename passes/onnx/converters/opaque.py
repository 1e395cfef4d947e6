"""Operators that joulec does not model, kept in ONNX's words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from joulec.passes.graph import Opaque, TensorType
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Source
from joulec.passes.onnx.fold import is_random
from joulec.passes.onnx.program import captured

_INLINE_BYTES = 4096
"""Constants up to this size are part of the definition, larger ones are operands."""


def convert(source: Source) -> Sequence[Operand]:
    """A model of the one node. Its values are renamed by position, so that equal nodes have equal definitions."""
    node = onnx.NodeProto()
    node.CopyFrom(source.node)
    node.name, node.doc_string = "", ""
    constants = source.builder.constants
    operands: list[Operand] = []
    inputs: list[onnx.ValueInfoProto] = []
    initializers: list[onnx.TensorProto] = []

    def enter(name: str, inside: str) -> None:
        array = constants.get(name)
        if array is not None and (array.nbytes <= _INLINE_BYTES or array.dtype == object):
            initializers.append(onnx.numpy_helper.from_array(array, inside))
            return
        operands.append(source.builder.operand(name))
        inputs.append(_typed(inside, source.types[name], array is None))

    inner = captured(node)
    prefix = f"{source.title}/" if inner else ""
    for index, name in enumerate(source.node.input):
        if name and name not in inner:
            node.input[index] = f"{prefix}x{index}"
            enter(name, node.input[index])
    for name in inner:
        enter(name, name)
    outputs = []
    for index, name in enumerate(source.node.output):
        if name:
            node.output[index] = f"{prefix}y{index}"
            outputs.append(_typed(node.output[index], source.types[name], True))
    pure = not is_random(source.node, constants)
    graph = onnx.helper.make_graph([node], source.node.op_type, inputs, outputs, initializers)
    used = {"", source.node.domain} if not inner else set(source.opsets)
    opsets = [onnx.helper.make_opsetid(key, value) for key, value in source.opsets.items() if key in used]
    version = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name="joulec")
    op = Opaque(
        kind=source.node.op_type,
        dialect="onnx",
        definition=model.SerializeToString(deterministic=True),
        operand_types=tuple(operand.type for operand in operands),
        result_types=tuple(source.result_types),
        pure=pure,
    )
    return source.builder.emit(op, operands, identity="" if pure else source.outputs[0])


def _typed(name: str, type: TensorType, known: bool) -> onnx.ValueInfoProto:
    elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(type.dtype))
    return onnx.helper.make_tensor_value_info(name, elem, type.shape)
