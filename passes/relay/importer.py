"""Relay functions to graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relay

from joulec.passes.graph import (
    Graph,
    Node,
    Opaque,
    Operator,
    OperatorError,
    Value,
    Weight,
    literal,
)
from joulec.passes.module_errors import ImportModuleError
from joulec.passes.relay.converters import READINGS, NotModelled, Operand
from joulec.passes.relay.types import tensor_type
from joulec.words import distinct


def import_relay(module: Any, function: str = "main") -> Graph:
    """The graph of one function of an IRModule.

    Operators without a counterpart in the graph become opaque nodes with their own definition. Convolutions and pools
    in other layouts than NCHW are read as that one between transpositions.

    Raises:
        ImportModuleError: there is no such function, a shape is not fixed, it has control flow, or it returns a
            constant or a tuple within a tuple.
    """
    read = read_function(find_function(in_plain_layouts(module), function))
    outputs = read.result if isinstance(read.result, tuple) else (read.result,)
    if not all(isinstance(output, Value) for output in outputs):
        raise ImportModuleError("the function returns a constant or a tuple within a tuple")
    return read.graph(outputs)


def find_function(module: Any, name: str) -> Any:
    """A function of a module, with types.

    Raises:
        ImportModuleError: there is no such function.
    """
    typed = relay.transform.InferType()(module)
    names = {variable.name_hint: variable for variable in typed.get_global_vars()}
    if name not in names or not isinstance(typed[names[name]], relay.Function):
        raise ImportModuleError(f"the module has no Relay function {name!r}; it has {', '.join(sorted(names))}")
    return typed[names[name]]


def in_plain_layouts(module: Any) -> Any:
    """The module with convolutions in NCHW, where other layouts stand in it; TVM knows how to convert them."""
    found: set[str] = set()

    def visit(expression: Any) -> None:
        if isinstance(expression, relay.Call) and getattr(expression.op, "name", "") in _WITH_LAYOUT:
            layout = expression.attrs.data_layout if "conv" in expression.op.name else expression.attrs.layout
            if layout == "NHWC":
                found.add(expression.op.name)

    for function in module.functions.values():
        if isinstance(function, relay.Function):
            relay.analysis.post_order_visit(function, visit)
    if not found:
        return module
    wanted = {name: ["NCHW", "default"] if "conv" in name else ["NCHW"] for name in sorted(found)}
    return relay.transform.ConvertLayout(wanted)(relay.transform.InferType()(module))


_WITH_LAYOUT = ("nn.conv2d", "nn.max_pool2d", "nn.avg_pool2d", "nn.global_avg_pool2d", "nn.global_max_pool2d")


@dataclass(frozen=True)
class ReadFunction:
    """A dataflow function as nodes.

    Attributes:
        inputs: of the parameters, in their order.
        nodes: in the order of execution.
        result: a value, a weight, or a tuple of these and of tuples.
    """

    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    result: Any

    @property
    def computed(self) -> tuple[Value, ...]:
        """What of the result nodes compute, each once."""
        return tuple(dict.fromkeys(value for value in _leaves(self.result) if self._is_computed(value)))

    def _is_computed(self, value: Any) -> bool:
        return isinstance(value, Value) and value not in self.inputs

    def graph(self, outputs: Sequence[Value]) -> Graph:
        """The nodes as a graph of some outputs."""
        return Graph.build(self.inputs, outputs, self.nodes, [f"output{index}" for index in range(len(outputs))])


def read_function(function: Any) -> ReadFunction:
    """A typed function as nodes.

    Raises:
        ImportModuleError: a shape is not fixed, or it has control flow.
    """
    return _Reader(function).read()


def _leaves(result: Any) -> Iterator[Any]:
    if isinstance(result, tuple):
        for part in result:
            yield from _leaves(part)
    else:
        yield result


def input_names(function: Any) -> list[str]:
    """The parameters' names, repeated ones numbered."""
    return distinct([parameter.name_hint for parameter in function.params])


@dataclass
class _Reader:
    function: Any
    known: dict[Any, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def read(self) -> ReadFunction:
        inputs = [
            Value.input(name, tensor_type(parameter.checked_type))
            for name, parameter in zip(input_names(self.function), self.function.params, strict=True)
        ]
        self.known.update(zip(self.function.params, inputs, strict=True))
        result = self._read(self.function.body)
        return ReadFunction(tuple(inputs), tuple(self.nodes), result)

    def _read(self, root: Any) -> Any:
        """A value, a weight, or a tuple of them; without recursion, since networks are deep."""
        pending = [root]
        while pending:
            expression = pending[-1]
            if expression in self.known:
                pending.pop()
                continue
            if isinstance(expression, relay.Let) and expression.value in self.known:
                self.known[expression.var] = self.known[expression.value]
            missing = [part for part in self._parts(expression) if part not in self.known]
            if missing:
                pending.extend(reversed(missing))
                continue
            self.known[expression] = self._one(expression)
            pending.pop()
        return self.known[root]

    def _parts(self, expression: Any) -> list[Any]:
        """What must be read before an expression."""
        if isinstance(expression, relay.Call):
            return list(expression.args)
        if isinstance(expression, relay.Tuple):
            return list(expression.fields)
        if isinstance(expression, relay.TupleGetItem):
            return [expression.tuple_value]
        if isinstance(expression, relay.Let):
            return [expression.body if expression.var in self.known else expression.value]
        return []

    def _one(self, expression: Any) -> Any:
        if isinstance(expression, relay.Constant):
            return literal(expression.data.numpy())
        if isinstance(expression, relay.Tuple):
            return tuple(self.known[part] for part in expression.fields)
        if isinstance(expression, relay.TupleGetItem):
            return self.known[expression.tuple_value][expression.index]
        if isinstance(expression, relay.Let):
            return self.known[expression.body]
        if isinstance(expression, relay.Call) and isinstance(expression.op, tvm.ir.Op):
            return self._call(expression)
        raise ImportModuleError(
            f"the function holds {type(expression).__name__} (control flow, a closure or a call of another function), "
            "which the graph does not model; inline or remove it, or leave this function to TVM"
        )

    def _call(self, call: Any) -> Any:
        reader = READINGS.get(call.op.name)
        if reader is not None:
            before = len(self.nodes)
            try:
                found = reader(self, call)
            except (OperatorError, NotModelled):
                found = None
            if found is not None and _agrees(found, call.checked_type):
                return found
            del self.nodes[before:]
        return self._opaque(call)

    def emit(self, op: Operator, operands: Sequence[Operand]) -> Value:
        """Add a node with one result; float32 only."""
        if any(operand.type.dtype != "float32" for operand in operands):
            raise NotModelled
        if not any(isinstance(operand, Value) for operand in operands):
            raise NotModelled
        node = Node.make(op, tuple(operands), name=op.name)
        self.nodes.append(node)
        return node.outputs[0]

    def operands(self, call: Any) -> list[Any]:
        """The call's arguments."""
        return [self.known[argument] for argument in call.args]

    def _opaque(self, call: Any) -> Any:
        operands: list[Operand] = []
        parameters: list[Any] = []

        def abstract(expression: Any) -> Any:
            if isinstance(expression, relay.Tuple):
                return relay.Tuple([abstract(part) for part in expression.fields])
            type = tensor_type(expression.checked_type)
            operands.append(self.known[expression])
            parameters.append(relay.var(f"p{len(parameters)}", shape=type.shape, dtype=type.dtype))
            return parameters[-1]

        body = relay.Call(call.op, [abstract(argument) for argument in call.args], call.attrs, call.type_args)
        module = relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function(parameters, body)))
        many = isinstance(call.checked_type, tvm.ir.TupleType)
        results = tuple(map(tensor_type, call.checked_type.fields if many else [call.checked_type]))
        kind = call.op.name
        text = tvm.ir.save_json(module).encode()
        op = Opaque(kind, "relay", text, tuple(operand.type for operand in operands), results)
        node = Node.make(op, tuple(operands), name=kind)
        self.nodes.append(node)
        return node.outputs if many else node.outputs[0]


def _agrees(found: Any, type: Any) -> bool:
    if isinstance(type, tvm.ir.TupleType):
        return isinstance(found, tuple) and all(map(_agrees, found, type.fields))
    return isinstance(found, (Value, Weight)) and found.type == tensor_type(type)
