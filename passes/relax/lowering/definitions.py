"""Definitions in ONNX's words to Relax, node by node."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import onnx
import onnx.numpy_helper
import tvm
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tvm import relax

from joulec.passes.graph import Opaque, TensorType
from joulec.passes.relax.lowering import (
    binary,
    indexing,
    losses,
    movement,
    normalisation,
    pooling,
    products,
    quantised,
    recurrent,
    reduction,
    resampling,
    scanning,
    unary,
    windows,
)
from joulec.passes.relax.lowering.halves import narrowed, widened
from joulec.passes.relax.lowering.site import Lowering, Site
from joulec.profiler.dtypes import carrier

LOWERINGS: Mapping[str, Lowering] = {
    **binary.LOWERINGS,
    **indexing.LOWERINGS,
    **losses.LOWERINGS,
    **movement.LOWERINGS,
    **normalisation.LOWERINGS,
    **pooling.LOWERINGS,
    **products.LOWERINGS,
    **quantised.LOWERINGS,
    **recurrent.LOWERINGS,
    **reduction.LOWERINGS,
    **resampling.LOWERINGS,
    **scanning.LOWERINGS,
    **unary.LOWERINGS,
    **windows.LOWERINGS,
}
"""By ONNX operator type, of ONNX's own domain."""

_PLAIN = frozenset(
    f"{kind}{bits}"
    for kind, sizes in (("int", (8, 16, 32, 64)), ("uint", (8, 16, 32, 64)), ("float", (16, 32, 64)))
    for bits in sizes
) | {"bool", "bfloat16"}
_REFUSALS = (
    DecodeError,
    tvm.error.InternalError,
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
)


_log = logging.getLogger(__name__)


@lru_cache(maxsize=4096)
def lowers(op: Opaque) -> bool:
    """Whether all of an ONNX definition can be lowered; tried in a function of its own.

    One that leaves its results' sizes open is not: data may change them, and compiled code would not notice.
    """
    if (
        leaves_open(op)
        or any(type.dtype not in _PLAIN for type in (*op.operand_types, *op.result_types))
        or not op.pure
    ):
        return False
    builder = relax.BlockBuilder()
    operands = [
        relax.Var(f"operand{index}", relax.TensorType(type.shape, carrier(type.dtype)))
        for index, type in enumerate(op.operand_types)
    ]
    with builder.function("main", operands):
        with builder.dataflow():
            try:
                results = lower(builder, op, operands)
            except _REFUSALS as error:
                _log.debug("%s is not lowered: %s", op.kind, error)
                results = None
            final = builder.emit_output(relax.Tuple(results or operands))
        builder.emit_func_output(final)
    return results is not None


def lower(builder: Any, op: Opaque, operands: Sequence[Any]) -> list[Any] | None:
    """Emit a definition into the builder's current block.

    Args:
        builder: a ``relax.BlockBuilder`` inside a function.
        op: an opaque operator of dialect ``onnx``.
        operands: its operands; half precision that TVM's tensors do not hold comes as its carrier.

    Returns:
        One expression per result, or None where a node has no lowering.
    """
    graph = _parsed(op.definition).graph
    opsets = {entry.domain or "": entry.version for entry in _parsed(op.definition).opset_import}
    if all(type.size == 0 for type in op.result_types):
        return [empty(builder, type) for type in op.result_types]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    known: dict[str, tuple[Any, TensorType]] = {
        value.name: (operand, type)
        for value, operand, type in zip(graph.input, operands, op.operand_types, strict=True)
    }
    for name, array in constants.items():
        if str(array.dtype) not in _PLAIN:
            return None
        if not array.size:
            type = TensorType(array.shape, str(array.dtype))
            known[name] = (empty(builder, type), type)
            continue
        plain = array.view(carrier(str(array.dtype))) if str(array.dtype) == "bfloat16" else array
        known[name] = (relax.const(plain, str(plain.dtype)), TensorType(array.shape, str(array.dtype)))
    results = dict(zip((value.name for value in graph.output), op.result_types, strict=True))
    for node in graph.node:
        lowering = LOWERINGS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if lowering is None or any(name and name not in known for name in node.input):
            return None
        site = _site(builder, node, opsets.get("", 1), known, constants, results)
        found = lowering(widened(site))
        if found is None:
            return None
        found = narrowed(site, found)
        asked = [name for name in node.output if name]
        if len(found) != len(asked):
            return None
        for name, expression in zip(asked, found, strict=True):
            known[name] = (expression, _type_of(expression, results.get(name)))
            if name in results and known[name][1] != results[name]:
                return None
    return [known[value.name][0] for value in graph.output]


def empty(builder: Any, type: TensorType) -> Any:
    """A tensor without elements; constants of that kind cannot be stored in a library, so it is allocated."""
    return builder.emit(relax.op.builtin.alloc_tensor(relax.ShapeExpr(type.shape), carrier(type.dtype), 0))


def _site(
    builder: Any,
    node: onnx.NodeProto,
    opset: int,
    known: Mapping[str, tuple[Any, TensorType]],
    constants: Mapping[str, Any],
    results: Mapping[str, TensorType],
) -> Site:
    return Site(
        builder,
        node,
        opset,
        [known[name][0] if name else None for name in node.input],
        [constants.get(name) for name in node.input],
        [known[name][1] if name else None for name in node.input],
        [results.get(name) for name in node.output],
    )


def _type_of(expression: Any, stated: TensorType | None) -> TensorType:
    shape = tuple(int(size) for size in expression.ty.shape.values)
    dtype = str(expression.ty.dtype)
    if stated is not None and carrier(stated.dtype) == dtype:
        dtype = stated.dtype
    return TensorType(shape, dtype)


def leaves_open(op: Opaque) -> bool:
    """Whether an ONNX definition does not state all sizes of its results, so that they must be checked at each call."""
    dimensions = (one for value in _parsed(op.definition).graph.output for one in value.type.tensor_type.shape.dim)
    return any(not one.HasField("dim_value") for one in dimensions)


@lru_cache(maxsize=256)
def _parsed(definition: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(definition)
