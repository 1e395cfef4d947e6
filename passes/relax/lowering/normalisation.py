"""Softmaxes and normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import te, tirx

from joulec.passes.relax.lowering.binary import broadcast
from joulec.passes.relax.lowering.halves import rounded
from joulec.passes.relax.lowering.reduction import extreme, reduce
from joulec.passes.relax.lowering.site import Exprs, Lowering, Site, dtype_of
from joulec.passes.relax.lowering.unary import c

_FLOATS = ("float32", "float64")


def _flattened(site: Site, function: Callable[[Site, Any, int], Any]) -> Exprs | None:
    """A function along an axis; before opset 13 of the operand flattened to a matrix there."""
    if site.dtype(0) not in _FLOATS or not site.shape(0):
        return None
    shape = site.shape(0)
    modern = site.opset >= 13
    axis = site.attribute("axis", -1 if modern else 1)
    axis = axis % len(shape) if axis < 0 or modern else axis
    if modern:
        return [function(site, site.operands[0], axis)]
    matrix = site.reshape(site.operands[0], (math.prod(shape[:axis]), math.prod(shape[axis:])))
    return [site.reshape(function(site, matrix, 1), shape)]


def _exponentials(site: Site, x: Any, axis: int) -> tuple[Any, Any, Any]:
    """Largest along the axis, exponentials of the differences, their sum."""
    half = site.half
    largest = reduce(site, x, [axis], True, "max")
    raised = broadcast(site, lambda a, m: rounded(tirx.exp(rounded(a - m, half)), half), [x, largest])
    total = reduce(site, raised, [axis], True, f"{half} sum" if half == "bfloat16" else "sum")
    return largest, raised, broadcast(site, lambda t: rounded(t, half), [total]) if half else total


def softmax(site: Site, x: Any, axis: int) -> Any:
    """Softmax along an axis."""
    _, raised, total = _exponentials(site, x, axis)
    return broadcast(site, lambda a, s: a / s, [raised, total])


def log_softmax(site: Site, x: Any, axis: int) -> Any:
    """Logarithm of the softmax along an axis."""
    largest, _, total = _exponentials(site, x, axis)
    return broadcast(site, lambda a, m, s: a - m - tirx.log(s), [x, largest, total])


def _hardmax(site: Site, x: Any, axis: int) -> Any:
    chosen = extreme(site, x, axis, True, False, True)

    def whole(data: Any, index: Any) -> Any:
        def one(*i: Any) -> Any:
            own = index[tuple(0 if d == axis else p for d, p in enumerate(i))]
            return tirx.Select(own == tirx.Cast("int64", i[axis]), c(data, 1), c(data, 0))

        return te.compute(data.shape, one)

    return site.te(whole, x, chosen)


def _moments(site: Site, x: Any, axes: Sequence[int]) -> tuple[Any, Any]:
    """Mean and variance over some axes, which stay as ones."""
    count = math.prod(int(x.ty.shape.values[axis]) for axis in axes)
    divided = lambda s: s / c(s, count)  # noqa: E731 - both moments use it
    mean = broadcast(site, divided, [reduce(site, x, axes, True, "sum")])
    apart = broadcast(site, lambda a, m: (a - m) * (a - m), [x, mean])
    return mean, broadcast(site, divided, [reduce(site, apart, axes, True, "sum")])


def _layer_norm(site: Site) -> Exprs | None:
    if site.dtype(0) not in _FLOATS:
        return None
    shape = site.shape(0)
    axis = site.attribute("axis", -1) % len(shape)
    epsilon = site.attribute("epsilon", 1e-5)
    mean, variance = _moments(site, site.operands[0], range(axis, len(shape)))
    inverse = broadcast(site, lambda v: c(v, 1) / tirx.sqrt(v + c(v, epsilon)), [variance])
    scaled = broadcast(site, lambda x, m, r, s: (x - m) * r * s, [site.operands[0], mean, inverse, site.operands[1]])
    if site.has(2):
        scaled = broadcast(site, lambda x, b: x + b, [scaled, site.operands[2]])
    return [one for index, one in enumerate((scaled, mean, inverse)) if site.wants(index)]


def _rms_norm(site: Site) -> Exprs | None:
    if site.dtype(0) not in _FLOATS:
        return None
    shape = site.shape(0)
    axes = range(site.attribute("axis", -1) % len(shape), len(shape))
    count = math.prod(shape[axis] for axis in axes)
    epsilon = site.attribute("epsilon", 1e-5)
    total = reduce(site, site.operands[0], axes, True, "sum", lambda x: x * x)
    return [
        broadcast(
            site,
            lambda x, t, s: x / tirx.sqrt(t / c(t, count) + c(t, epsilon)) * s,
            [site.operands[0], total, site.operands[1]],
        )
    ]


def _per_channel(site: Site, operand: Any) -> Any:
    return site.reshape(operand, (-1, *[1] * (len(site.shape(0)) - 2)))


def _instance_norm(site: Site) -> Exprs | None:
    if site.dtype(0) not in _FLOATS:
        return None
    epsilon = site.attribute("epsilon", 1e-5)
    mean, variance = _moments(site, site.operands[0], range(2, len(site.shape(0))))
    scale, shift = (_per_channel(site, site.operands[index]) for index in (1, 2))
    return [
        broadcast(
            site,
            lambda x, m, v, s, b: (x - m) / tirx.sqrt(v + c(v, epsilon)) * s + b,
            [site.operands[0], mean, variance, scale, shift],
        )
    ]


def _group_norm(site: Site) -> Exprs | None:
    """Since opset 21 scale and shift are per channel, before that per group."""
    if site.dtype(0) not in _FLOATS:
        return None
    shape, groups = site.shape(0), site.attribute("num_groups")
    epsilon = site.attribute("epsilon", 1e-5)
    grouped = (shape[0], groups, shape[1] // groups, *shape[2:])
    x = site.reshape(site.operands[0], grouped)
    mean, variance = _moments(site, x, range(2, len(grouped)))
    ones = [1] * (len(shape) - 2)
    inner = (1, groups, grouped[2] if site.opset >= 21 else 1, *ones)
    scale, shift = (site.reshape(site.operands[index], inner) for index in (1, 2))
    found = broadcast(
        site,
        lambda a, m, v, s, b: (a - m) / tirx.sqrt(v + c(v, epsilon)) * s + b,
        [x, mean, variance, scale, shift],
    )
    return [site.reshape(found, shape)]


def _batch_norm(site: Site) -> Exprs | None:
    """At inference, and in training where its running statistics are asked for too."""
    if site.dtype(0) not in _FLOATS or (site.opset < 14 and len(site.node.output) > 1) or len(site.shape(0)) < 2:
        return None
    epsilon, momentum = site.attribute("epsilon", 1e-5), site.attribute("momentum", 0.9)
    scale, shift, mean, variance = (_per_channel(site, site.operands[index]) for index in (1, 2, 3, 4))
    running: list[Any] = []
    if site.attribute("training_mode", 0):
        axes = [axis for axis in range(len(site.shape(0))) if axis != 1]
        seen = [site.reshape(one, mean.ty.shape.values) for one in _moments(site, site.operands[0], axes)]
        for old, new in zip((mean, variance), seen, strict=True):
            mixed = broadcast(site, lambda o, n: o * c(o, momentum) + n * c(o, 1 - momentum), [old, new])
            running.append(site.reshape(mixed, site.shape(3)))
        mean, variance = seen
    found = broadcast(
        site,
        lambda x, s, b, m, v: (x - m) / tirx.sqrt(v + c(v, epsilon)) * s + b,
        [site.operands[0], scale, shift, mean, variance],
    )
    return [one for index, one in enumerate((found, *running)) if site.wants(index)]


def _lp_norm(site: Site) -> Exprs | None:
    if site.dtype(0) not in _FLOATS:
        return None
    axis = site.attribute("axis", -1) % len(site.shape(0))
    if site.attribute("p", 2) == 1:
        total = reduce(site, site.operands[0], [axis], True, "sum", tirx.abs)
    else:
        total = reduce(site, site.operands[0], [axis], True, "sum", lambda x: x * x)
        total = broadcast(site, tirx.sqrt, [total])
    return [broadcast(site, lambda x, t: tirx.Select(t == c(t, 0), c(t, 0), x / t), [site.operands[0], total])]


def _mean_variance_norm(site: Site) -> Exprs | None:
    if site.dtype(0) not in _FLOATS:
        return None
    axes = [int(axis) % len(site.shape(0)) for axis in site.attribute("axes", (0, 2, 3))]
    mean, variance = _moments(site, site.operands[0], axes)
    return [
        broadcast(
            site,
            lambda x, m, v: (x - m) / (tirx.sqrt(v) + c(v, 1e-9)),
            [site.operands[0], mean, variance],
        )
    ]


def _lrn(site: Site) -> Exprs | None:
    if site.dtype(0) not in _FLOATS:
        return None
    size, shape = site.attribute("size"), site.shape(0)
    alpha, beta, bias = (site.attribute(key, d) for key, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    before = (size - 1) // 2

    def whole(x: Any) -> Any:
        k = te.reduce_axis((0, size), "k")

        def near(*i: Any) -> Any:
            at = i[1] + k - before
            value = x[(i[0], at, *i[2:])]
            inside = tirx.all(at >= 0, at < shape[1])
            return te.sum(tirx.if_then_else(inside, value * value, tirx.const(0, dtype_of(x))), axis=k)

        total = te.compute(shape, near)
        return te.compute(shape, lambda *i: x[i] / tirx.pow(c(x, bias) + c(x, alpha / size) * total[i], c(x, beta)))

    return [site.te(whole, site.operands[0])]


LOWERINGS: Mapping[str, Lowering] = {
    "Softmax": lambda site: _flattened(site, softmax),
    "LogSoftmax": lambda site: _flattened(site, log_softmax),
    "Hardmax": lambda site: _flattened(site, _hardmax),
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "BatchNormalization": _batch_norm,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
    "LRN": _lrn,
}
