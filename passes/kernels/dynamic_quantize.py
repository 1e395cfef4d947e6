"""DynamicQuantizeLinear: the range of all data, then the data as bytes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from tvm import tirx

from joulec.passes.graph import NodeSpec, Opaque
from joulec.passes.kernels import loops
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.profiler.candidate import Work

_CHAINS = 4
"""Independent vectors that hide the latency of a minimum."""


class DynamicQuantize:
    """The range in vectors, each thread its share; then one pass that rounds and stores. All zeros have the scale 1."""

    name = "dynamic_quantize"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One thread or all."""
        if not isinstance(spec.op, Opaque) or spec.op.kind != "DynamicQuantizeLinear" or len(spec.operands) != 1:
            return ()
        nodes = onnx.load_from_string(spec.op.definition).graph.node
        alone = len(nodes) == 1 and nodes[0].domain in ("", "ai.onnx")
        if not alone or len(spec.results) != 3 or not spec.results[0].size:
            return ()
        return [(("parallel", choice),) for choice in loops.spread(target, spec.bytes)]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Operands are read as they are."""
        return np.ascontiguousarray(array).reshape(array.shape)

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc."""
        threads = target.threads if dict(params)["parallel"] else 1
        size, lanes = spec.results[0].size, target.lanes
        piece = loops.piece_size(size, 1, _CHAINS * lanes, threads)
        count = -(-size // piece)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            (data,), (found, scale, point) = operands, results
            ends = loops.workspace(2 * count)

            def look(index: Any) -> None:
                def at(begin: Any, length: int) -> None:
                    low, high = _range(data, begin, length, lanes)
                    loops.store(ends, index, low)
                    loops.store(ends, count + index, high)

                loops.pieces(size, piece, index, at)

            loops.repeat(count, look, parallel=threads > 1)
            whole = loops.local(2)
            loops.store(whole, 0, _zero())
            loops.store(whole, 1, _zero())

            def join(index: Any) -> None:
                loops.store(whole, 0, tirx.min(whole[0], ends[index]))
                loops.store(whole, 1, tirx.max(whole[1], ends[count + index]))

            loops.repeat(count, join)
            extent = loops.bind(whole[1] - whole[0])
            step = loops.bind(tirx.Select(extent == _zero(), loops.f32(1), extent / loops.f32(255)))
            divisor = loops.bind(tirx.Select(step == _zero(), loops.f32(1), step))
            zero = loops.bind(_kept(tirx.nearbyint((_zero() - whole[0]) / divisor)))
            loops.store(scale, 0, step)
            loops.store(point, 0, _byte(zero))

            def quantise(index: Any) -> None:
                def at(begin: Any, length: int) -> None:
                    def vector(i: Any, width: int) -> None:
                        place = loops.run(begin + i, width)
                        moved = tirx.nearbyint(data[place] / loops.splat(divisor, width)) + loops.splat(zero, width)
                        loops.store(found, place, _byte(_kept(moved, width), width))

                    loops.runs(length, lanes, vector)

                loops.pieces(size, piece, index, at)

            loops.repeat(count, quantise, parallel=threads > 1)

        return loops.prim_func([operand.type for operand in spec.operands], spec.results, body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """The data are read twice."""
        size = spec.results[0].size
        return Work(6 * size, spec.bytes, spec.bytes + 4 * size, spec.bytes + 4 * size)


def _range(data: Any, begin: Any, length: int, lanes: int) -> tuple[Any, Any]:
    """The least and the largest of a run of elements and of zero."""
    extremes = []
    for combine in (tirx.min, tirx.max):
        held = loops.local(_CHAINS * lanes)
        places = [loops.run(chain * lanes, lanes) for chain in range(_CHAINS)]
        for place in places:
            loops.store(held, place, loops.splat(_zero(), lanes))
        extremes.append((held, places, combine))
    whole, rest = divmod(length, _CHAINS * lanes)

    def step(v: Any) -> None:
        for chain in range(_CHAINS):
            loaded = loops.bind(data[loops.run(begin + (v * _CHAINS + chain) * lanes, lanes)])
            for held, places, combine in extremes:
                loops.store(held, places[chain], combine(held[places[chain]], loaded))

    loops.repeat(whole, step)

    def one(i: Any) -> None:
        for held, _, combine in extremes:
            loops.store(held, 0, combine(held[0], data[begin + whole * _CHAINS * lanes + i]))

    loops.repeat(rest, one)
    low, high = (loops.fold(held, _CHAINS * lanes, combine) for held, _, combine in extremes)
    return low, high


def _zero() -> Any:
    return loops.f32(0)


def _kept(value: Any, width: int = 1) -> Any:
    low, high = loops.splat(_zero(), width), loops.splat(loops.f32(255), width)
    return tirx.max(tirx.min(value, high), low)


def _byte(value: Any, width: int = 1) -> Any:
    return tirx.Cast(loops.typed("uint8", width), tirx.Cast(loops.typed("int32", width), value))
