"""Fold constants and shape arithmetic with ONNX's reference implementation (docs/adr/0002)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.helper
from onnx.reference import ReferenceEvaluator

from joulec.passes.graph import TensorType
from joulec.passes.onnx.inlining import inlined
from joulec.passes.onnx.program import Array, Dequantised, Program, bodies, captured, title

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators whose results differ from call to call."""

_AMPLIFYING = {
    "ConstantOfShape": 1,
    "Expand": 2,
    "OneHot": 2,
    "Pad": 2,
    "Range": 3,
    "Resize": 1,
    "Tile": 2,
    "Upsample": 1,
}
"""Operators whose result may be far larger than their operands, with how many of these decide that."""
_MOST_BYTES = 1 << 28

_SINCE = {"DequantizeLinear": 19, "QuantizeLinear": 19}
"""Operators whose older versions the reference implementation lacks: this one computes what they did."""

_UNFOLDABLE = (
    NotImplementedError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    ImportError,
)
"""What the reference implementation raises where it cannot compute a node; the node then stays as it is."""


def is_random(node: onnx.NodeProto, constants: Mapping[str, Array]) -> bool:
    """Whether a node's results differ from call to call."""
    if node.op_type in RANDOM:
        return True
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        training = constants.get(node.input[2])
        return training is None or bool(training)
    return any(is_random(inner, constants) for body in bodies(node) for inner in body.node)


def fold(program: Program) -> dict[str, TensorType]:
    """Replace all that can be known ahead by constants, in place; returns the types of what is left.

    Raises:
        ModelError: operands do not fit an operator.
    """
    while True:
        types = program.infer()
        if not fold_once(program, types):
            program.prune()
            return types


def fold_once(program: Program, types: Mapping[str, TensorType]) -> bool:
    """One pass in topological order; without types, only what does not depend on shapes. Returns whether it folded."""
    constants = program.constants
    kept: list[onnx.NodeProto] = []
    for node in program.nodes:
        shape = types.get(node.input[0]) if node.op_type in ("Shape", "Size") and node.input else None
        if shape is not None:
            constants[node.output[0]] = _shape(node, shape)
        elif node.op_type == "If" and node.input[0] in constants:
            kept.extend(_branch(node, constants))
        elif _is_too_large(node, types, constants) or not _compute(node, program):
            kept.append(node)
    outputs = [value.name for value in program.outputs]
    restated = {node.output[0] for node in kept if node.op_type == "Identity"}
    for name in outputs:
        if name in constants and name not in restated:
            constants[f"{name}/constant"] = constants.pop(name)
            kept.append(onnx.helper.make_node("Identity", [f"{name}/constant"], [name], name=f"{name}/constant"))
    changed = kept != program.nodes
    program.nodes = kept
    return changed


def _shape(node: onnx.NodeProto, operand: TensorType) -> Array:
    if node.op_type == "Size":
        return np.asarray(operand.size, np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.asarray(operand.shape[bounds.get("start") : bounds.get("end")], np.int64)


def _branch(node: onnx.NodeProto, constants: dict[str, Array]) -> list[onnx.NodeProto]:
    """The nodes of the branch that an If with a known condition takes."""
    taken = "then_branch" if bool(constants[node.input[0]]) else "else_branch"
    body = next(attribute.g for attribute in node.attribute if attribute.name == taken)
    nodes, held, results = inlined(body, f"{next(filter(None, node.output))}/{taken}")
    constants.update(held)
    passed = [
        onnx.helper.make_node("Identity", [inner], [outer], name=f"{title(node)}/{outer}")
        for inner, outer in zip(results, node.output, strict=True)
        if outer
    ]
    return [*nodes, *passed]


def _is_too_large(node: onnx.NodeProto, types: Mapping[str, TensorType], constants: Mapping[str, Array]) -> bool:
    """Whether a node makes much out of little: such a constant is worth neither the memory nor the file."""
    known = [types[name].bytes for name in node.output if name in types]
    if known:
        return max(known) > _MOST_BYTES
    operands = [constants.get(name) for name in node.input]
    if node.op_type not in _AMPLIFYING or any(operand is None for operand in operands[: _AMPLIFYING[node.op_type]]):
        return False
    with np.errstate(all="ignore"):
        return _elements(node.op_type, [np.asarray(operand, np.float64) for operand in operands if operand is not None])


def _elements(kind: str, operands: list[Array]) -> bool:
    """Whether the result would have too many elements."""
    first = operands[0]
    size = float(max(first.size, 1))
    if kind == "ConstantOfShape":
        size = float(np.prod(first))
    elif kind == "Range":
        size = float(abs(operands[1].ravel()[0] - first.ravel()[0]) / max(abs(operands[2].ravel()[0]), 1e-30))
    elif kind == "Pad":
        size = float(np.prod(np.asarray(first.shape) + operands[1].max(initial=0.0) * 2))
    elif kind == "OneHot":
        size *= float(operands[1].ravel()[0])
    else:  # Expand to a shape, Tile so many times, Resize and Upsample by scales or to sizes
        size *= max(float(np.prod(np.maximum(np.abs(operands[-1].ravel()), 1.0))), 1.0)
    return not size * 8 <= _MOST_BYTES


def _compute(node: onnx.NodeProto, program: Program) -> bool:
    """Compute a node whose operands are all known; False where that is not so or cannot be done."""
    constants = program.constants
    names = [name for name in node.input if name]
    outputs = [name for name in node.output if name]
    if any(name not in constants for name in names) or captured(node) or is_random(node, constants):
        return False
    if node.op_type == "BatchNormalization" and program.opset < 14:
        return False  # the reference implementation takes statistics of the data here
    if node.op_type == "Identity" and outputs[0] in {value.name for value in program.outputs}:
        return False
    feeds = {name: constants[name] for name in names}
    graph = onnx.helper.make_graph(
        [node],
        "fold",
        [onnx.ValueInfoProto(name=name) for name in feeds],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    versions = {**program.opsets, "": max(program.opset, _SINCE.get(node.op_type, 0))}
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets)).run(None, feeds)
    except _UNFOLDABLE:
        return False
    if not all(isinstance(result, np.ndarray | np.generic) for result in results):
        return False
    if node.op_type == "DequantizeLinear" and not any(one.name == "block_size" and one.i for one in node.attribute):
        array, scale, *zero = (constants[name] for name in names)
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        program.dequantised[outputs[0]] = Dequantised(array, scale, zero[0] if zero else None, axis)
    constants.update((name, np.asarray(result)) for name, result in zip(outputs, results, strict=True))
    return True
