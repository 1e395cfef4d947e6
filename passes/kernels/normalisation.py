"""Softmax and local response normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from joulec.passes.graph import LocalResponseNorm, NodeSpec, Softmax
from joulec.passes.kernels import loops
from joulec.passes.kernels.epilogue import activation, can_apply
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.profiler.candidate import Work

_LOWEST = float(np.finfo(np.float32).min)
_CHUNK = 4
"""Vectors of positions that one task of a normalisation across channels covers."""


class _Unpacked:
    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Operands are read as they are."""
        return np.ascontiguousarray(array).reshape(array.shape)


class SoftmaxKernel(_Unpacked):
    """Softmax: maximum, exponentials with their sum, scaling; in vectors along the axis, or across it if inner."""

    name = "softmax"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        if not isinstance(spec.op, Softmax) or not can_apply(spec):
            return ()
        return [(("parallel", choice),) for choice in loops.spread(target, 4 * spec.bytes)]

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        op = spec.op
        assert isinstance(op, Softmax)
        shape = spec.results[0].shape
        outer, extent, inner = math.prod(shape[: op.axis]), shape[op.axis], math.prod(shape[op.axis + 1 :])
        channels = loops.row_major(shape)[1] if len(shape) == 4 else 0
        parallel = bool(dict(params)["parallel"])

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            fused = loops.epilogue_buffers(spec, operands)

            def keep(place: Any, value: Any) -> None:
                channel = place // channels % shape[1] if channels else place % (shape[-1] if shape else 1)
                loops.store(results[0], place, loops.after_epilogue(spec, value, fused, place, channel))

            if inner == 1:

                def line(row: Any) -> None:
                    _along(operands[0], results[0], row * extent, extent, target.lanes, keep)

                loops.repeat(outer, line, parallel)
                return
            width = target.lanes * _CHUNK
            cuts = -(-inner // width)

            def task(index: Any) -> None:
                base = index // cuts * (extent * inner)

                def chunk(begin: Any, length: int) -> None:
                    _across(operands[0], results[0], base + begin, extent, inner, length, target.lanes, keep)

                loops.pieces(inner, width, index % cuts if cuts > 1 else 0, chunk)

            loops.repeat(outer * cuts, task, parallel)

        return loops.prim_func([operand.type for operand in spec.operands], spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """About twenty operations per exponential; three passes over data that stay in the cache."""
        size = spec.results[0].size
        return Work(24 * size, spec.bytes, 5 * 4 * size, 5 * 4 * size)


def _along(data: Any, result: Any, base: Any, extent: int, lanes: int, keep: Any) -> None:
    """One row that is contiguous."""
    width = 1
    while width * 2 <= min(extent, 2 * lanes):
        width *= 2
    highest, total = loops.local(width), loops.local(width)

    def clear(place: Any) -> None:
        loops.store(highest, place, loops.f32(_LOWEST))
        loops.store(total, place, loops.f32(0))

    loops.vectors(width, width, clear)
    _reduce(extent, width, lambda place, own: loops.store(highest, own, te.max(highest[own], data[base + place])))
    top = loops.local(1)
    loops.store(top, 0, loops.fold(highest, width, te.max))

    def exponential(place: Any, own: Any) -> None:
        loops.store(result, base + place, activation("exp", (), data[base + place] - top[0]))
        loops.store(total, own, total[own] + result[base + place])

    _reduce(extent, width, exponential)
    factor = loops.local(1)
    loops.store(factor, 0, loops.f32(1) / loops.fold(total, width, lambda a, b: a + b))
    loops.vectors(extent, lanes, lambda place: keep(base + place, result[base + place] * factor[0]))


def _reduce(extent: int, width: int, body: Any) -> None:
    """``body(place, place modulo width)`` over an extent, ``width`` at a time."""
    whole, rest = divmod(extent, width)
    loops.repeat(whole, lambda chunk: loops.vectors(width, width, lambda lane: body(chunk * width + lane, lane)))
    if rest:
        loops.vectors(rest, rest, lambda lane: body(whole * width + lane, lane))


def _across(data: Any, result: Any, base: Any, extent: int, inner: int, length: int, lanes: int, keep: Any) -> None:
    """``length`` neighbouring positions, each normalised over the axis."""
    highest, total = loops.local(length), loops.local(length)

    def clear(place: Any) -> None:
        loops.store(highest, place, data[base + place])
        loops.store(total, place, loops.f32(0))

    def every(body: Any) -> None:
        loops.repeat(
            extent, lambda i: loops.vectors(length, lanes, lambda place: body(base + i * inner + place, place))
        )

    def exponential(at: Any, place: Any) -> None:
        loops.store(result, at, activation("exp", (), data[at] - highest[place]))
        loops.store(total, place, total[place] + result[at])

    loops.vectors(length, lanes, clear)
    every(lambda at, place: loops.store(highest, place, te.max(highest[place], data[at])))
    every(exponential)
    loops.vectors(length, lanes, lambda place: loops.store(total, place, loops.f32(1) / total[place]))
    every(lambda at, place: keep(at, result[at] * total[place]))


class LocalResponseNormKernel(_Unpacked):
    """Each channel by the squares of its neighbours, in vectors over positions."""

    name = "local_response_norm"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        if not isinstance(spec.op, LocalResponseNorm) or not can_apply(spec):
            return ()
        return [(("parallel", choice),) for choice in loops.spread(target, spec.bytes * spec.op.size)]

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc: channels with all neighbours share one body, those at the ends have their own."""
        op = spec.op
        assert isinstance(op, LocalResponseNorm)
        batch, channels, *rest = spec.results[0].shape
        plane = math.prod(rest)
        before, after = op.reach
        first, last = min(before, channels), max(min(before, channels), channels - after)
        by_axis_1 = len(spec.results[0].shape) == 4

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            data, fused = operands[0], loops.epilogue_buffers(spec, operands)

            def normalise(image: Any, channel: Any, low: int, high: int) -> None:
                base = (image * channels + channel) * plane

                def position(place: Any) -> None:
                    squares: Any = None
                    for offset in range(low, high + 1):
                        near = data[base + offset * plane + place]
                        squares = near * near if squares is None else squares + near * near
                    scale = _inverse_power(squares * loops.f32(op.alpha / op.size) + loops.f32(op.bias), op.beta)
                    at = base + place
                    index = channel if by_axis_1 else at % spec.results[0].shape[-1]
                    value = loops.after_epilogue(spec, data[at] * scale, fused, at, index)
                    loops.store(results[0], at, value)

                loops.vectors(plane, target.lanes, position)

            def edge(channel: int) -> tuple[int, Any]:
                low, high = -min(before, channel), min(after, channels - 1 - channel)
                return 1, lambda image: lambda _: normalise(image, channel, low, high)

            ranges = [
                *(edge(channel) for channel in range(first)),
                (last - first, lambda image: lambda index: normalise(image, first + index, -before, after)),
                *(edge(channel) for channel in range(last, channels)),
            ]

            def task(index: Any) -> None:
                image, channel = index // channels, index % channels
                loops.either(channel, [(length, emit(image)) for length, emit in ranges])

            loops.repeat(batch * channels, task, bool(dict(params)["parallel"]))

        return loops.prim_func([operand.type for operand in spec.operands], spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Each element is read once per neighbour."""
        assert isinstance(spec.op, LocalResponseNorm)
        size = spec.results[0].size
        return Work(spec.flops + 2 * size, spec.bytes, 4 * size * (spec.op.size + 1), 4 * size * (spec.op.size + 1))


def _inverse_power(base: Any, exponent: float) -> Any:
    """base ** -exponent; by square roots where the exponent is a multiple of a quarter up to one."""
    root = te.sqrt(base)
    forms = {0.25: lambda: te.sqrt(root), 0.5: lambda: root, 0.75: lambda: root * te.sqrt(root), 1.0: lambda: base}
    if exponent in forms:
        return loops.f32(1) / forms[exponent]()
    return tirx.pow(base, loops.f32(-exponent))
