"""What a kernel does to each result on its way to memory: the steps of a spec's epilogue as te expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import s_tir, te, tirx

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels.pipeline import EXACT_BUFFERS


def placeholders(spec: NodeSpec, first: int = 0) -> list[Any]:
    """One te placeholder per operand from index ``first`` on, in the spec's order, under the operands' own types."""
    operands = spec.operands[first:]
    return [
        te.placeholder(operand.type.shape, operand.type.dtype, name=f"operand{first + index}")
        for index, operand in enumerate(operands)
    ]


def applied(spec: NodeSpec, value: Any, operands: Sequence[Any], indices: Sequence[Any]) -> Any:
    """The anchor's result after the spec's epilogue.

    Args:
        spec: whose epilogue is applied.
        value: the anchor's result at ``indices``.
        operands: te tensors of the epilogue's operands, in the order of the steps.
        indices: where in the first result (in its own layout, inside its bounds) the value goes.
    """
    rest = iter(operands)
    channel = indices[1] if len(spec.results[0].shape) == 4 else indices[-1]
    for step in spec.epilogue:
        if step.kind == "activation":
            value = activation(step.activation, step.params, value)
        elif step.kind == "bias":
            value = value + next(rest)(channel)
        else:
            value = value + next(rest)(*indices)
    return value


def activation(kind: str, params: Sequence[float], value: Any) -> Any:
    """An activation of a float32 expression; every one is arithmetic that vectorises, none a call into libm.

    Raises:
        KeyError: no such activation; ``kind in ACTIVATIONS`` tells beforehand.
    """
    return ACTIVATIONS[kind](value, *(_f32(param) for param in params))


def can_apply(spec: NodeSpec) -> bool:
    """Whether all is float32 and every activation of the epilogue is known here."""
    types = [operand.type for operand in spec.operands] + list(spec.results)
    known = all(step.kind != "activation" or step.activation in ACTIVATIONS for step in spec.epilogue)
    return known and all(type.dtype == "float32" for type in types)


def finished(func: Any) -> Any:
    """A scheduled PrimFunc as every back end takes it: opaque to fusion, not to be scheduled again, private.

    Its body is one root block, which TVM's passes over Relax modules (default pipelines too) take for granted.
    """
    if not isinstance(func.body, s_tir.SBlockRealize):
        func = func.with_body(s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", func.body)))
    func = func.with_attr("op_pattern", 8).with_attr("tirx.is_scheduled", True).with_attr("tirx.noalias", True)
    func = func.with_attr(EXACT_BUFFERS, True)
    return func.without_attr("global_symbol")


def _f32(number: float) -> Any:
    return tirx.const(number, "float32")


def _maximum(low: Any, x: Any) -> Any:
    """max(low, x), the constant first: the comparison is ordered, so a NaN in x comes through."""
    return te.max(low, x)


def _clip(x: Any, low: Any, high: Any) -> Any:
    return te.min(high, te.max(low, x))


def _polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """Horner's scheme, highest power first."""
    total = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + _f32(coefficient)
    return total


def _exp(x: Any) -> Any:
    """2^n e^r with |r| <= ln 2 / 2: a polynomial of degree 7 for e^r, 2^n in two factors so that neither overflows."""
    x = _clip(x, _f32(-104.0), _f32(89.0))
    n = te.floor(x * _f32(1 / math.log(2)) + _f32(0.5))
    high = 0.693359375
    r = x - n * _f32(high) - n * _f32(math.log(2) - high)
    series = _polynomial(r, [1 / math.factorial(power) for power in range(7, -1, -1)])
    whole = n.astype("int32")
    half = whole >> 1
    return series * _power_of_two(half) * _power_of_two(whole - half)


def _power_of_two(n: Any) -> Any:
    return tirx.reinterpret("float32", (n + 127) << 23)


def _sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) = e^x / (1 + e^x): by e^-|x|, which never overflows, so that the lower tail is exact too."""
    small = _exp(te.min(x, _f32(0) - x))
    return tirx.Select(x >= _f32(0), _f32(1), small) / (_f32(1) + small)


def _tanh(x: Any) -> Any:
    """1 - 2 / (e^2x + 1); near zero, where that cancels, the Taylor series."""
    square = x * x
    series = x * _polynomial(square, [-1382 / 155925, 62 / 2835, -17 / 315, 2 / 15, -1 / 3, 1])
    large = _f32(1) - _f32(2) / (_exp(x + x) + _f32(1))
    return tirx.Select(square < _f32(0.1), series, large)


def _erf(x: Any) -> Any:
    """1 - exp(-p(|x|)) with p a least-squares fit of -log erfc on [0.4, 4]; near zero the Taylor series."""
    square = x * x
    terms = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(5, -1, -1)]
    series = x * _polynomial(square, terms)
    size = te.min(_f32(4.0), te.max(x, _f32(0) - x))
    large = _f32(1) - _exp(_f32(0) - _polynomial(size, _LOG_ERFC))
    return tirx.Select(square < _f32(0.2), series, tirx.Select(x < _f32(0), _f32(0) - large, large))


_LOG_ERFC = (
    1.64078047e-05,
    -0.000374747935,
    0.00386043894,
    -0.0242656656,
    0.106942475,
    0.634541392,
    1.12895119,
    -6.58646532e-05,
)

ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": lambda x: _maximum(_f32(0), x),
    "clip": _clip,
    "leaky_relu": lambda x, slope: tirx.Select(x >= _f32(0), x, x * slope),
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "exp": _exp,
    "sqrt": te.sqrt,
    "erf": _erf,
    "silu": lambda x: x * _sigmoid(x),
    "hard_sigmoid": lambda x, slope, offset: _clip(x * slope + offset, _f32(0), _f32(1)),
    "hard_swish": lambda x: x * _clip(x * _f32(1 / 6) + _f32(0.5), _f32(0), _f32(1)),
    "gelu": lambda x: x * _f32(0.5) * (_f32(1) + _erf(x * _f32(math.sqrt(0.5)))),
}
"""Every activation of the graph, as a te expression of a float32 expression and its constants."""
