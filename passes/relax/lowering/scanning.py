"""Cumulated sums and products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of
from joulec.passes.relax.lowering.unary import c

_LONGEST = 4096
"""Each element is a sum of its own, which is quadratic in the length; longer ones are left to others."""


def _cumulated(product: bool) -> Lowering:
    def lowering(site: Site) -> Exprs | None:
        shape = site.shape(0)
        rank = len(shape)
        known = site.constant(1)
        if site.dtype(0) == "bool" or max(shape, default=0) > _LONGEST or not rank:
            return None
        if known is not None:
            return [_along(site, int(np.ravel(known)[0]) % rank, product)]
        found = [_along(site, axis, product) for axis in range(rank)]
        return [chosen(site, site.reshape(site.operands[1], ()), found, rank)]

    return lowering


def chosen(site: Site, axis: Any, results: Sequence[Any], rank: int) -> Any:
    """Of the results for axes 0, 1, …, the one for an axis that is known at run time only."""

    def whole(place: Any, *found: Any) -> Any:
        def one(*i: Any) -> Any:
            value = found[0][i]
            for d, result in enumerate(found[1:], 1):
                own = tirx.any(place[()] == c(place, d), place[()] == c(place, d - rank))
                value = tirx.Select(own, result[i], value)
            return value

        return te.compute(found[0].shape, one)

    return site.te(whole, axis, *results)


def _along(site: Site, axis: int, product: bool) -> Any:
    exclusive, reverse = bool(site.attribute("exclusive", 0)), bool(site.attribute("reverse", 0))
    shape = site.shape(0)
    multiply = te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product")

    def whole(x: Any) -> Any:
        k = te.reduce_axis((0, shape[axis]), "k")

        def one(*i: Any) -> Any:
            here = i[axis]
            near, far = (here, k) if reverse else (k, here)
            taken = near < far if exclusive else near <= far
            value = x[tuple(k if d == axis else p for d, p in enumerate(i))]
            neutral = tirx.const(1 if product else 0, dtype_of(x))
            return (multiply if product else te.sum)(tirx.if_then_else(taken, value, neutral), axis=k)

        return te.compute(shape, one)

    return site.te(whole, site.operands[0])


LOWERINGS: Mapping[str, Lowering] = {"CumSum": _cumulated(False), "CumProd": _cumulated(True)}
