"""Relax calls that the graph does not model, as self-contained text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from joulec.passes.graph import TensorType

VOID = TensorType((), "int64")
"""What a call without a result returns in its definition, since a node computes at least one value."""


@dataclass(frozen=True)
class Definition:
    """One call as a module of its own.

    Attributes:
        kind: the operator's name.
        text: TVM's JSON of an IRModule whose ``main`` takes the call's tensors and returns its result (`VOID` if none).
        pure: whether the call has no effect beside its result.
    """

    kind: str
    text: bytes
    pure: bool


def define(module: Any, call: Any) -> tuple[Definition, list[Any]]:
    """The definition of a call on tensors of fixed shape, and the expressions of these in its parameters' order."""
    operands: list[Any] = []
    parameters: list[Any] = []

    def abstract(expression: Any) -> Any:
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([abstract(part) for part in expression.fields])
        if isinstance(expression, (relax.Var, tvm.ir.GenericConst)) and isinstance(expression.ty, relax.TensorType):
            operands.append(expression)
            parameters.append(relax.Var(f"p{len(parameters)}", _anew(expression.ty)))
            return parameters[-1]
        if isinstance(expression, relax.Var) and isinstance(expression.ty, relax.TupleType):
            return relax.Tuple([part(expression, index, type) for index, type in enumerate(expression.ty.fields)])
        return expression

    def part(whole: Any, index: int, type: Any) -> Any:
        if isinstance(type, relax.TupleType):
            inner = relax.TupleGetItem(whole, index)
            return relax.Tuple([part(inner, place, one) for place, one in enumerate(type.fields)])
        operands.append(relax.TupleGetItem(whole, index))
        parameters.append(relax.Var(f"p{len(parameters)}", _anew(type)))
        return parameters[-1]

    builder = relax.BlockBuilder()
    callees: dict[Any, Any] = {}

    def adopt(expression: Any) -> Any:
        if isinstance(expression, tvm.ir.GlobalVar):
            if expression not in callees:
                callees[expression] = builder.add_func(module[expression], expression.name_hint)
            return callees[expression]
        return expression

    arguments = [adopt(abstract(argument)) for argument in call.args]
    pure = _is_pure(module, call)
    body = relax.Call(adopt(call.op), arguments, call.attrs, call.ty_args)
    with builder.function("main", parameters, pure=pure):
        result = builder.emit(body)
        void = isinstance(call.ty, relax.TupleType) and not call.ty.fields
        builder.emit_func_output(relax.const(0, VOID.dtype) if void else result)
    kind = call.op.name if isinstance(call.op, tvm.ir.Op) else getattr(call.op, "name_hint", "call")
    if kind == "relax.call_tir":
        kind = str(call.args[0].name_hint)
    return Definition(kind, tvm.ir.save_json(builder.get()).encode(), pure), operands


def adopt_definition(builder: Any, text: bytes) -> Any:
    """Add a definition to a module under construction.

    Returns:
        The function to call with the operands.
    """
    module = tvm.ir.load_json(text.decode())
    renamed: dict[Any, Any] = {}
    main = None
    for variable, function in module.functions_items():
        if variable.name_hint == "main":
            main = function
        else:
            renamed[variable] = builder.add_func(function.without_attr("global_symbol"), variable.name_hint)
    return builder.add_func(_rename(main, renamed).without_attr("global_symbol"), "opaque")


def _rename(function: Any, renamed: dict[Any, Any]) -> Any:
    @relax.expr_functor.mutator
    class Renamer(relax.PyExprMutator):  # type: ignore[misc]
        def visit_global_var_(self, variable: Any) -> Any:
            return renamed.get(variable, variable)

    return Renamer().visit_expr(function)


def _anew(type: Any) -> Any:
    """The same type in objects of its own: which calls share one must not show in the text."""
    return relax.TensorType([int(size) for size in type.shape.values], type.dtype)


def _is_pure(module: Any, call: Any) -> bool:
    if isinstance(call.op, tvm.ir.Op):
        return bool(call.op.get_attr("FPurity"))
    if isinstance(call.op, tvm.ir.GlobalVar):
        return bool(getattr(module[call.op], "is_pure", False))
    return False
