"""Calls that rotate through copies of their operands; knows no TVM."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels.arena import RUNTIME_COPIES, Arena, constant_copies

Tensor = Callable[[Any], Any]
"""Makes what the compiled function takes of an array."""

_OVERHEAD_CALLS = 2000
_OVERHEAD_REPEATS = 7


class Rotating:
    """A compiled function and the ring of arguments that its calls go through."""

    def __init__(self, function: Callable[..., object], ring: Sequence[tuple[object, ...]], overhead_s: float) -> None:
        self._function = function
        self._ring = cycle(ring)
        self._overhead_s = overhead_s

    def run(self, calls: int) -> None:
        """Execute ``calls`` times, each with the next arguments of the ring."""
        _call(self._function, self._ring, calls)

    def overhead_s(self) -> float:
        """Seconds per call of the same loop around a function that does nothing."""
        return self._overhead_s


def _call(function: Callable[..., object], ring: cycle[tuple[object, ...]], calls: int) -> None:
    for arguments in islice(ring, calls):
        function(*arguments)


def ring_of(
    spec: NodeSpec, operands: Sequence[TensorType], results: Sequence[TensorType], data: Arena, tensor: Tensor
) -> list[tuple[object, ...]]:
    """Argument tuples: constants change with every call, run-time operands and results after a few."""
    constant = [operand.constant for operand in spec.operands]
    weights = [type for type, fixed in zip(operands, constant, strict=True) if fixed]
    inputs = [type for type, fixed in zip(operands, constant, strict=True) if not fixed]
    copies = constant_copies(weights)
    drawn = iter(map(tensor, data.operands([*inputs * RUNTIME_COPIES, *weights * copies])))
    input_sets = [[next(drawn) for _ in inputs] for _ in range(RUNTIME_COPIES)]
    weight_sets = [[next(drawn) for _ in weights] for _ in range(copies)]
    written = iter(map(tensor, data.results([*results] * RUNTIME_COPIES)))
    result_sets = [[next(written) for _ in results] for _ in range(RUNTIME_COPIES)]

    def arguments(turn: int) -> tuple[object, ...]:
        given, fixed = iter(input_sets[turn % RUNTIME_COPIES]), iter(weight_sets[turn % copies])
        return (*(next(fixed if is_fixed else given) for is_fixed in constant), *result_sets[turn % RUNTIME_COPIES])

    length = copies if copies % RUNTIME_COPIES == 0 else copies * RUNTIME_COPIES
    return [arguments(turn) for turn in range(length)]


def loop_s(function: Callable[..., object], ring: Sequence[tuple[object, ...]]) -> float:
    """The least seconds per call out of a few loops."""
    turns = cycle(ring)
    best = float("inf")
    for _ in range(_OVERHEAD_REPEATS):
        begin = time.perf_counter()
        _call(function, turns, _OVERHEAD_CALLS)
        best = min(best, time.perf_counter() - begin)
    return best / _OVERHEAD_CALLS
