"""Losses of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import te, tirx

from joulec.passes.relax.lowering.binary import broadcast
from joulec.passes.relax.lowering.indexing import place
from joulec.passes.relax.lowering.normalisation import log_softmax
from joulec.passes.relax.lowering.reduction import reduce
from joulec.passes.relax.lowering.site import Exprs, Lowering, Site
from joulec.passes.relax.lowering.unary import c


def _nll(site: Site, logarithms: Any) -> Any:
    """Negative logarithm at the target's class, weighted; mean is over the weights."""
    shape = site.shape(0)
    classes, out = shape[1], (shape[0], *shape[2:])
    ignored = site.attribute("ignore_index")
    weights = [site.operands[2]] if site.has(2) else []
    dtype = site.dtype(0)

    def weight_of(target: Any, *given: Any) -> Any:
        def one(*i: Any) -> Any:
            value = given[0][place(target[i], classes)] if given else tirx.const(1, dtype)
            if ignored is None:
                return value
            return tirx.Select(target[i] == c(target[i], ignored), tirx.const(0, dtype), value)

        return te.compute(out, one)

    def loss_of(x: Any, target: Any, weight: Any) -> Any:
        def one(*i: Any) -> Any:
            return -x[(i[0], place(target[i], classes), *i[1:])] * weight[i]

        return te.compute(out, one)

    weight = site.te(weight_of, site.operands[1], *weights)
    loss = site.te(loss_of, logarithms, site.operands[1], weight)
    how = site.attribute("reduction", "mean")
    if how == "none":
        return loss
    axes = list(range(len(out)))
    total = reduce(site, loss, axes, False, "sum")
    if how == "sum":
        return total
    return broadcast(site, lambda x, w: x / w, [total, reduce(site, weight, axes, False, "sum")])


def _negative_log_likelihood(site: Site) -> Exprs | None:
    return [_nll(site, site.operands[0])] if site.dtype(0).startswith("float") else None


def _softmax_cross_entropy(site: Site) -> Exprs | None:
    if not site.dtype(0).startswith("float"):
        return None
    logarithms = log_softmax(site, site.operands[0], 1)
    return [one for index, one in enumerate((_nll(site, logarithms), logarithms)) if site.wants(index)]


LOWERINGS: Mapping[str, Lowering] = {
    "NegativeLogLikelihoodLoss": _negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": _softmax_cross_entropy,
}
