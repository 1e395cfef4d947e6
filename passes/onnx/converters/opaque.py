"""Operators that joulec does not model, kept in ONNX's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from joulec.passes.graph import Opaque, TensorType
from joulec.passes.graph.node import Operand
from joulec.passes.onnx.converters.base import Builder, Source
from joulec.passes.onnx.fold import is_random
from joulec.passes.onnx.program import bodies, captured, typed
from joulec.passes.onnx.regions import Region

_INLINE_BYTES = 4096
"""Constants up to this size are part of the definition, larger ones are operands."""
_WEIGHTS = {"ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3}
"""Which constant of an integer product is an operand, whatever its size: kernels pack it. All others are part of the
definition: kernels are made for these scales and zero points."""


def convert(source: Source) -> Sequence[Operand]:
    """A model of one node."""
    read = (*dict.fromkeys(name for name in source.node.input if name), *captured(source.node))
    region = Region((source.node,), tuple(dict.fromkeys(read)), tuple(source.outputs))
    return convert_region(region, source.opsets, source.types, source.builder)


def convert_region(
    region: Region, opsets: Mapping[str, int], types: Mapping[str, TensorType], builder: Builder
) -> Sequence[Operand]:
    """A model of the nodes. Its values are renamed by position, so that equal nodes have equal definitions."""
    constants = builder.constants
    controlled = any(True for node in region.nodes for _ in bodies(node))
    state = _ranked if controlled else typed
    names = _renamed(region, keep=controlled)
    products = [node for node in region.nodes if node.op_type in _WEIGHTS]
    weights = {node.input[_WEIGHTS[node.op_type]] for node in products}
    operands: list[Operand] = []
    inputs: list[onnx.ValueInfoProto] = []
    initializers: list[onnx.TensorProto] = []
    for name in region.inputs:
        array = constants.get(name)
        if array is not None and (
            (_is_inlined(array, bool(products)) and name not in weights) or not _is_plain(array.dtype)
        ):
            initializers.append(onnx.numpy_helper.from_array(array, names[name]))
            continue
        operands.append(builder.operand(name))
        inputs.append(state(names[name], types[name]))
    unsure = controlled or any(name in builder.unsure for name in region.outputs)
    outputs = [(_ranked if unsure else typed)(names[name], types[name]) for name in region.outputs]
    pure = not any(is_random(node, constants) for node in region.nodes)
    nodes = [_copied(node, names) for node in region.nodes]
    kind = "+".join(dict.fromkeys(node.op_type for node in region.nodes))
    graph = onnx.helper.make_graph(nodes, kind, inputs, outputs, initializers)
    used = set(opsets) if controlled else {"", *(node.domain for node in region.nodes)}
    imported = [onnx.helper.make_opsetid(key, value) for key, value in opsets.items() if key in used]
    version = onnx.helper.find_min_ir_version_for(imported, ignore_unknown=True)
    model = onnx.helper.make_model(graph, opset_imports=imported, ir_version=version, producer_name="joulec")
    op = Opaque(
        kind=kind,
        dialect="onnx",
        definition=model.SerializeToString(deterministic=True),
        operand_types=tuple(operand.type for operand in operands),
        result_types=tuple(types[name] for name in region.outputs),
        pure=pure,
    )
    return builder.emit(op, operands, identity="" if pure else region.outputs[0])


def _renamed(region: Region, keep: bool) -> dict[str, str]:
    """New names of all values; the old ones where graphs inside the nodes may read them, or have values of the new."""
    made = [name for node in region.nodes for name in node.output if name]
    if keep:
        return {name: name for name in (*region.inputs, *made)}
    if len(region.nodes) == 1:
        node = region.nodes[0]
        names = {name: f"x{index}" for index, name in reversed(list(enumerate(node.input)))}
        return {**names, **{name: f"y{index}" for index, name in enumerate(node.output)}}
    names = {name: f"x{index}" for index, name in enumerate(region.inputs)}
    names.update((name, f"t{index}") for index, name in enumerate(made))
    return names


def _copied(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.doc_string = "", ""
    copy.input[:] = [name and names[name] for name in node.input]
    copy.output[:] = [name and names[name] for name in node.output]
    return copy


def _is_inlined(array: np.ndarray[Any, Any], parameter: bool) -> bool:
    return array.nbytes <= _INLINE_BYTES or (parameter and array.ndim <= 1)


def _is_plain(dtype: np.dtype[np.generic]) -> bool:
    """Whether arrays of it can be weights of an artifact: numpy's own numbers."""
    return dtype.kind in "fiub" and dtype.isbuiltin == 1


def _ranked(name: str, type: TensorType) -> onnx.ValueInfoProto:
    """A value of any sizes, where engines may find that a branch which is never taken does not fit the real ones, and
    where the result's sizes are to be checked at each call."""
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(type.dtype))
    return onnx.helper.make_tensor_value_info(name, element, [None] * len(type.shape))
