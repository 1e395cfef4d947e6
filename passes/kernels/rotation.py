"""Calls that rotate through copies of their operands; knows no TVM."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels.arena import RUNTIME_COPIES, Arena, constant_copies
from joulec.passes.kernels.fence import Buffer, Fence

Tensor = Callable[[Any], Any]
"""Makes what the compiled function takes of an array."""

_OVERHEAD_CALLS = 2000
_OVERHEAD_REPEATS = 7


@dataclass(frozen=True)
class Ring:
    """Argument tuples to call a function with, one after another, and the fence around their buffers."""

    turns: tuple[tuple[object, ...], ...]
    fence: Fence


class Rotating:
    """A compiled function and the ring of arguments that its calls go through."""

    def __init__(self, function: Callable[..., object], ring: Ring, overhead_s: float) -> None:
        self._function = function
        self._fence = ring.fence
        self._ring = cycle(ring.turns)
        self._overhead_s = overhead_s

    def run(self, calls: int) -> None:
        """Execute ``calls`` times, each with the next arguments of the ring."""
        _call(self._function, self._ring, calls)

    def overhead_s(self) -> float:
        """Seconds per call of the same loop around a function that does nothing."""
        return self._overhead_s

    def guard(self) -> None:
        """Mark what lies around the results."""
        self._fence.raise_()

    def violation(self, thorough: bool) -> str:
        """What was written outside the results since `guard`."""
        return self._fence.breach(thorough)


def _call(function: Callable[..., object], ring: cycle[tuple[object, ...]], calls: int) -> None:
    for arguments in islice(ring, calls):
        function(*arguments)


def ring_of(
    spec: NodeSpec, operands: Sequence[TensorType], results: Sequence[TensorType], data: Arena, tensor: Tensor
) -> Ring:
    """Argument tuples: constants change with every call, run-time operands and results after a few."""
    constant = [operand.constant for operand in spec.operands]
    weights = [type for type, fixed in zip(operands, constant, strict=True) if fixed]
    inputs = [type for type, fixed in zip(operands, constant, strict=True) if not fixed]
    copies = constant_copies(weights)
    drawn = iter(data.operands([*inputs * RUNTIME_COPIES, *weights * copies]))
    input_sets = [[next(drawn) for _ in inputs] for _ in range(RUNTIME_COPIES)]
    weight_sets = [[next(drawn) for _ in weights] for _ in range(copies)]
    written = iter(data.results([*results] * RUNTIME_COPIES))
    result_sets = [[next(written) for _ in results] for _ in range(RUNTIME_COPIES)]
    input_copies, weight_copies = iter(_by_operand(input_sets)), iter(_by_operand(weight_sets))
    fence = Fence(
        [next(weight_copies if is_fixed else input_copies) for is_fixed in constant], _by_operand(result_sets)
    )
    given_sets, fixed_sets, target_sets = (
        [[tensor(buffer.array) for buffer in one] for one in sets] for sets in (input_sets, weight_sets, result_sets)
    )

    def arguments(turn: int) -> tuple[object, ...]:
        given, fixed = iter(given_sets[turn % RUNTIME_COPIES]), iter(fixed_sets[turn % copies])
        return (*(next(fixed if is_fixed else given) for is_fixed in constant), *target_sets[turn % RUNTIME_COPIES])

    length = copies if copies % RUNTIME_COPIES == 0 else copies * RUNTIME_COPIES
    return Ring(tuple(arguments(turn) for turn in range(length)), fence)


def _by_operand(sets: Sequence[Sequence[Buffer]]) -> list[Sequence[Buffer]]:
    return [list(copies) for copies in zip(*sets, strict=True)]


def loop_s(function: Callable[..., object], ring: Sequence[tuple[object, ...]]) -> float:
    """The least seconds per call out of a few loops."""
    turns = cycle(ring)
    best = float("inf")
    for _ in range(_OVERHEAD_REPEATS):
        begin = time.perf_counter()
        _call(function, turns, _OVERHEAD_CALLS)
        best = min(best, time.perf_counter() - begin)
    return best / _OVERHEAD_CALLS
