"""Squares of vectors transposed in registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from joulec.passes.kernels import loops


def transposed(load: Callable[[int], Any], keep: Callable[[int, Any], None], lanes: int) -> None:
    """Transpose a square of vectors: log2(lanes) rounds of exchanging halves, quarters, … of pairs.

    Args:
        load: the vector of a row.
        keep: takes (column, its vector).
        lanes: rows, and elements of a row; a power of two.
    """
    tile = loops.local(lanes * lanes)

    def row(index: int) -> Any:
        return loops.run(index * lanes, lanes)

    for index in range(lanes):
        loops.store(tile, row(index), load(index))
    step = lanes // 2
    while step:
        low = [i if not i & step else lanes + i - step for i in range(lanes)]
        high = [i + step if not i & step else lanes + i for i in range(lanes)]
        for index in range(lanes):
            if index & step:
                continue
            pair = [tile[row(index)], tile[row(index + step)]]
            exchanged = [tirx.Shuffle(pair, order) for order in (low, high)]
            spare = loops.local(lanes)
            loops.store(spare, row(0), exchanged[0])
            loops.store(tile, row(index + step), exchanged[1])
            loops.store(tile, row(index), spare[row(0)])
        step //= 2
    for index in range(lanes):
        keep(index, tile[row(index)])
