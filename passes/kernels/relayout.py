"""Conversions between row-major and blocked activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from tvm import tirx

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels import loops
from joulec.passes.kernels.blocks import operand_types, result_types, with_ends
from joulec.passes.kernels.conv_tir import ceil_div, start
from joulec.passes.kernels.kernel import CpuTarget, Params
from joulec.passes.kernels.squares import transposed
from joulec.passes.layouts.layout import PLAIN, Relayout
from joulec.profiler.candidate import Work

_PIECE = 128
"""Positions of a task, about."""


class RelayoutKernel:
    """Squares of channels by positions, transposed in registers."""

    name = "relayout"

    def schedules(self, spec: NodeSpec, target: CpuTarget) -> Sequence[Params]:
        """One, on all threads where that is likelier to pay: conversions are many, and each is little."""
        op = spec.op
        if not isinstance(op, Relayout) or {op.source, op.target} != {PLAIN, target.lanes} or target.lanes == 1:
            return ()
        parallel = loops.spread(target, spec.bytes)[0]
        return [with_ends((("parallel", parallel),), op.source, op.target)]

    def pack(
        self, spec: NodeSpec, params: Params, target: CpuTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Nothing is constant."""
        return array

    def build(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Any:
        """The PrimFunc: tasks are pieces of a block's positions."""
        op = spec.op
        assert isinstance(op, Relayout)
        lanes, blocking = target.lanes, op.source == PLAIN
        batch, channels, *sides = spec.results[0].shape
        area = math.prod(sides)
        piece = min(area, _PIECE)
        cuts = ceil_div(area, piece)

        def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
            source, result = operands[0], results[0]

            def task(index: Any) -> None:
                base = loops.bind(index // cuts * (area * lanes))
                first = loops.bind(start(index % cuts, area, piece))

                def square(q: Any) -> None:
                    begin = loops.bind(first + start(q, piece, lanes))

                    def plain(row: int) -> Any:
                        return loops.run(base + row * area + begin, lanes)

                    def blocked(row: int) -> Any:
                        return loops.run(base + (begin + row) * lanes, lanes)

                    reads, writes = (plain, blocked) if blocking else (blocked, plain)
                    transposed(
                        lambda row: source[reads(row)],
                        lambda row, value: loops.store(result, writes(row), value),
                        lanes,
                    )

                def short(position: Any) -> None:
                    """Planes of fewer positions than a vector has lanes."""
                    near, far = tirx.Ramp(base + position * lanes, 1, lanes), tirx.Ramp(base + position, area, lanes)
                    reads, writes = (far, near) if blocking else (near, far)
                    loops.store(result, writes, source[reads])

                if piece >= lanes:
                    loops.repeat(ceil_div(piece, lanes), square)
                else:
                    loops.repeat(piece, short)

            loops.repeat(batch * channels // lanes * cuts, task, bool(dict(params)["parallel"]))

        return loops.prim_func(operand_types(spec, params), result_types(spec, params), body)

    def work(self, spec: NodeSpec, params: Params, target: CpuTarget) -> Work:
        """Every element is read once and written once."""
        return Work(0.0, spec.bytes, spec.bytes, spec.bytes)
