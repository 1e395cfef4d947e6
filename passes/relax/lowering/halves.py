"""Half precision is computed in float32 and rounded at the end of each node, as ONNX Runtime does.

bfloat16 travels as uint16 (`joulec.profiler.dtypes`): its bits are the upper half of a float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import te, tirx

from joulec.passes.graph import TensorType
from joulec.passes.relax.lowering.site import Exprs, Site

_HALVES = ("float16", "bfloat16")


def widened(site: Site) -> Site:
    """The site with every operand and result of half precision in float32."""
    if not any(type is not None and type.dtype in _HALVES for type in (*site.types, *site.results)):
        return site
    return replace(
        site,
        operands=[
            expression if type is None else _wide(site, expression, type)
            for expression, type in zip(site.operands, site.types, strict=True)
        ],
        constants=[
            array.astype("float32") if array is not None and str(array.dtype) in _HALVES else array
            for array in site.constants
        ],
        types=_in_float32(site.types),
        results=_in_float32(site.results),
        half=next((type.dtype for type in site.types if type is not None and type.dtype in _HALVES), ""),
    )


def narrowed(site: Site, found: Exprs) -> Exprs:
    """Results of the widened site in the types that the node gives them."""
    asked = [type for name, type in zip(site.node.output, site.results, strict=True) if name]
    return [
        expression if type is None or type.dtype not in _HALVES else _narrow(site, expression, type)
        for expression, type in zip(found, asked, strict=True)
    ]


def _in_float32(types: Sequence[TensorType | None]) -> list[TensorType | None]:
    return [TensorType(type.shape, "float32") if type is not None and type.dtype in _HALVES else type for type in types]


def _wide(site: Site, expression: Any, type: TensorType) -> Any:
    if type.dtype == "float16":
        return site.cast(expression, "float32")
    if type.dtype != "bfloat16":
        return expression

    def upper(x: Any) -> Any:
        return te.compute(
            x.shape,
            lambda *i: tirx.reinterpret("float32", tirx.Cast("uint32", x[i]) << tirx.const(16, "uint32")),
        )

    return site.te(upper, expression)


def _narrow(site: Site, expression: Any, type: TensorType) -> Any:
    if type.dtype == "float16":
        return site.cast(expression, "float16")

    def upper(x: Any) -> Any:
        return te.compute(x.shape, lambda *i: tirx.Cast("uint16", _upper_bits(tirx.Cast("float32", x[i]))))

    return site.te(upper, expression)


def _upper_bits(value: Any) -> Any:
    """The upper half of a float32, rounded to the nearest, halves to even."""
    bits = tirx.reinterpret("uint32", value)
    upper = bits >> tirx.const(16, "uint32")
    odd = upper & tirx.const(1, "uint32")
    nearest = (bits + tirx.const(0x7FFF, "uint32") + odd) >> tirx.const(16, "uint32")
    quiet = upper | tirx.const(0x40, "uint32")  # a NaN must not round to an infinity
    return tirx.Select(tirx.isnan(value), quiet, nearest)


def rounded(value: Any, half: str) -> Any:
    """A float32 rounded to what half precision holds: where ONNX's reference rounds inside of an operator too."""
    if half == "float16":
        return tirx.Cast("float32", tirx.Cast("float16", value))
    if half == "bfloat16":
        return tirx.reinterpret("float32", _upper_bits(value) << tirx.const(16, "uint32"))
    return value
