"""Reductions, cumulated ones too, and places of extremes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from joulec.passes.relax.lowering.halves import rounded
from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of
from joulec.passes.relax.lowering.unary import c

_MOST_CANDIDATES = 6
"""Of so many results at most, the one whose axes were asked for at run time is taken."""


def reduction_axes(site: Site) -> list[int] | None:
    """The axes that a reduction runs over; where they are known at run time only, what the result's shape tells."""
    rank = len(site.shape(0))
    given: Any = site.attribute("axes")
    if given is None and site.has(1):
        given = site.constant(1)
        if given is None:
            return _axes_by_shape(site)
    if given is None or not np.size(given):
        return [] if site.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({int(axis) % rank for axis in np.ravel(given)})


def _axes_by_shape(site: Site) -> list[int] | None:
    """The only axes that lead from the operand's shape to the result's; None where several do."""
    if site.result is None:
        return None
    shape, wanted = site.shape(0), site.result.shape
    rank = len(shape)
    if site.attribute("keepdims", 1):
        return [axis for axis in range(rank) if shape[axis] != wanted[axis] or shape[axis] == 1]
    fitting = _fitting_axes(site)
    return fitting[0] if len(fitting) == 1 else None


def reduce(
    site: Site,
    operand: Any,
    axes: Sequence[int],
    keep: bool,
    kind: str,
    prepare: Callable[[Any], Any] = lambda x: x,
) -> Any:
    """Sum, product, maximum or minimum of prepared elements over some axes."""
    shape = tuple(int(size) for size in operand.ty.shape.values)
    rank = len(shape)
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    out = kept if keep else [size for axis, size in enumerate(shape) if axis not in axes]
    if math.prod(shape) == 0:
        return _of_nothing(site, kind, out, str(operand.ty.dtype))

    def whole(x: Any) -> Any:
        if not axes:
            return te.compute(out, lambda *i: prepare(x[i]))
        over = {axis: te.reduce_axis((0, shape[axis]), f"k{axis}") for axis in axes}
        reducer = _reducer(kind)

        def one(*i: Any) -> Any:
            rest = iter(i)
            places = []
            for axis in range(rank):
                if axis in over:
                    places.append(over[axis])
                    if keep:
                        next(rest)
                else:
                    places.append(next(rest))
            return reducer(prepare(x[tuple(places)]), axis=list(over.values()))

        return te.compute(out, one)

    return site.te(whole, operand)


def _reducer(kind: str) -> Any:
    if kind == "sum":
        return te.sum
    if kind == "bfloat16 sum":
        return te.comm_reducer(
            lambda a, b: rounded(a + b, "bfloat16"), lambda dtype: tirx.const(0, dtype), name="rounded_sum"
        )
    if kind == "prod":
        return te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product")
    if kind == "max":
        return te.comm_reducer(lambda a, b: tirx.max(a, b), lambda dtype: lowest(str(dtype)), name="largest")
    return te.comm_reducer(lambda a, b: tirx.min(a, b), lambda dtype: highest(str(dtype)), name="smallest")


def lowest(dtype: str) -> Any:
    """What no number of a type is below: minus infinity where there is one."""
    return tirx.const(-math.inf, dtype) if dtype.startswith("float") else tirx.min_value(dtype)


def highest(dtype: str) -> Any:
    """What no number of a type is above."""
    return tirx.const(math.inf, dtype) if dtype.startswith("float") else tirx.max_value(dtype)


def _of_nothing(site: Site, kind: str, shape: Sequence[int], dtype: str) -> Any:
    if kind == "sum":
        value: Any = 0
    elif kind == "prod":
        value = 1
    else:
        sign = -1 if kind == "max" else 1
        limits = None if dtype == "bool" or dtype.startswith("float") else np.iinfo(dtype)
        value = sign * math.inf if limits is None else (limits.min if sign < 0 else limits.max)
        value = kind == "min" if dtype == "bool" else value
    return site.const(np.full(shape, value), dtype)


def _reduction(
    kind: str, prepare: Callable[[Any], Any] = lambda x: x, finish: Callable[[Any], Any] | None = None
) -> Lowering:
    def over(site: Site, axes: Sequence[int]) -> Any:
        boolean = site.dtype(0) == "bool"
        operand = site.cast(site.operands[0], "uint8") if boolean else site.operands[0]
        found = reduce(site, operand, axes, bool(site.attribute("keepdims", 1)), kind, prepare)
        if finish is not None:
            found = site.te(lambda x: te.compute(x.shape, lambda *i: finish(x[i])), found)
        return site.te(lambda x: te.compute(x.shape, lambda *i: x[i] != c(x[i], 0)), found) if boolean else found

    def lowering(site: Site) -> Exprs | None:
        return None if site.dtype(0) == "bool" and kind in ("sum", "prod") else _over_axes(site, over)

    return lowering


def _over_axes(site: Site, over: Callable[[Site, Sequence[int]], Any]) -> Exprs | None:
    """A reduction over the axes given; where those are known at run time only, the fitting one of all that may be."""
    axes = reduction_axes(site)
    if axes is not None:
        return [over(site, axes)]
    fitting = _fitting_axes(site)
    if not fitting or len(fitting) > _MOST_CANDIDATES:
        return None
    rank = len(site.shape(0))

    def chosen(axes: Any, *found: Any) -> Any:
        def one(*i: Any) -> Any:
            value = found[-1][i]
            for candidate, result in zip(fitting[:-1], found[:-1], strict=True):
                own = [
                    tirx.any(
                        *(
                            tirx.any(axes[k] == c(axes[k], axis), axes[k] == c(axes[k], axis - rank))
                            for axis in candidate
                        )
                    )
                    for k in range(len(candidate))
                ]
                value = tirx.Select(tirx.all(*own), result[i], value)
            return value

        return te.compute(found[0].shape, one)

    return [site.te(chosen, site.operands[1], *(over(site, candidate) for candidate in fitting))]


def _fitting_axes(site: Site) -> list[list[int]]:
    """All axes that lead from the operand's shape to the result's, where these are left out."""
    if site.result is None or site.attribute("keepdims", 1) or len(site.shape(1)) != 1:
        return []
    shape, wanted = site.shape(0), site.result.shape
    rank = len(shape)
    if site.shape(1)[0] != rank - len(wanted):
        return []
    return [
        list(axes)
        for axes in itertools.combinations(range(rank), rank - len(wanted))
        if tuple(size for axis, size in enumerate(shape) if axis not in axes) == wanted
    ]


def _mean_over(site: Site, axes: Sequence[int]) -> Any:
    count = math.prod(site.shape(0)[axis] for axis in axes)
    total = reduce(site, site.operands[0], axes, bool(site.attribute("keepdims", 1)), "sum")
    whole = not site.dtype(0).startswith("float")

    def divided(x: Any) -> Any:
        def one(*i: Any) -> Any:
            return tirx.truncdiv(x[i], c(x[i], max(count, 1))) if whole else x[i] / c(x[i], count)

        return te.compute(x.shape, one)

    return site.te(divided, total)


def _log_sum_exp_over(site: Site, axes: Sequence[int]) -> Any:
    """Shifted by the largest element, so that nothing overflows."""
    shape = site.shape(0)
    keep = bool(site.attribute("keepdims", 1))
    if math.prod(shape) == 0:
        return reduce(site, site.operands[0], axes, keep, "max")
    largest = reduce(site, site.operands[0], axes, True, "max")

    def shifted(x: Any, m: Any) -> Any:
        def one(*i: Any) -> Any:
            top = m[tuple(0 if axis in axes else place for axis, place in enumerate(i))]
            finite = tirx.Select(tirx.abs(top) < c(top, math.inf), top, c(top, 0))
            return tirx.exp(x[i] - finite)

        return te.compute(x.shape, one)

    raised = site.te(shifted, site.operands[0], largest)
    total = reduce(site, raised, axes, keep, "sum")
    flat = site.reshape(largest, [int(size) for size in total.ty.shape.values])

    def joined(s: Any, m: Any) -> Any:
        def one(*i: Any) -> Any:
            finite = tirx.Select(tirx.abs(m[i]) < c(m[i], math.inf), m[i], c(m[i], 0))
            return tirx.log(s[i]) + finite

        return te.compute(s.shape, one)

    return site.te(joined, total, flat)


def _log_sum_exp(site: Site) -> Exprs | None:
    return _over_axes(site, _log_sum_exp_over) if site.dtype(0).startswith("float") else None


def _place(largest: bool) -> Lowering:
    def lowering(site: Site) -> Exprs | None:
        rank = len(site.shape(0))
        axis = site.attribute("axis", 0) % rank
        return [
            extreme(
                site,
                site.operands[0],
                axis,
                largest,
                bool(site.attribute("select_last_index", 0)),
                bool(site.attribute("keepdims", 1)),
            )
        ]

    return lowering


def extreme(site: Site, operand: Any, axis: int, largest: bool, last: bool, keep: bool) -> Any:
    """Where along an axis the largest or smallest element stands: the first or last of equal ones."""
    shape = [int(size) for size in operand.ty.shape.values]
    dtype = str(operand.ty.dtype)
    out = [1 if i == axis else size for i, size in enumerate(shape) if keep or i != axis]

    def whole(x: Any) -> Any:
        k = te.reduce_axis((0, shape[axis]), "k")

        def better(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
            (place_a, a_), (place_b, b_) = a, b
            wins = a_ > b_ if largest else a_ < b_
            first = place_a > place_b if last else place_a < place_b
            tie = tirx.all(a_ == b_, first)
            taken = tirx.any(
                place_b < tirx.const(0, "int64"), tirx.all(place_a >= tirx.const(0, "int64"), tirx.any(wins, tie))
            )
            return tirx.Select(taken, place_a, place_b), tirx.Select(taken, a_, b_)

        def nothing(place: str, value: str) -> tuple[Any, Any]:
            bound = tirx.min_value(value) if largest else tirx.max_value(value)
            return tirx.const(-1, place), bound

        reducer = te.comm_reducer(better, nothing, name="extreme")

        def one(*i: Any) -> Any:
            rest = list(i)
            if keep:
                rest.pop(axis)
            rest.insert(axis, k)
            return reducer((tirx.Cast("int64", k), x[tuple(rest)]), axis=k)

        return te.compute(out, one)[0]

    if dtype == "bool":
        operand = site.cast(operand, "uint8")
    return site.te(whole, operand)


LOWERINGS: Mapping[str, Lowering] = {
    "ReduceSum": _reduction("sum"),
    "ReduceProd": _reduction("prod"),
    "ReduceMax": _reduction("max"),
    "ReduceMin": _reduction("min"),
    "ReduceMean": lambda site: _over_axes(site, _mean_over),
    "ReduceL1": _reduction("sum", lambda x: tirx.Select(x < c(x, 0), c(x, 0) - x, x)),
    "ReduceL2": _reduction(
        "sum",
        lambda x: x * x,
        lambda x: tirx.Cast(dtype_of(x), tirx.sqrt(x if dtype_of(x)[0] == "f" else tirx.Cast("float64", x))),
    ),
    "ReduceSumSquare": _reduction("sum", lambda x: x * x),
    "ReduceLogSum": _reduction("sum", finish=lambda x: tirx.log(x)),
    "ReduceLogSumExp": _log_sum_exp,
    "ArgMax": _place(True),
    "ArgMin": _place(False),
}
