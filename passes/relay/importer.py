"""Relay functions to graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relay

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    Graph,
    LocalResponseNorm,
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
from joulec.passes.module_errors import ImportModuleError
from joulec.words import distinct

Operand = Value | Weight


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
        reader = _READERS.get(call.op.name)
        if reader is not None:
            before = len(self.nodes)
            try:
                found = reader(self, call)
            except (OperatorError, _NotModelled):
                found = None
            if found is not None and _agrees(found, call.checked_type):
                return found
            del self.nodes[before:]
        return self._opaque(call)

    def emit(self, op: Operator, operands: Sequence[Operand]) -> Value:
        """Add a node with one result; float32 only."""
        if any(operand.type.dtype != "float32" for operand in operands):
            raise _NotModelled
        if not any(isinstance(operand, Value) for operand in operands):
            raise _NotModelled
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


class _NotModelled(Exception):
    """Attributes or operands that the graph's operator does not cover."""


def tensor_type(type: Any) -> TensorType:
    """A graph's type from Relay's.

    Raises:
        ImportModuleError: it is no tensor, or its shape is not fixed.
    """
    if not isinstance(type, tvm.ir.TensorType):
        raise ImportModuleError(f"{type} is not a tensor, which the graph does not model")
    try:
        return TensorType(tuple(int(size) for size in type.shape), str(type.dtype))
    except TypeError as error:
        raise ImportModuleError(
            f"{type} has no fixed shape; give the frontend fixed shapes, or run relay.transform.DynamicToStatic"
        ) from error


def _agrees(found: Any, type: Any) -> bool:
    if isinstance(type, tvm.ir.TupleType):
        return isinstance(found, tuple) and all(map(_agrees, found, type.fields))
    return isinstance(found, (Value, Weight)) and found.type == tensor_type(type)


def _require(condition: bool) -> None:
    if not condition:
        raise _NotModelled


_Reading = Callable[[_Reader, Any], Any]


def _ints(values: Any) -> Any:
    return tuple(int(value) for value in values)


def _pads(values: Any) -> Any:
    """Relay's padding of one, two or four numbers as (top, left, bottom, right)."""
    found = _ints(values)
    return found if len(found) == 4 else found * (4 // len(found))


def _conv2d(reader: _Reader, call: Any) -> Value:
    attrs = call.attrs
    _require((attrs.data_layout, attrs.kernel_layout) == ("NCHW", "OIHW") and attrs.out_layout in ("", "NCHW"))
    op = Conv2d(_ints(attrs.strides), _pads(attrs.padding), _ints(attrs.dilation), int(attrs.groups))
    return reader.emit(op, reader.operands(call))


def _dense(reader: _Reader, call: Any) -> Value:
    data, weight = reader.operands(call)
    _require(len(data.type.shape) == 2 and len(weight.type.shape) == 2)
    return reader.emit(MatMul(transpose_b=True), [data, weight])


def _batch_matmul(reader: _Reader, call: Any) -> Value:
    _require(not call.attrs.transpose_a)
    return reader.emit(MatMul(transpose_b=bool(call.attrs.transpose_b)), reader.operands(call))


def _pool(cls: type[MaxPool2d] | type[AvgPool2d]) -> _Reading:
    def read(reader: _Reader, call: Any) -> Value:
        attrs = call.attrs
        _require(attrs.layout == "NCHW" and attrs.out_layout in ("", "NCHW"))
        given: dict[str, Any] = {
            "kernel": _ints(attrs.pool_size),
            "strides": _ints(attrs.strides),
            "padding": _pads(attrs.padding),
            "dilation": _ints(attrs.dilation),
            "ceil_mode": bool(attrs.ceil_mode),
        }
        if cls is AvgPool2d:
            given["count_include_pad"] = bool(attrs.count_include_pad)
        return reader.emit(cls(**given), reader.operands(call))

    return read


def _global_average(reader: _Reader, call: Any) -> Value:
    (data,) = reader.operands(call)
    _require(call.attrs.layout == "NCHW")
    return reader.emit(AvgPool2d(data.type.shape[2:]), [data])


def _activation(kind: str) -> _Reading:
    return lambda reader, call: reader.emit(Activation(kind), reader.operands(call))


def _leaky(reader: _Reader, call: Any) -> Value:
    return reader.emit(Activation("leaky_relu", (float(call.attrs.alpha),)), reader.operands(call))


def _clip(reader: _Reader, call: Any) -> Value:
    bounds = float(call.attrs.a_min), float(call.attrs.a_max)
    return reader.emit(Activation("clip", bounds), reader.operands(call))


def _bias_add(reader: _Reader, call: Any) -> Value:
    data, bias = reader.operands(call)
    rank = len(data.type.shape)
    axis = int(call.attrs.axis) % rank
    shape = (*bias.type.shape, *([1] * (rank - axis - 1)))
    return reader.emit(Add(), [data, _shaped(reader, bias, shape)])


def _shaped(reader: _Reader, data: Any, shape: tuple[int, ...]) -> Any:
    if isinstance(data, Weight):
        return literal(data.value().reshape(shape))
    return reader.emit(Reshape(shape), [data])


def _binary(kind: str) -> _Reading:
    return lambda reader, call: reader.emit(Binary(kind), reader.operands(call))


def _batch_norm(reader: _Reader, call: Any) -> Any:
    data, *statistics = reader.operands(call)
    _require(int(call.attrs.axis) == 1 and all(isinstance(part, Weight) for part in statistics))
    gamma, beta, mean, variance = (part.value().astype(np.float64) for part in statistics)
    gamma = gamma if call.attrs.scale else np.ones_like(gamma)
    beta = beta if call.attrs.center else np.zeros_like(beta)
    scale = gamma / np.sqrt(variance + float(call.attrs.epsilon))
    factors = [literal(part.astype(np.float32)) for part in (scale, beta - mean * scale)]
    return (reader.emit(ChannelAffine(), [data, *factors]), *statistics[2:])


def _lrn(reader: _Reader, call: Any) -> Value:
    attrs = call.attrs
    _require(int(attrs.axis) == 1)
    op = LocalResponseNorm(int(attrs.size), float(attrs.alpha), float(attrs.beta), float(attrs.bias))
    return reader.emit(op, reader.operands(call))


def _softmax(reader: _Reader, call: Any) -> Value:
    (data,) = reader.operands(call)
    return reader.emit(Softmax(int(call.attrs.axis) % len(data.type.shape)), [data])


def _concat(reader: _Reader, call: Any) -> Value:
    (parts,) = reader.operands(call)
    return reader.emit(Concat(int(call.attrs.axis) % len(parts[0].type.shape)), list(parts))


def _split(reader: _Reader, call: Any) -> Any:
    (data,) = reader.operands(call)
    _require(data.type.dtype == "float32" and isinstance(data, Value))
    axis = int(call.attrs.axis) % len(data.type.shape)
    node = Node.make(Split(axis, tuple(tensor_type(part).shape[axis] for part in call.checked_type.fields)), (data,))
    reader.nodes.append(node)
    return node.outputs


def _reshape(reader: _Reader, call: Any) -> Any:
    return _shaped(reader, reader.operands(call)[0], tensor_type(call.checked_type).shape)


def _transpose(reader: _Reader, call: Any) -> Any:
    data = reader.operands(call)[0]
    rank = len(data.type.shape)
    axes = call.attrs.axes
    order = tuple(reversed(range(rank))) if axes is None or not len(axes) else tuple(int(a) % rank for a in axes)
    return _transposed(reader, data, order)


def _transposed(reader: _Reader, data: Any, order: tuple[int, ...]) -> Any:
    if isinstance(data, Weight):
        return literal(np.ascontiguousarray(data.value().transpose(order)))
    return reader.emit(Transpose(order), [data])


def _layout_transform(reader: _Reader, call: Any) -> Any:
    data = reader.operands(call)[0]
    source, target = str(call.attrs.src_layout), str(call.attrs.dst_layout)
    _require(source.isalpha() and sorted(source) == sorted(target) and len(source) == len(data.type.shape))
    return _transposed(reader, data, tuple(source.index(axis) for axis in target))


def _dropout(reader: _Reader, call: Any) -> Any:
    data = reader.operands(call)[0]
    return (data, literal(np.ones(data.type.shape, data.type.dtype)))


_READERS: dict[str, _Reading] = {
    "nn.conv2d": _conv2d,
    "nn.dense": _dense,
    "nn.batch_matmul": _batch_matmul,
    "nn.max_pool2d": _pool(MaxPool2d),
    "nn.avg_pool2d": _pool(AvgPool2d),
    "nn.global_avg_pool2d": _global_average,
    "nn.relu": _activation("relu"),
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "exp": _activation("exp"),
    "sqrt": _activation("sqrt"),
    "erf": _activation("erf"),
    "nn.leaky_relu": _leaky,
    "clip": _clip,
    "add": lambda reader, call: reader.emit(Add(), reader.operands(call)),
    "nn.bias_add": _bias_add,
    "subtract": _binary("sub"),
    "multiply": _binary("mul"),
    "divide": _binary("div"),
    "nn.batch_norm": _batch_norm,
    "nn.lrn": _lrn,
    "nn.softmax": _softmax,
    "concatenate": _concat,
    "split": _split,
    "reshape": _reshape,
    "nn.batch_flatten": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "layout_transform": _layout_transform,
    "nn.dropout": _dropout,
    "copy": lambda reader, call: reader.operands(call)[0],
}
