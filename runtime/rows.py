"""How rows are laid over the batch sizes that were compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[Any]


def split(rows: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Lay rows over batches: the largest size that is filled first, the smallest, padded, for what remains.

    Args:
        rows: how many.
        sizes: the batch sizes at hand, in ascending order.

    Yields:
        Batch size, first row, number of rows; the number is below the size only in the last batch.
    """
    start = 0
    while start < rows:
        size = fitting(rows - start, sizes)
        count = min(size, rows - start)
        yield size, start, count
        start += count


def fitting(rows: int, sizes: Sequence[int]) -> int:
    """The largest size that the rows fill, or the smallest one."""
    return max((size for size in sizes if size <= rows), default=sizes[0])


def padded(array: _Array, size: int) -> _Array:
    """The array with its last row repeated up to a batch of the size: real data, so no NaN or slow denormals arise."""
    missing = size - len(array)
    if not missing:
        return array
    return np.concatenate([array, np.broadcast_to(array[-1:], (missing, *array.shape[1:]))])


def useful(seconds: dict[int, float], margin: float = 0.02) -> tuple[int, ...]:
    """Batch sizes up to the one beyond which throughput no longer rises (second paper, Section 4.2, observation 3).

    Args:
        seconds: time of one call by batch size.
        margin: relative gain in throughput that counts as one.

    Returns:
        The sizes worth choosing from, ascending.
    """
    sizes = sorted(seconds)
    best = sizes[0]
    for size in sizes[1:]:
        if size / seconds[size] > (1 + margin) * best / seconds[best]:
            best = size
    return tuple(size for size in sizes if size <= best)
