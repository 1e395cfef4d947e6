"""Functions of one element."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx.helper
from tvm import te, tirx

from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of

Scalar = Callable[[Any], Any]

_FLOATS = ("float32", "float64")
_PLAIN = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def each(site: Site, function: Scalar) -> Exprs:
    """The function of every element of the first operand."""
    return [site.te(lambda x: te.compute(x.shape, lambda *i: function(x[i])), site.operands[0])]


def _of(function: Scalar, floats: bool = True) -> Lowering:
    """A function without attributes; of floating-point numbers only, unless said otherwise."""

    def lowering(site: Site) -> Exprs | None:
        return None if floats and site.dtype(0) not in _FLOATS else each(site, function)

    return lowering


def _with(make: Callable[[Site], Scalar | None]) -> Lowering:
    """A function that depends on attributes."""

    def lowering(site: Site) -> Exprs | None:
        function = make(site) if site.dtype(0) in _FLOATS else None
        return None if function is None else each(site, function)

    return lowering


def c(x: Any, value: float) -> Any:
    """A constant of the type of x."""
    return tirx.const(value, dtype_of(x))


def _sigmoid(x: Any) -> Any:
    return c(x, 1) / (c(x, 1) + tirx.exp(-x))


def _softplus(x: Any) -> Any:
    """log(1 + e^x), without overflow."""
    return tirx.max(x, c(x, 0)) + tirx.log1p(tirx.exp(-tirx.abs(x)))


def _erf(x: Any) -> Any:
    return tirx.erf(x)


def _elu(alpha: float) -> Scalar:
    return lambda x: tirx.Select(x < c(x, 0), c(x, alpha) * (tirx.exp(x) - c(x, 1)), x)


def _celu(alpha: float) -> Scalar:
    return lambda x: tirx.max(x, c(x, 0)) + tirx.min(c(x, 0), c(x, alpha) * (tirx.exp(x / c(x, alpha)) - c(x, 1)))


def _selu(alpha: float, gamma: float) -> Scalar:
    return lambda x: c(x, gamma) * tirx.Select(x > c(x, 0), x, c(x, alpha) * (tirx.exp(x) - c(x, 1)))


def _hard_sigmoid(alpha: float, beta: float) -> Scalar:
    return lambda x: tirx.max(c(x, 0), tirx.min(c(x, 1), c(x, alpha) * x + c(x, beta)))


def _shrink(site: Site) -> Scalar:
    bias, bound = site.attribute("bias", 0.0), site.attribute("lambd", 0.5)

    def function(x: Any) -> Any:
        inner = tirx.Select(x > c(x, bound), x - c(x, bias), c(x, 0))
        return tirx.Select(x < c(x, -bound), x + c(x, bias), inner)

    return function


def _gelu(site: Site) -> Scalar:
    if site.attribute("approximate", "none") == "tanh":
        factor = math.sqrt(2 / math.pi)
        return lambda x: c(x, 0.5) * x * (c(x, 1) + tirx.tanh(c(x, factor) * (x + c(x, 0.044715) * x * x * x)))
    return lambda x: c(x, 0.5) * x * (c(x, 1) + _erf(x * c(x, math.sqrt(0.5))))


def _is_inf(site: Site) -> Exprs | None:
    if site.dtype(0) not in _FLOATS:
        return None
    signs = [sign for sign, key in ((1, "detect_positive"), (-1, "detect_negative")) if site.attribute(key, 1)]

    def function(x: Any) -> Any:
        found = tirx.const(False, "bool")
        for sign in signs:
            found = tirx.any(found, x == c(x, sign * math.inf))
        return found

    return each(site, function)


def _clip(site: Site) -> Exprs | None:
    """Bounds are attributes before opset 11, operands since; where they cross, the upper one counts."""
    if site.opset < 11:
        low, high = site.attribute("min"), site.attribute("max")
        given = [bound if bound is None else site.const(bound, site.dtype(0)) for bound in (low, high)]
    else:
        given = [site.operands[index] if site.has(index) else None for index in (1, 2)]
    bounds = [site.reshape(bound, ()) for bound in given if bound is not None]
    has_low, has_high = (bound is not None for bound in given)

    def function(x: Any, *tensors: Any) -> Any:
        rest = list(tensors)
        low = rest.pop(0) if has_low else None
        high = rest.pop(0) if has_high else None

        def one(*i: Any) -> Any:
            value = x[i]
            if low is not None:
                value = tirx.Select(value < low[()], low[()], value)
            return value if high is None else tirx.Select(value > high[()], high[()], value)

        return te.compute(x.shape, one)

    return [site.te(function, site.operands[0], *bounds)]


def cast_scalar(value: Any, dtype: str) -> Any:
    """A number in another type: floats are truncated towards zero; anything but zero is true."""
    if dtype_of(value) == dtype:
        return value
    if dtype == "bool":
        return value != tirx.const(0, dtype_of(value))
    if dtype_of(value) == "bool":
        return tirx.Cast(dtype, tirx.Cast("uint8", value))
    if dtype_of(value).startswith("float") and dtype.startswith(("int", "uint")):
        register = "int32" if dtype in ("int8", "int16", "int32", "uint8", "uint16") else "int64"  # as C compilers do
        return tirx.Cast(dtype, tirx.Cast(register, value)) if dtype != "uint64" else tirx.Cast(dtype, value)
    return tirx.Cast(dtype, value)


def _cast_to(site: Site, dtype: str) -> Exprs | None:
    plain = ("bool", "float32", "float64", "float16", "bfloat16")
    if dtype not in plain and not dtype.startswith(("int", "uint")):
        return None
    if dtype in ("float16", "bfloat16"):
        dtype = "float32"  # rounded to half precision at the end of every node
    return each(site, lambda x: cast_scalar(x, dtype))


def _cast(site: Site) -> Exprs | None:
    return _cast_to(site, str(onnx.helper.tensor_dtype_to_np_dtype(site.attribute("to"))))


def _cast_like(site: Site) -> Exprs | None:
    return _cast_to(site, site.dtype(1))


def _bit_cast(site: Site) -> Exprs | None:
    """The same bits as another type of equal size."""
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(site.attribute("to")))
    if (
        dtype not in _PLAIN
        or site.dtype(0) not in _PLAIN
        or np.dtype(dtype).itemsize != np.dtype(site.dtype(0)).itemsize
    ):
        return None
    return each(site, lambda x: tirx.reinterpret(dtype, x))


def _identity(site: Site) -> Exprs:
    return each(site, lambda x: x)


def _dropout(site: Site) -> Exprs | None:
    """At inference: the data, and a mask of ones."""
    training = site.constant(2)
    if site.has(2) and (training is None or bool(training)):
        return None
    results = _identity(site)
    if site.wants(1):
        results.append(site.const(np.ones(site.shape(0)), "bool"))
    return results


def _neg(x: Any) -> Any:
    return c(x, 0) - x if not dtype_of(x).startswith("float") else -x


def _sign(x: Any) -> Any:
    return tirx.Select(x > c(x, 0), c(x, 1), tirx.Select(x < c(x, 0), c(x, -1), c(x, 0)))


def _signed(function: Scalar) -> Lowering:
    def lowering(site: Site) -> Exprs | None:
        if site.dtype(0).startswith("uint"):
            return _identity(site)
        return None if site.dtype(0) == "bool" else each(site, function)

    return lowering


def _round(x: Any) -> Any:
    """To the nearest, halves to even."""
    return tirx.nearbyint(x)


LOWERINGS: Mapping[str, Lowering] = {
    "Abs": _signed(lambda x: tirx.Select(x < c(x, 0), _neg(x), x) if dtype_of(x).startswith("int") else tirx.abs(x)),
    "Neg": _signed(_neg),
    "Sign": lambda site: each(site, _sign) if site.dtype(0)[0] in "if" else None,
    "Ceil": _of(tirx.ceil),
    "Floor": _of(tirx.floor),
    "Round": _of(_round),
    "Sqrt": _of(tirx.sqrt),
    "Exp": _of(tirx.exp),
    "Log": _of(tirx.log),
    "Sin": _of(tirx.sin),
    "Cos": _of(tirx.cos),
    "Tan": _of(tirx.tan),
    "Asin": _of(tirx.asin),
    "Acos": _of(tirx.acos),
    "Atan": _of(tirx.atan),
    "Sinh": _of(tirx.sinh),
    "Cosh": _of(tirx.cosh),
    "Asinh": _of(tirx.asinh),
    "Acosh": _of(tirx.acosh),
    "Atanh": _of(tirx.atanh),
    "Tanh": _of(tirx.tanh),
    "Erf": _of(_erf),
    "Reciprocal": _of(lambda x: c(x, 1) / x),
    "Sigmoid": _of(_sigmoid),
    "Softplus": _of(_softplus),
    "Softsign": _of(lambda x: x / (c(x, 1) + tirx.abs(x))),
    "Mish": _of(lambda x: x * tirx.tanh(_softplus(x))),
    "HardSwish": _of(lambda x: x * _hard_sigmoid(1 / 6, 0.5)(x)),
    "Relu": lambda site: each(site, lambda x: tirx.Select(x < c(x, 0), c(x, 0), x)),
    "Elu": _with(lambda site: _elu(site.attribute("alpha", 1.0))),
    "Celu": _with(lambda site: _celu(site.attribute("alpha", 1.0))),
    "Selu": _with(lambda site: _selu(site.attribute("alpha", _SELU[0]), site.attribute("gamma", _SELU[1]))),
    "HardSigmoid": _with(lambda site: _hard_sigmoid(site.attribute("alpha", 0.2), site.attribute("beta", 0.5))),
    "LeakyRelu": _with(lambda site: lambda x: tirx.Select(x < c(x, 0), c(x, site.attribute("alpha", 0.01)) * x, x)),
    "ThresholdedRelu": _with(lambda site: lambda x: tirx.Select(x > c(x, site.attribute("alpha", 1.0)), x, c(x, 0))),
    "Swish": _with(lambda site: lambda x: x * _sigmoid(x * c(x, site.attribute("alpha", 1.0)))),
    "Shrink": _with(_shrink),
    "Gelu": _with(_gelu),
    "IsNaN": _of(tirx.isnan),
    "IsInf": _is_inf,
    "Not": _of(lambda x: tirx.Not(x), floats=False),
    "BitwiseNot": _of(lambda x: ~x, floats=False),
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast_like,
    "BitCast": _bit_cast,
    "Identity": _identity,
    "Dropout": _dropout,
}
