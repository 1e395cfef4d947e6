"""Relax functions to graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    Graph,
    MatMul,
    MaxPool2d,
    Node,
    Opaque,
    Operator,
    OperatorError,
    Reshape,
    Softmax,
    Split,
    TensorType,
    Transpose,
    Value,
    Weight,
    literal,
)
from joulec.passes.graph.values import content_key
from joulec.passes.module_errors import ImportModuleError
from joulec.passes.relax.definition import VOID, define
from joulec.words import distinct

Operand = Value | Weight

_IN_PLACE = ("relax.call_tir_inplace", "relax.call_inplace_packed")


def import_relax(module: Any, function: str = "main") -> Graph:
    """The graph of one function of an IRModule.

    Operators without a counterpart in the graph become opaque nodes with their own definition.

    Raises:
        ImportModuleError: there is no such function, a shape is symbolic, or it has control flow.
    """
    names = {variable.name_hint: variable for variable in module.get_global_vars()}
    if function not in names or not isinstance(module[names[function]], relax.Function):
        raise ImportModuleError(f"the module has no Relax function {function!r}; it has {', '.join(sorted(names))}")
    return _Reader(module, module[names[function]]).read()


@dataclass
class _Reader:
    module: Any
    function: Any
    known: dict[Any, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    effects: int = 0

    def read(self) -> Graph:
        names = distinct([parameter.name for parameter in self.function.params])
        inputs = [
            Value.input(name, tensor_type(parameter.ty))
            for name, parameter in zip(names, self.function.params, strict=True)
        ]
        self.known.update(zip(self.function.params, inputs, strict=True))
        if not isinstance(self.function.body, relax.SeqExpr):
            raise ImportModuleError("the function is not in A-normal form; run relax.transform.Normalize first")
        for block in self.function.body.blocks:
            for binding in block.bindings:
                if not isinstance(binding, relax.VarBinding):
                    raise ImportModuleError(
                        f"{binding} is not a plain binding; run relax.transform.CanonicalizeBindings"
                    )
                self.known[binding.var] = self._bind(binding.value, binding.var.name)
        result = self._read(self.function.body.body)
        outputs = result if isinstance(result, tuple) else (result,)
        for output in outputs:
            if isinstance(output, tuple):
                raise ImportModuleError("the function returns a tuple within a tuple; return its tensors in one tuple")
            if not isinstance(output, Value):
                raise ImportModuleError("the function returns a constant, which leaves nothing to compile")
        return Graph.build(inputs, outputs, self.nodes, [f"output{index}" for index in range(len(outputs))])

    def _read(self, expression: Any) -> Any:
        """A value, a weight, or a tuple of them."""
        if isinstance(expression, relax.Var):
            return self.known[expression]
        if isinstance(expression, tvm.ir.GenericConst):
            return literal(expression.value.numpy())
        if isinstance(expression, relax.Tuple):
            return tuple(self._read(part) for part in expression.fields)
        if isinstance(expression, relax.TupleGetItem):
            return self._read(expression.tuple_value)[expression.index]
        raise ImportModuleError(f"cannot read {type(expression).__name__} {expression}")

    def _bind(self, value: Any, name: str) -> Any:
        if isinstance(value, (relax.If, relax.Function)):
            raise ImportModuleError(f"{name} holds control flow or a closure, which the graph does not model")
        if not isinstance(value, relax.Call):
            return self._read(value)
        operator = value.op.name if isinstance(value.op, tvm.ir.Op) else ""
        reader = _READERS.get(operator)
        if reader is not None:
            try:
                found = reader(self, value, name)
            except (OperatorError, _NotModelled):
                found = None
            if found is not None and _agrees(found, value.ty):
                return found
        if operator in _IN_PLACE:
            raise ImportModuleError(
                f"{name} is computed by {operator}, which overwrites an operand; the graph does not model that: "
                "read the module before the pass that introduces it"
            )
        return self._opaque(value, name)

    def emit(self, op: Operator, operands: Sequence[Operand], name: str) -> Value:
        """Add a node with one result; float32 only."""
        if any(operand.type.dtype != "float32" for operand in operands):
            raise _NotModelled
        node = Node.make(op, tuple(operands), name=name)
        self.nodes.append(node)
        return node.outputs[0]

    def operands(self, call: Any) -> list[Any]:
        """The call's arguments."""
        return [self._read(argument) for argument in call.args]

    def _opaque(self, call: Any, name: str) -> Any:
        definition, arguments = define(self.module, call)
        operands = tuple(self._read(argument) for argument in arguments)
        many = isinstance(call.ty, relax.TupleType)
        void = many and not call.ty.fields
        results = tuple(tensor_type(part) for part in (call.ty.fields if many else [call.ty])) or (VOID,)
        op = Opaque(
            definition.kind,
            "relax",
            definition.text,
            tuple(operand.type for operand in operands),
            results,
            pure=definition.pure,
        )
        own = None if definition.pure else tuple(self._once(result, name) for result in results)
        node = Node.make(op, operands, outputs=own, name=name)
        self.nodes.append(node)
        return () if void else node.outputs if many else node.outputs[0]

    def _once(self, type: TensorType, name: str) -> Value:
        """A result of a call with effects: two equal calls give two results and are never one node."""
        self.effects += 1
        return Value(content_key("effect", self.effects), type, name)


class _NotModelled(Exception):
    """Attributes or operands that the graph's operator does not cover."""


def tensor_type(type: Any) -> TensorType:
    """A graph's type from Relax's.

    Raises:
        ImportModuleError: it is no tensor, or its shape is not fixed.
    """
    if not isinstance(type, relax.TensorType):
        raise ImportModuleError(f"{type} is not a tensor, which the graph does not model")
    try:
        shape = tuple(int(size) for size in type.shape.values)
    except (AttributeError, TypeError) as error:
        raise ImportModuleError(
            f"{type} has no fixed shape; bind its variables with relax.transform.BindSymbolicVars"
        ) from error
    return TensorType(shape, str(type.dtype))


def _agrees(found: Any, type: Any) -> bool:
    """Whether what was read has the type that the module gives it (attributes such as ``out_dtype`` may change it)."""
    if isinstance(type, relax.TupleType):
        return isinstance(found, tuple) and all(map(_agrees, found, type.fields))
    return isinstance(found, (Value, Weight)) and found.type == tensor_type(type)


def _require(condition: bool) -> None:
    if not condition:
        raise _NotModelled


_Reading = Callable[[_Reader, Any, str], Any]


def _conv2d(reader: _Reader, call: Any, name: str) -> Value:
    attrs = call.attrs
    _require((attrs.data_layout, attrs.kernel_layout, attrs.out_layout) == ("NCHW", "OIHW", "NCHW"))
    _require(str(attrs.out_dtype or "float32") in ("float32", "void"))
    op = Conv2d(_ints(attrs.strides), _ints(attrs.padding), _ints(attrs.dilation), int(attrs.groups))
    return reader.emit(op, reader.operands(call), name)


def _matmul(reader: _Reader, call: Any, name: str) -> Value:
    return reader.emit(MatMul(), reader.operands(call), name)


def _pool(cls: type[MaxPool2d] | type[AvgPool2d]) -> _Reading:
    def read(reader: _Reader, call: Any, name: str) -> Value:
        attrs = call.attrs
        _require(attrs.layout == "NCHW" and attrs.out_layout == "NCHW")
        given: dict[str, Any] = {
            "kernel": _ints(attrs.pool_size),
            "strides": _ints(attrs.strides),
            "padding": _ints(attrs.padding),
            "dilation": _ints(attrs.dilation),
            "ceil_mode": bool(attrs.ceil_mode),
        }
        if cls is AvgPool2d:
            given["count_include_pad"] = bool(attrs.count_include_pad)
        value = reader.emit(cls(**given), reader.operands(call), name)
        _require(value.type == tensor_type(call.ty))
        return value

    return read


def _global_average(reader: _Reader, call: Any, name: str) -> Value:
    data = reader.operands(call)[0]
    _require(call.attrs.layout == "NCHW" and tensor_type(call.ty).shape[2:] == (1, 1))
    return reader.emit(AvgPool2d(data.type.shape[2:]), [data], name)


def _activation(kind: str) -> _Reading:
    return lambda reader, call, name: reader.emit(Activation(kind), reader.operands(call), name)


def _leaky(reader: _Reader, call: Any, name: str) -> Value:
    return reader.emit(Activation("leaky_relu", (float(call.attrs.alpha),)), reader.operands(call), name)


def _clip(reader: _Reader, call: Any, name: str) -> Value:
    low, high = (float(bound.value) for bound in call.args[1:])
    return reader.emit(Activation("clip", (low, high)), [reader._read(call.args[0])], name)


def _add(reader: _Reader, call: Any, name: str) -> Value:
    return reader.emit(Add(), reader.operands(call), name)


def _binary(kind: str) -> _Reading:
    return lambda reader, call, name: reader.emit(Binary(kind), reader.operands(call), name)


def _batch_norm(reader: _Reader, call: Any, name: str) -> tuple[Any, ...]:
    data, *statistics = reader.operands(call)
    _require(not call.attrs.training and int(call.attrs.axis) == 1)
    _require(all(isinstance(part, Weight) for part in statistics))
    gamma, beta, mean, variance = (part.value().astype(np.float64) for part in statistics)
    gamma = gamma if call.attrs.scale else np.ones_like(gamma)
    beta = beta if call.attrs.center else np.zeros_like(beta)
    scale = gamma / np.sqrt(variance + float(call.attrs.epsilon))
    shift = beta - mean * scale
    factors = [literal(part.astype(np.float32)) for part in (scale, shift)]
    return (reader.emit(ChannelAffine(), [data, *factors], name), *statistics[2:])


def _softmax(reader: _Reader, call: Any, name: str) -> Value:
    data = reader.operands(call)[0]
    return reader.emit(Softmax(int(call.attrs.axis) % len(data.type.shape)), [data], name)


def _concat(reader: _Reader, call: Any, name: str) -> Value:
    parts = reader._read(call.args[0])
    _require(isinstance(parts, tuple))
    return reader.emit(Concat(int(call.attrs.axis or 0) % len(parts[0].type.shape)), list(parts), name)


def _split(reader: _Reader, call: Any, name: str) -> tuple[Value, ...]:
    data = reader.operands(call)[0]
    axis = int(call.attrs.axis) % len(data.type.shape)
    _require(data.type.dtype == "float32" and isinstance(data, Value))
    sizes = tuple(tensor_type(part).shape[axis] for part in call.ty.fields)
    node = Node.make(Split(axis, sizes), (data,), name=name)
    reader.nodes.append(node)
    return node.outputs


def _reshape(reader: _Reader, call: Any, name: str) -> Any:
    data = reader._read(call.args[0])
    shape = tensor_type(call.ty).shape
    if isinstance(data, Weight):
        return literal(data.value().reshape(shape))
    return reader.emit(Reshape(shape), [data], name)


def _transpose(reader: _Reader, call: Any, name: str) -> Any:
    data = reader._read(call.args[0])
    rank = len(data.type.shape)
    axes = call.attrs.axes
    order = tuple(reversed(range(rank))) if axes is None else tuple(int(axis) % rank for axis in axes)
    if isinstance(data, Weight):
        return literal(data.value().transpose(order))
    return reader.emit(Transpose(order), [data], name)


def _dropout(reader: _Reader, call: Any, name: str) -> tuple[Any, ...]:
    data = reader._read(call.args[0])
    return (data, literal(np.ones(data.type.shape, data.type.dtype)))


def _ints(values: Any) -> Any:
    return tuple(int(value) for value in values)


_READERS: dict[str, _Reading] = {
    "relax.nn.conv2d": _conv2d,
    "relax.matmul": _matmul,
    "relax.nn.max_pool2d": _pool(MaxPool2d),
    "relax.nn.avg_pool2d": _pool(AvgPool2d),
    "relax.nn.adaptive_avg_pool2d": _global_average,
    "relax.nn.relu": _activation("relu"),
    "relax.sigmoid": _activation("sigmoid"),
    "relax.tanh": _activation("tanh"),
    "relax.exp": _activation("exp"),
    "relax.sqrt": _activation("sqrt"),
    "relax.erf": _activation("erf"),
    "relax.nn.leakyrelu": _leaky,
    "relax.clip": _clip,
    "relax.add": _add,
    "relax.subtract": _binary("sub"),
    "relax.multiply": _binary("mul"),
    "relax.divide": _binary("div"),
    "relax.nn.batch_norm": _batch_norm,
    "relax.nn.softmax": _softmax,
    "relax.concat": _concat,
    "relax.split": _split,
    "relax.reshape": _reshape,
    "relax.flatten": _reshape,
    "relax.squeeze": _reshape,
    "relax.expand_dims": _reshape,
    "relax.permute_dims": _transpose,
    "relax.nn.dropout": _dropout,
}
