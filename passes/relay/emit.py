"""Nodes as Relay functions in the layouts of their algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
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
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    MaxPool2d,
    NodeSpec,
    Opaque,
    Pad,
    Reshape,
    Softmax,
    Split,
    Step,
    TensorType,
    Transpose,
)
from joulec.passes.layouts.layout import Relayout, blocked_shape, layout_name, same_memory
from joulec.passes.relay.algorithm import DEPTHWISE_BLOCKED, RelayAlgorithm, flat_shape, is_batched, types_read

Exprs = list[Any]


class EmitError(ValueError):
    """A node that has no Relay form."""


def emit_function(spec: NodeSpec, algorithm: RelayAlgorithm) -> Any:
    """A Relay function of the operands, as the algorithm reads them, that computes the node.

    Raises:
        EmitError: no Relay operator has this meaning.
    """
    parameters = [
        relay.var(f"p{index}", shape=type.shape, dtype=type.dtype)
        for index, type in enumerate(types_read(spec, algorithm))
    ]
    results = emit(spec, algorithm, parameters)
    body = results[0] if len(results) == 1 else relay.Tuple(results)
    module = relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function(parameters, body)))
    return module["main"]


def emit(spec: NodeSpec, algorithm: RelayAlgorithm, operands: Sequence[Any]) -> Exprs:
    """The node's results as expressions of its operands, which are in the algorithm's layouts."""
    count = len(spec.anchor_operands)
    results = _anchor(spec, algorithm, list(operands[:count]))
    rest = list(operands[count:])
    for step in spec.epilogue:
        taken, rest = rest[: step.operands], rest[step.operands :]
        if step.kind == "bias" and isinstance(spec.op, MatMul):
            taken = [_product_bias(spec, taken[0])]
        results[0] = _step(step, results[0], taken)
    return results


def _anchor(spec: NodeSpec, algorithm: RelayAlgorithm, operands: Exprs) -> Exprs:
    op, result = spec.op, spec.results[0]
    layout = layout_name(algorithm.reads)
    match op:
        case Opaque(dialect="relay"):
            return _opaque(op, operands)
        case Relayout():
            return [relayout(operands[0], result.shape, op.source, op.target)]
        case Conv2d():
            return [_convolution(op, spec, algorithm, operands)]
        case MatMul():
            return [_matmul(op, spec, operands)]
        case MaxPool2d():
            padding = op.overhang(spec.operands[0].type, result)
            given = {"pool_size": op.kernel, "strides": op.strides, "padding": padding, "dilation": op.dilation}
            return [relay.nn.max_pool2d(operands[0], **given, layout=layout)]
        case AvgPool2d():
            return [_average(op, spec, layout, operands[0])]
        case Activation():
            return [_activation(op.kind, op.params, operands[0])]
        case Add():
            total = operands[0]
            for operand in operands[1:]:
                total = relay.add(total, operand)
            return [total]
        case Binary():
            forms = {"sub": relay.subtract, "mul": relay.multiply, "div": relay.divide}
            return [forms[op.kind](operands[0], operands[1])]
        case ChannelAffine():
            scale, shift = operands[1:]
            if len(result.shape) != 4:
                shape = (-1, *([1] * (len(result.shape) - 2)))
                scale, shift = relay.reshape(scale, shape), relay.reshape(shift, shape)
            return [relay.add(relay.multiply(operands[0], scale), shift)]
        case LayerNorm():
            return [_layer_norm(op, spec, operands)]
        case LocalResponseNorm():
            return [_local_response_norm(op, result, operands[0])]
        case Softmax():
            return [relay.nn.softmax(operands[0], axis=op.axis)]
        case Pad():
            return [relay.nn.pad(operands[0], op.pads, op.value)]
        case Concat():
            return [relay.concatenate(operands, axis=op.axis)]
        case Split():
            return _split(op, algorithm.reads, operands[0])
        case Reshape():
            return [relay.reshape(operands[0], op.shape, allowzero=True)]
        case Transpose():
            return [relay.transpose(operands[0], op.permutation)]
    raise EmitError(f"{spec.op} has no Relay form")


def relayout(data: Any, shape: tuple[int, ...], source: int, target: int) -> Any:
    """A four-dimensional tensor (of the given NCHW shape) from one layout to another."""
    if same_memory(shape, source, target):
        return relay.reshape(data, blocked_shape(shape, target))
    return relay.layout_transform(data, layout_name(source), layout_name(target))


def _convolution(op: Conv2d, spec: NodeSpec, algorithm: RelayAlgorithm, operands: Exprs) -> Any:
    kernel = spec.operands[1].type.shape
    given: dict[str, Any] = {
        "strides": op.strides,
        "padding": op.padding,
        "dilation": op.dilation,
        "groups": op.groups,
        "channels": kernel[0],
        "kernel_size": kernel[2:],
    }
    if not algorithm.writes:
        return relay.nn.conv2d(*operands, **given)
    depthwise = algorithm.implementation == DEPTHWISE_BLOCKED
    inner = 1 if depthwise else algorithm.reads
    given["data_layout"] = layout_name(algorithm.reads)
    given["out_layout"] = layout_name(algorithm.writes)
    given["kernel_layout"] = f"OIHW{inner}i{algorithm.writes}o"
    form = relay.nn.contrib_depthwise_conv2d_nchwc if depthwise else relay.nn.contrib_conv2d_nchwc
    return form(*operands, **given)


def _matmul(op: MatMul, spec: NodeSpec, operands: Exprs) -> Any:
    data, other = operands
    if is_batched(spec):
        lead = spec.results[0].shape[:-2]
        matrices = [operand.type.shape[-2:] for operand in spec.operands[:2]]
        both = [_spread(spec, one, index, (*lead, *matrices[index])) for index, one in enumerate(operands)]
        return relay.nn.batch_matmul(*both, transpose_a=False, transpose_b=op.transpose_b)
    return relay.nn.dense(data, other if op.transpose_b else relay.transpose(other, (1, 0)))


def _spread(spec: NodeSpec, data: Any, index: int, shape: tuple[int, ...]) -> Any:
    """An operand of a matrix product, broadcast to a shape unless it has it, in the flat form of it."""
    flat = flat_shape(spec, shape)
    if flat_shape(spec, spec.operands[index].type.shape) == flat:
        return data
    return relay.reshape(relay.broadcast_to(data, shape), flat)


def _product_bias(spec: NodeSpec, bias: Any) -> Any:
    """A bias as the flat product takes it: along axis 1 where the product has four axes, else along its last."""
    shape = spec.results[0].shape
    if len(shape) != 4:
        return bias
    kept = 2 if is_batched(spec) else 1
    spread = (*shape[:-kept], *[1] * kept)
    return relay.reshape(relay.broadcast_to(relay.reshape(bias, (1, -1, 1, 1)), spread), flat_shape(spec, spread))


def _average(op: AvgPool2d, spec: NodeSpec, layout: str, data: Any) -> Any:
    """Mean pooling; where divisors vary in a way that TVM does not know (ceil mode), sums are divided by constants."""
    source, result = spec.operands[0].type, spec.results[0]
    if op.kernel == source.shape[2:] and result.shape[2:] == (1, 1) and op.padding == (0, 0, 0, 0):
        return relay.nn.global_avg_pool2d(data, layout=layout)
    padding = op.overhang(source, result)
    given = {"pool_size": op.kernel, "strides": op.strides, "padding": padding, "dilation": op.dilation}
    if padding == op.padding:
        return relay.nn.avg_pool2d(data, **given, layout=layout, count_include_pad=op.count_include_pad)
    total = relay.nn.avg_pool2d(data, **given, layout=layout, count_include_pad=True)
    factor = (op.kernel[0] * op.kernel[1]) / op.divisors(source, result)
    return relay.multiply(total, relay.const(factor.astype(result.dtype)[np.newaxis, np.newaxis]))


def _layer_norm(op: LayerNorm, spec: NodeSpec, operands: Exprs) -> Any:
    axes = list(range(op.axis, len(spec.results[0].shape)))
    mean = relay.mean(operands[0], axis=axes, keepdims=True)
    centred = relay.subtract(operands[0], mean)
    variance = relay.mean(relay.multiply(centred, centred), axis=axes, keepdims=True)
    spread = relay.sqrt(relay.add(variance, relay.const(op.epsilon, spec.results[0].dtype)))
    found = relay.divide(centred, spread)
    for operand, apply in zip(operands[1:], (relay.multiply, relay.add), strict=False):
        found = apply(found, operand)
    return found


def _local_response_norm(op: LocalResponseNorm, result: TensorType, data: Any) -> Any:
    """What TVM's operator refuses, an even number of channels above all, as a sum of shifted squares."""
    if op.size % 2 == 1 and len(result.shape) == 4:
        return relay.nn.lrn(data, size=op.size, axis=1, bias=op.bias, alpha=op.alpha, beta=op.beta)
    rank, channels = len(result.shape), result.shape[1]
    below = (op.size - 1) // 2
    around = [(0, 0), (below, op.size - 1 - below), *([(0, 0)] * (rank - 2))]
    squares = relay.nn.pad(relay.multiply(data, data), around)
    shifted = [
        relay.strided_slice(squares, begin=[first], end=[first + channels], axes=[1]) for first in range(op.size)
    ]
    total = reduce(relay.add, shifted)
    scaled = relay.multiply(total, relay.const(op.alpha / op.size, result.dtype))
    spread = relay.power(relay.add(scaled, relay.const(op.bias, result.dtype)), relay.const(op.beta, result.dtype))
    return relay.divide(data, spread)


def _split(op: Split, block: int, data: Any) -> Exprs:
    size = block or 1
    if 0 in op.sizes:
        return [relay.strided_slice(data, [begin // size], [end // size], axes=[op.axis]) for begin, end in op.bounds]
    edges = [end // size for _, end in op.bounds[:-1]]
    if not edges:
        return [data]
    parts = relay.split(data, edges, axis=op.axis)
    return [parts[index] for index in range(len(op.sizes))]


def _activation(kind: str, params: tuple[float, ...], data: Any) -> Any:
    unary = {
        "relu": relay.nn.relu,
        "sigmoid": relay.sigmoid,
        "tanh": relay.tanh,
        "exp": relay.exp,
        "sqrt": relay.sqrt,
        "erf": relay.erf,
    }
    if kind in unary:
        return unary[kind](data)
    if kind == "clip":
        return relay.clip(data, params[0], params[1])
    if kind == "leaky_relu":
        return relay.nn.leaky_relu(data, alpha=params[0])
    if kind == "gelu":
        half = relay.multiply(data, relay.const(0.5))
        return relay.multiply(half, relay.add(relay.const(1.0), relay.erf(relay.multiply(data, relay.const(0.5**0.5)))))
    if kind == "silu":
        return relay.multiply(data, relay.sigmoid(data))
    if kind in ("hard_sigmoid", "hard_swish"):
        slope, offset = (relay.const(number) for number in (params or (1 / 6, 0.5)))
        gate = relay.clip(relay.add(relay.multiply(data, slope), offset), 0.0, 1.0)
        return gate if kind == "hard_sigmoid" else relay.multiply(data, gate)
    raise EmitError(f"the activation {kind} has no Relay form")


def _step(step: Step, data: Any, operands: Exprs) -> Any:
    if step.kind == "activation":
        return _activation(step.activation, step.params, data)
    return relay.add(data, operands[0])


def _opaque(op: Opaque, operands: Exprs) -> Exprs:
    main = tvm.ir.load_json(op.definition.decode())["main"]
    body = relay.bind(main.body, dict(zip(main.params, operands, strict=True)))
    if len(op.result_types) == 1 and not isinstance(main.ret_type, tvm.ir.TupleType):
        return [body]
    return [relay.TupleGetItem(body, index) for index in range(len(op.result_types))]
