"""Nodes as plain Relax operators: what TVM itself would be given for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from joulec.passes.graph import (
    Activation,
    Add,
    AvgPool2d,
    Binary,
    ChannelAffine,
    Concat,
    Conv2d,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    NodeSpec,
    Opaque,
    OperandSpec,
    Pad,
    PooledConv2d,
    Reshape,
    Softmax,
    Split,
    Step,
    TensorType,
    Transpose,
)
from joulec.passes.relax.definition import adopt_definition
from joulec.passes.relax.lowering import empty, lower

Exprs = list[Any]


class EmitError(ValueError):
    """A node that has no plain Relax form."""


def emit_reference(builder: Any, spec: NodeSpec, operands: Sequence[Any]) -> Exprs:
    """Emit a node into the builder's current block as TVM's own operators.

    Args:
        builder: a ``relax.BlockBuilder`` inside a function.
        spec: the node.
        operands: Relax expressions for all its operands, constants unpacked.

    Returns:
        One expression per result.

    Raises:
        EmitError: no Relax operator has this meaning.
    """
    if all(result.size == 0 for result in spec.results):
        return [empty(builder, result) for result in spec.results]
    count = len(spec.anchor_operands)
    results = _emit_anchor(builder, spec, list(operands[:count]))
    rest = list(operands[count:])
    for step in spec.epilogue:
        taken, rest = rest[: step.operands], rest[step.operands :]
        results[0] = builder.emit(_step(step, results[0], taken, spec.results[0]))
    return results


def _emit_anchor(builder: Any, spec: NodeSpec, operands: Exprs) -> Exprs:
    op = spec.op
    if isinstance(op, Opaque) and op.dialect == "relax":
        called = builder.emit(relax.Call(adopt_definition(builder, op.definition), operands))
        if not isinstance(called.ty, relax.TupleType):
            return [called]
        return [builder.emit(relax.TupleGetItem(called, index)) for index in range(len(op.result_types))]
    if isinstance(op, Opaque):
        lowered = lower(builder, op, operands)
        if lowered is None:
            raise EmitError(f"{op.kind} has no plain Relax form")
        return lowered
    if isinstance(op, Split):
        edges = [end for _, end in op.bounds[:-1]]
        if not edges:
            return operands
        parts = builder.emit(relax.op.split(operands[0], edges, axis=op.axis))
        return [builder.emit(relax.TupleGetItem(parts, index)) for index in range(len(op.sizes))]
    if isinstance(op, Add):
        total = operands[0]
        for operand in operands[1:]:
            total = builder.emit(relax.op.add(total, operand))
        return [total]
    if isinstance(op, LocalResponseNorm):
        return [_local_response_norm(builder, op, operands[0], spec.results[0])]
    if isinstance(op, PooledConv2d):
        inner = op.convolution.infer([operand.type for operand in spec.anchor_operands])
        convolved = builder.emit(_anchor(op.convolution, operands, spec))
        pooled = NodeSpec(op.pooling, (OperandSpec(inner[0], False),), (), spec.results)
        return [builder.emit(_anchor(op.pooling, [convolved], pooled))]
    if isinstance(op, AvgPool2d):
        return [_average(builder, op, operands[0], spec)]
    return [builder.emit(_anchor(op, operands, spec))]


def _anchor(op: object, operands: Exprs, spec: NodeSpec) -> Any:
    match op:
        case Conv2d():
            return relax.op.nn.conv2d(
                operands[0], operands[1], strides=op.strides, padding=op.padding, dilation=op.dilation, groups=op.groups
            )
        case MatMul():
            right = operands[1]
            if op.transpose_b:
                rank = len(spec.operands[1].type.shape)
                right = relax.op.permute_dims(right, [*range(rank - 2), rank - 1, rank - 2])
            return relax.op.matmul(operands[0], right)
        case MaxPool2d():
            return relax.op.nn.max_pool2d(
                operands[0],
                pool_size=op.kernel,
                strides=op.strides,
                padding=op.overhang(spec.operands[0].type, spec.results[0]),
                dilation=op.dilation,
            )
        case Activation():
            return _activation(op.kind, op.params, operands[0])
        case Binary():
            forms = {"sub": relax.op.subtract, "mul": relax.op.multiply, "div": relax.op.divide}
            return forms[op.kind](operands[0], operands[1])
        case ChannelAffine():
            shape = [-1, *([1] * (len(spec.results[0].shape) - 2))]
            scale, shift = (relax.op.reshape(operand, shape) for operand in operands[1:])
            return relax.op.add(relax.op.multiply(operands[0], scale), shift)
        case LayerNorm():
            result = spec.results[0]
            given = (np.ones, np.zeros)[len(operands) - 1 :]
            absent = [relax.const(make(result.shape[op.axis :], result.dtype)) for make in given]
            axes = list(range(op.axis, len(result.shape)))
            return relax.op.nn.layer_norm(*operands, *absent, axes=axes, epsilon=op.epsilon)
        case Softmax():
            return relax.op.nn.softmax(operands[0], axis=op.axis)
        case Pad():
            return relax.op.nn.pad(operands[0], [amount for pair in op.pads for amount in pair], "constant", op.value)
        case Concat():
            return relax.op.concat(operands, axis=op.axis)
        case Reshape():
            return relax.op.reshape(operands[0], op.shape)
        case Transpose():
            return relax.op.permute_dims(operands[0], op.permutation)
    raise EmitError(f"{spec.op} has no plain Relax form")


def _activation(kind: str, params: tuple[float, ...], data: Any) -> Any:
    unary = {
        "relu": relax.op.nn.relu,
        "sigmoid": relax.op.sigmoid,
        "tanh": relax.op.tanh,
        "exp": relax.op.exp,
        "sqrt": relax.op.sqrt,
        "erf": relax.op.erf,
        "gelu": relax.op.nn.gelu,
        "silu": relax.op.nn.silu,
    }
    if kind in unary:
        return unary[kind](data)
    if kind == "clip":
        return relax.op.clip(data, params[0], params[1])
    if kind == "leaky_relu":
        return relax.op.nn.leakyrelu(data, alpha=params[0])
    if kind in ("hard_sigmoid", "hard_swish"):
        slope, offset = (relax.const(number, "float32") for number in (params or (1 / 6, 0.5)))
        gate = relax.op.clip(relax.op.add(relax.op.multiply(data, slope), offset), 0.0, 1.0)
        return gate if kind == "hard_sigmoid" else relax.op.multiply(data, gate)
    raise EmitError(f"the activation {kind} has no plain Relax form")


def _step(step: Step, data: Any, operands: Exprs, result: TensorType) -> Any:
    if step.kind == "activation":
        return _activation(step.activation, step.params, data)
    operand = operands[0]
    if step.kind == "bias" and len(result.shape) == 4:
        operand = relax.op.reshape(operand, (1, result.shape[1], 1, 1))
    return relax.op.add(data, operand)


def _average(builder: Any, op: AvgPool2d, data: Any, spec: NodeSpec) -> Any:
    """Mean pooling; where divisors vary in a way that TVM does not know (ceil mode), sums are divided by constants."""
    source, result = spec.operands[0].type, spec.results[0]
    padding = op.overhang(source, result)
    pooled = {"pool_size": op.kernel, "strides": op.strides, "padding": padding, "dilation": op.dilation}
    if padding == op.padding:
        return builder.emit(relax.op.nn.avg_pool2d(data, **pooled, count_include_pad=op.count_include_pad))
    total = builder.emit(relax.op.nn.avg_pool2d(data, **pooled, count_include_pad=True))
    factor = (op.kernel[0] * op.kernel[1]) / op.divisors(source, result)
    return builder.emit(relax.op.multiply(total, relax.const(factor.astype(result.dtype)[np.newaxis, np.newaxis])))


def _local_response_norm(builder: Any, op: LocalResponseNorm, data: Any, result: TensorType) -> Any:
    before, after = op.reach
    rank = len(result.shape)
    channels = result.shape[1]
    squares = builder.emit(relax.op.multiply(data, data))
    pads = [0] * (2 * rank)
    pads[2], pads[3] = before, after
    framed = builder.emit(relax.op.nn.pad(squares, pads))
    total = None
    for offset in range(op.size):
        window = builder.emit(relax.op.strided_slice(framed, axes=[1], begin=[offset], end=[offset + channels]))
        total = window if total is None else builder.emit(relax.op.add(total, window))
    scaled = builder.emit(relax.op.multiply(total, relax.const(op.alpha / op.size, result.dtype)))
    base = builder.emit(relax.op.add(scaled, relax.const(op.bias, result.dtype)))
    divisor = builder.emit(relax.op.power(base, relax.const(op.beta, result.dtype)))
    return builder.emit(relax.op.divide(data, divisor))
