"""ONNX operators outside the library, as functions of a Relay module."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relay, te

from joulec.passes.graph import NodeSpec

DIGEST = "joulec.external"
FUNCTION = "joulec.onnx"


def external_function(spec: NodeSpec, digest: str, name: str) -> Any:
    """A function that `relay.build` compiles to a call of the runtime; its body stands in for types only."""
    parameters = [
        relay.var(f"p{index}", shape=operand.type.shape, dtype=operand.type.dtype)
        for index, operand in enumerate(spec.operands)
    ]
    results = [relay.zeros(type.shape, type.dtype) for type in spec.results]
    body = results[0] if len(results) == 1 else relay.Tuple(results)
    function = relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function(parameters, body)))["main"]
    one = tvm.tir.IntImm("int32", 1)
    for key, value in (
        ("Compiler", "joulec"),
        ("Primitive", one),
        ("Inline", one),
        ("global_symbol", name),
        (DIGEST, digest),
    ):
        function = function.with_attr(key, value)
    return function


def compile_external(function: Any, name: str) -> Any:
    """A runtime module with one function that calls the runtime with the digest, operands and results."""
    digest = str(function.attrs[DIGEST])
    inputs = [
        te.placeholder([int(size) for size in one.checked_type.shape], one.checked_type.dtype, f"p{index}")
        for index, one in enumerate(function.params)
    ]
    returned = function.ret_type
    types = list(returned.fields) if isinstance(returned, tvm.ir.TupleType) else [returned]
    outputs = te.extern(
        [tuple(int(size) for size in type.shape) for type in types],
        inputs,
        lambda ins, outs: tvm.tir.call_packed(FUNCTION, digest, *ins, *outs),
        dtype=[type.dtype for type in types],
        name=name,
    )
    results = list(outputs) if isinstance(outputs, (list, tuple, tvm.ir.Array)) else [outputs]
    schedule = te.create_schedule([results[0].op])
    return tvm.build(schedule, [*inputs, *results], "llvm", name=name)
