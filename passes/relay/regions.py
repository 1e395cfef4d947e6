"""Functions that are more than one dataflow graph: what of them is one, and the rest as it stands.

Control flow, closures, calls of other functions, references, dynamic shapes and tensors within data types stay where
they are. Between them lie regions of operators on tensors of fixed shape, each of which is a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relay

from joulec.passes.module_errors import ImportModuleError
from joulec.passes.relay.types import tensor_type

Solve = Callable[[Any, Sequence[Any]], Any]
"""Takes a dataflow function and its arguments; gives the optimised body over them, or None to leave it."""

FOREIGN = ("Primitive", "Composite", "Compiler")
"""Attributes of functions that somebody else compiles."""
_STAY = ("annotation.", "memory.", "vm.", "on_device", "device_copy", "call_lowered", "debug")
"""Operators that tell the compiler something, or have effects: moved or compiled alone they mean something else."""


def is_dataflow(function: Any, kept: Sequence[str] = ()) -> bool:
    """Whether a typed function is one graph: operators, tuples and constants, over tensors of fixed shape.

    Args:
        kept: names of operators that are not to be part of a graph.
    """
    found = [True]

    def visit(expression: Any) -> None:
        if isinstance(expression, relay.Function) and expression.same_as(function):
            return
        if not isinstance(expression, tvm.ir.Op):
            found[0] = found[0] and _is_part(expression, kept)

    relay.analysis.post_order_visit(function, visit)
    return found[0]


def marks(function: Any) -> set[str]:
    """Names of a function's attributes."""
    return set(function.attrs.keys()) if function.attrs else set()


def has_composites(function: Any) -> bool:
    """Whether functions marked for another compiler stand in it that `PartitionGraph` has not taken out yet."""
    found = []

    def visit(expression: Any) -> None:
        if isinstance(expression, relay.Function) and "Composite" in marks(expression):
            found.append(expression)

    relay.analysis.post_order_visit(function, visit)
    return bool(found)


def optimise_regions(module: Any, name: str, solve: Solve, kept: Sequence[str] = ()) -> Any:
    """The function with every region replaced by what ``solve`` makes of it; all else as it stood."""
    copied = tvm.IRModule(dict(module.functions.items()), module.type_definitions)  # the pass changes what it is given
    normal = relay.transform.InferType()(relay.transform.ToANormalForm()(copied))
    function = normal[name]
    return rebuilt(function, _Scope(solve, kept, _has_effects(function)).run(function.body))


def _has_effects(function: Any) -> bool:
    """Whether the order of its lets counts."""
    found = []

    def visit(expression: Any) -> None:
        if isinstance(expression, (relay.RefCreate, relay.RefRead, relay.RefWrite)):
            found.append(expression)

    relay.analysis.post_order_visit(function, visit)
    return bool(found)


def rebuilt(function: Any, body: Any) -> Any:
    """A function with another body of the same type."""
    return relay.Function(list(function.params), body, function.ret_type, function.type_params, function.attrs)


def _is_static(type: Any) -> bool:
    if isinstance(type, tvm.ir.TupleType):
        return all(isinstance(part, tvm.ir.TensorType) and _is_static(part) for part in type.fields)
    try:
        tensor_type(type)
    except ImportModuleError:
        return False
    return True


def _is_part(expression: Any, kept: Sequence[str]) -> bool:
    """Whether an expression may be part of a graph."""
    if isinstance(expression, relay.Tuple):
        return all(_is_part(part, kept) or isinstance(part, relay.Tuple) for part in expression.fields)
    if not _is_static(expression.checked_type):
        return False
    if isinstance(expression, (relay.Var, relay.Constant)):
        return isinstance(expression.checked_type, tvm.ir.TensorType)
    if isinstance(expression, relay.TupleGetItem):
        return _is_static(expression.tuple_value.checked_type)
    if not isinstance(expression, relay.Call) or not isinstance(expression.op, tvm.ir.Op):
        return False
    if expression.op.name in kept or expression.op.name.startswith(_STAY):
        return False
    return all(_is_static(argument.checked_type) for argument in expression.args)


@dataclass
class _Binding:
    """One ``let`` of a scope; of equal stage, what belongs to a graph comes before what does not."""

    variable: Any
    value: Any
    part: bool
    stage: int


@dataclass
class _Scope:
    """Rebuilds the chain of lets of one scope, and of the scopes within it.

    Lets are written out where their order counts, and of closures; else expressions stand in their place, as frontends
    write them, which more of TVM's passes understand.
    """

    solve: Solve
    kept: Sequence[str]
    ordered: bool
    constants: dict[Any, Any] = field(default_factory=dict)
    bindings: dict[Any, _Binding] = field(default_factory=dict)

    def run(self, body: Any) -> Any:
        while isinstance(body, relay.Let):
            self._add(body.var, body.value)
            body = body.body
        ends = set(relay.analysis.free_vars(body))
        lines: list[tuple[Any, Any]] = []
        for stage in sorted({one.stage for one in self.bindings.values()}):
            here = [one for one in self.bindings.values() if one.stage == stage]
            lines += self._region([one for one in here if one.part], ends)
            lines += [(one.variable, self._within(one.value)) for one in here if not one.part]
        for variable, value in reversed(lines):
            if self.ordered or isinstance(value, relay.Function):
                body = relay.Let(variable, value, body)
            else:
                body = relay.bind(body, {variable: value})
        return body

    def _add(self, variable: Any, value: Any) -> None:
        before = [self.bindings[one] for one in _operands(value, variable) if one in self.bindings]
        if isinstance(value, relay.Constant):
            self.constants[variable] = value
        part = self._is_part(value)
        stage = max((one.stage + (part and not one.part) for one in before), default=0)
        if not part:  # what may have effects keeps its order
            stage = max([stage, *(one.stage for one in self.bindings.values() if not one.part)])
        self.bindings[variable] = _Binding(variable, value, part, stage)

    def _is_part(self, value: Any) -> bool:
        if isinstance(value, relay.TupleGetItem):
            known = self.bindings.get(value.tuple_value)
            return known is not None and known.part and isinstance(known.value, relay.Call)
        if isinstance(value, relay.Tuple):
            return all(_is_static(one.checked_type) and not _is_tuple(one) for one in value.fields)
        return isinstance(value, (relay.Call, relay.Constant)) and _is_part(value, self.kept)

    def _within(self, value: Any) -> Any:
        """What stays, with the scopes in it rebuilt."""
        if isinstance(value, relay.If):
            return relay.If(value.cond, self._inner(value.true_branch), self._inner(value.false_branch))
        if isinstance(value, relay.Match):
            clauses = [relay.adt.Clause(clause.lhs, self._inner(clause.rhs)) for clause in value.clauses]
            return relay.Match(value.data, clauses, value.complete)
        if isinstance(value, relay.Function) and not marks(value).intersection(FOREIGN):
            return rebuilt(value, self._inner(value.body))
        return value

    def _inner(self, body: Any) -> Any:
        return _Scope(self.solve, self.kept, self.ordered, dict(self.constants)).run(body)

    def _region(self, parts: list[_Binding], ends: set[Any]) -> Iterator[tuple[Any, Any]]:
        """The lets that compute a region."""
        stays = set(ends)
        for one in self.bindings.values():
            if not one.part:
                stays.update(_operands(one.value, one.variable))
        inside = {one.variable for one in parts}
        used = stays.union(
            *(_operands(one.value, one.variable) for one in self.bindings.values() if one.variable not in inside)
        )
        for one in reversed(parts):  # tuples are made again outside
            if one.variable in used and isinstance(one.value, relay.Tuple):
                used.update(one.value.fields)
                stays.update(one.value.fields)
        results = [one for one in parts if one.variable in used and not _is_plain(one.value)]
        plain = [
            (one.variable, one.value)
            for one in parts
            if _is_plain(one.value) and one.variable in (stays if isinstance(one.value, relay.Constant) else used)
        ]
        found = self._solved(parts, results) if results else None
        if found is None:
            yield from ((one.variable, _over(one.value, lambda it: self.constants.get(it, it))) for one in parts)
            return
        if len(results) == 1:
            yield results[0].variable, found
        else:
            together = relay.var("region")
            yield together, found
            yield from ((one.variable, relay.TupleGetItem(together, i)) for i, one in enumerate(results))
        yield from plain

    def _solved(self, parts: list[_Binding], results: list[_Binding]) -> Any:
        parameters: list[Any] = []
        arguments: list[Any] = []
        known: dict[Any, Any] = {}

        def taken(argument: Any) -> Any:
            if not isinstance(argument, relay.Var):
                return argument
            if argument in self.constants:
                return self.constants[argument]
            if argument not in known:
                type = argument.checked_type
                if isinstance(type, tvm.ir.TupleType):
                    fields = [relay.var(f"i{len(parameters) + i}", part) for i, part in enumerate(type.fields)]
                    parameters.extend(fields)
                    arguments.extend(relay.TupleGetItem(argument, index) for index in range(len(fields)))
                    known[argument] = relay.Tuple(fields)
                else:
                    parameters.append(relay.var(f"i{len(parameters)}", type))
                    arguments.append(argument)
                    known[argument] = parameters[-1]
            return known[argument]

        for one in parts:
            known[one.variable] = _over(one.value, taken)
        outputs = [known[one.variable] for one in results]
        body = outputs[0] if len(outputs) == 1 else relay.Tuple(outputs)
        return self.solve(relay.Function(parameters, body), arguments)


def _over(value: Any, taken: Callable[[Any], Any]) -> Any:
    """A binding's value over other operands."""
    if isinstance(value, relay.Call):
        return relay.Call(value.op, [taken(one) for one in value.args], value.attrs, value.type_args)
    if isinstance(value, relay.Tuple):
        return relay.Tuple([taken(one) for one in value.fields])
    if isinstance(value, relay.TupleGetItem):
        return relay.TupleGetItem(taken(value.tuple_value), value.index)
    return value


def _operands(value: Any, variable: Any) -> list[Any]:
    """Variables that a binding reads, its own name in a recursive function left out."""
    return [one for one in relay.analysis.free_vars(value) if not one.same_as(variable)]


def _is_plain(value: Any) -> bool:
    return isinstance(value, (relay.Tuple, relay.Constant))


def _is_tuple(expression: Any) -> bool:
    return isinstance(expression.checked_type, tvm.ir.TupleType)
