"""What the operators compute, in TE: unscheduled, one statement per step, epilogue included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

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
    Pad,
    Softmax,
    Split,
    Transpose,
)
from joulec.passes.kernels.epilogue import activation, applied

Element = Callable[..., Any]
"""The anchor's result at an index."""


def defined(spec: NodeSpec, operands: Sequence[Any]) -> list[Any]:
    """TE tensors of the results.

    Args:
        operands: placeholders of all operands.

    Raises:
        KeyError: the operator has no definition here; `has_definition` tells beforehand.
    """
    count = len(spec.anchor_operands)
    elements = _DEFINITIONS[type(spec.op)](spec, list(operands[:count]))
    rest = operands[count:]
    if len(spec.results) > 1:
        return [te.compute(type.shape, one, "result") for type, one in zip(spec.results, elements, strict=True)]

    def result(*index: Any) -> Any:
        return applied(spec, elements[0](*index), rest, index)

    return [te.compute(spec.results[0].shape, result, "result")]


def has_definition(spec: NodeSpec) -> bool:
    """Whether the operator is defined here."""
    averaged = not isinstance(spec.op, AvgPool2d) or spec.op.dilation == (1, 1)
    return type(spec.op) in _DEFINITIONS and averaged


def _f32(number: float) -> Any:
    return tirx.const(number, "float32")


def _axes(sizes: Sequence[int], name: str) -> list[Any]:
    return [te.reduce_axis((0, size), f"{name}{position}") for position, size in enumerate(sizes)]


def _framed(data: Any, before: Sequence[int], shape: Sequence[int], fill: Any) -> Any:
    """The data inside a larger tensor, ``before`` elements of ``fill`` in front of each axis."""

    def one(*index: Any) -> Any:
        at = [i - first for i, first in zip(index, before, strict=True)]
        sizes = (int(extent) for extent in data.shape)
        inside = [bound for i, size in zip(at, sizes, strict=True) for bound in (i >= 0, i < size)]
        return tirx.if_then_else(tirx.all(*inside), data(*at), fill)

    return te.compute(shape, one, "framed")


def _conv2d(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op, (data, weight) = spec.op, operands
    assert isinstance(op, Conv2d)
    _, inner, *kernel = (int(extent) for extent in weight.shape)
    batch, channels, height, width = spec.operands[0].type.shape
    top, left, bottom, right = op.padding
    if any(op.padding):
        data = _framed(
            data, (0, 0, top, left), (batch, channels, height + top + bottom, width + left + right), _f32(0.0)
        )
    c, r, q = _axes((inner, *kernel), "k")
    outputs = spec.results[0].shape[1] // op.groups

    def one(n: Any, o: Any, i: Any, j: Any) -> Any:
        y, x = i * op.strides[0] + r * op.dilation[0], j * op.strides[1] + q * op.dilation[1]
        return te.sum(data[n, o // outputs * inner + c, y, x] * weight[o, c, r, q], axis=[c, r, q])

    return [te.compute(spec.results[0].shape, one, "convolution")]


def _matmul(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op, (left, right) = spec.op, operands
    assert isinstance(op, MatMul)
    (k,) = _axes((int(left.shape[-1]),), "k")

    def lead(operand: Any, index: Sequence[Any]) -> list[Any]:
        own = len(operand.shape) - 2
        at = index[len(index) - own :] if own else ()
        return [0 if int(extent) == 1 else i for extent, i in zip(operand.shape[:own], at, strict=True)]

    def one(*index: Any) -> Any:
        *batch, i, j = index
        place = (j, k) if op.transpose_b else (k, j)
        return te.sum(left[(*lead(left, batch), i, k)] * right[(*lead(right, batch), *place)], axis=[k])

    return [te.compute(spec.results[0].shape, one, "product")]


def _windows(spec: NodeSpec, data: Any, fill: Any) -> tuple[Callable[..., Any], list[Any]]:
    """The element of a pooling's window, and the axes that run over it."""
    op, result = spec.op, spec.results[0]
    assert isinstance(op, MaxPool2d | AvgPool2d)
    batch, channels, height, width = spec.operands[0].type.shape
    top, left, bottom, right = op.overhang(spec.operands[0].type, result)
    if top or left or bottom or right:
        data = _framed(data, (0, 0, top, left), (batch, channels, height + top + bottom, width + left + right), fill)
    r, q = _axes(op.kernel, "k")

    def one(n: Any, c: Any, i: Any, j: Any) -> Any:
        return data[n, c, i * op.strides[0] + r * op.dilation[0], j * op.strides[1] + q * op.dilation[1]]

    return one, [r, q]


def _max_pool(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    element, axes = _windows(spec, operands[0], tirx.min_value("float32"))
    return [te.compute(spec.results[0].shape, lambda *i: te.max(element(*i), axis=axes), "largest")]


def _average_pool(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op, data = spec.op, spec.operands[0].type
    assert isinstance(op, AvgPool2d)
    element, axes = _windows(spec, operands[0], _f32(0.0))
    total = te.compute(spec.results[0].shape, lambda *i: te.sum(element(*i), axis=axes), "total")

    def counted(i: Any, axis: int) -> Any:
        """Elements of the data, and of the padding that counts, along an axis of the window."""
        before, after = op.padding[axis], op.padding[2 + axis]
        kept = (before, after) if op.count_include_pad else (0, 0)
        begin = i * op.strides[axis] - before
        return te.min(begin + op.kernel[axis], data.shape[2 + axis] + kept[1]) - te.max(begin, -kept[0])

    def mean(n: Any, c: Any, i: Any, j: Any) -> Any:
        return total[n, c, i, j] / tirx.Cast("float32", counted(i, 0) * counted(j, 1))

    return [mean]


def _softmax(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    axis, data = spec.op.attributes["axis"], operands[0]
    shape = spec.results[0].shape
    rest = (*shape[:axis], *shape[axis + 1 :])
    k, other = _axes((shape[axis], shape[axis]), "k")

    def at(index: Sequence[Any], place: Any) -> tuple[Any, ...]:
        return (*index[:axis], place, *index[axis:])

    largest = te.compute(rest, lambda *i: te.max(data[at(i, k)], axis=[k]), "largest")

    def without(index: Sequence[Any]) -> tuple[Any, ...]:
        return (*index[:axis], *index[axis + 1 :])

    raised = te.compute(shape, lambda *i: activation("exp", (), data[i] - largest[without(i)]), "raised")
    total = te.compute(rest, lambda *i: te.sum(raised[at(i, other)], axis=[other]), "total")
    return [lambda *i: raised[i] / total[without(i)]]


def _layer_norm(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op, (data, *affine) = spec.op, operands
    assert isinstance(op, LayerNorm)
    shape = spec.results[0].shape
    sizes, axis = shape[op.axis :], op.axis
    count = _f32(float(math.prod(sizes)))
    first, second = _axes(sizes, "k"), _axes(sizes, "m")
    total = te.compute(shape[:axis] or (1,), lambda *i: te.sum(data[(*i[:axis], *first)], axis=first), "total")

    def apart(index: Sequence[Any]) -> Any:
        return data[tuple(index)] - total[tuple(index[:axis]) or (0,)] / count

    spread = te.compute(
        shape[:axis] or (1,),
        lambda *i: te.sum(apart((*i[:axis], *second)) * apart((*i[:axis], *second)), axis=second),
        "spread",
    )

    def one(*i: Any) -> Any:
        value = apart(i) / te.sqrt(spread[tuple(i[:axis]) or (0,)] / count + _f32(op.epsilon))
        value = value * affine[0](*i[axis:]) if affine else value
        return value + affine[1](*i[axis:]) if len(affine) > 1 else value

    return [one]


def _local_response_norm(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op, data = spec.op, operands[0]
    assert isinstance(op, LocalResponseNorm)
    shape, (before, after) = spec.results[0].shape, op.reach
    frame = (shape[0], shape[1] + before + after, *shape[2:])
    framed = _framed(data, (0, before, *(0 for _ in shape[2:])), frame, _f32(0.0))
    (k,) = _axes((op.size,), "k")

    def sum_of_squares(n: Any, c: Any, *rest: Any) -> Any:
        value = framed[(n, c + k, *rest)]
        return te.sum(value * value, axis=[k])

    squares = te.compute(shape, sum_of_squares, "squares")

    def one(*i: Any) -> Any:
        return data[i] / te.power(_f32(op.bias) + _f32(op.alpha / op.size) * squares[i], _f32(op.beta))

    return [one]


def _broadcast(operand: Any, index: Sequence[Any]) -> Any:
    at = index[len(index) - len(operand.shape) :]
    return operand(*(0 if int(extent) == 1 else i for extent, i in zip(operand.shape, at, strict=True)))


def _add(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    def one(*index: Any) -> Any:
        total = _broadcast(operands[0], index)
        for operand in operands[1:]:
            total = total + _broadcast(operand, index)
        return total

    return [one]


def _binary(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    forms: dict[str, Callable[[Any, Any], Any]] = {
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
    }
    assert isinstance(spec.op, Binary)
    form = forms[spec.op.kind]
    return [lambda *index: form(_broadcast(operands[0], index), _broadcast(operands[1], index))]


def _channel_affine(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    data, scale, shift = operands
    return [lambda *index: data[index] * scale[index[1]] + shift[index[1]]]


def _activation(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op = spec.op
    assert isinstance(op, Activation)
    return [lambda *index: activation(op.kind, op.params, operands[0](*index))]


def _pad(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op = spec.op
    assert isinstance(op, Pad)
    fill = tirx.const(op.value, "float32") if math.isfinite(op.value) else -tirx.infinity("float32")
    return [_framed(operands[0], [before for before, _ in op.pads], spec.results[0].shape, fill)]


def _concat(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    axis = spec.op.attributes["axis"]

    def one(*index: Any) -> Any:
        begins = [sum(int(other.shape[axis]) for other in operands[:position]) for position in range(len(operands))]

        def taken(position: int) -> Any:
            return operands[position](*index[:axis], index[axis] - begins[position], *index[axis + 1 :])

        value = taken(len(operands) - 1)
        for position in reversed(range(len(operands) - 1)):
            value = tirx.if_then_else(index[axis] < begins[position + 1], taken(position), value)
        return value

    return [one]


def _split(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op = spec.op
    assert isinstance(op, Split)

    def part(begin: int) -> Element:
        return lambda *index: operands[0](*index[: op.axis], index[op.axis] + begin, *index[op.axis + 1 :])

    return [part(begin) for begin, _ in op.bounds]


def _transpose(spec: NodeSpec, operands: list[Any]) -> list[Element]:
    op = spec.op
    assert isinstance(op, Transpose)

    def one(*index: Any) -> Any:
        at = dict(zip(op.permutation, index, strict=True))
        return operands[0](*(at[axis] for axis in range(len(index))))

    return [one]


_DEFINITIONS: dict[type, Callable[[NodeSpec, list[Any]], list[Element]]] = {
    Conv2d: _conv2d,
    MatMul: _matmul,
    MaxPool2d: _max_pool,
    AvgPool2d: _average_pool,
    Softmax: _softmax,
    LayerNorm: _layer_norm,
    LocalResponseNorm: _local_response_norm,
    Add: _add,
    Binary: _binary,
    ChannelAffine: _channel_affine,
    Activation: _activation,
    Pad: _pad,
    Concat: _concat,
    Split: _split,
    Transpose: _transpose,
}
