"""Guard bytes around the buffers that kernels are measured on: who writes where it must not.

What lies around results is filled with a pattern right before a run and looked at after it. What lies around operands,
and the operands themselves, are data that nobody may write to: they must be what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

GUARD_BYTES = 256
"""Before each operand and after it."""
RESULT_GUARD_BYTES = 16384
"""Before each result and after it: a kernel that runs over does so by a row of its tile, seldom by an element."""
_PATTERN = 0xA5

_Array = npt.NDArray[Any]
_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Buffer:
    """An array with the bytes around it.

    Attributes:
        array: what a kernel is given.
        before: the guard bytes in front of it.
        after: the guard bytes behind it, from its very last byte on.
    """

    array: _Array
    before: _Bytes
    after: _Bytes


def carve(block: _Bytes, begin: int, shape: tuple[int, ...], dtype: str, guard: int) -> Buffer:
    """The array of a block of bytes at ``begin``, with ``guard`` bytes before it and as many after it."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    end = begin + size
    array = block[begin:end].view(dtype).reshape(shape)
    return Buffer(array, block[begin - guard : begin], block[end : end + guard])


class Fence:
    """The buffers of one workload.

    Args:
        operands: by operand, its copies: read only.
        results: by result, its copies.
    """

    def __init__(self, operands: Sequence[Sequence[Buffer]], results: Sequence[Sequence[Buffer]]) -> None:
        self._operands, self._results = operands, results
        self._around = [_Guards(copies) for copies in operands]
        self._sums = [_sums(copies) for copies in operands]

    def raise_(self) -> None:
        """Fill the guard bytes of the results; right before a run."""
        for copies in self._results:
            for buffer in copies:
                buffer.before.fill(_PATTERN)
                buffer.after.fill(_PATTERN)

    def breach(self, thorough: bool) -> str:
        """What was written where it must not be; empty where nothing was.

        Args:
            thorough: look into the operands too, not only around them.
        """
        found = [
            (distance, f"result {index}: at byte {offset} of {size}")
            for index, copies in enumerate(self._results)
            for buffer in copies
            for distance, offset, size in _changed(buffer, _PATTERN, _PATTERN)
        ]
        found += [
            (distance, f"operand {index}: at byte {offset} of {size}")
            for index, guards in enumerate(self._around)
            for distance, offset, size in guards.changed()
        ]
        if found:
            return f"wrote outside {min(found)[1]}"
        if thorough:
            for index, (copies, sums) in enumerate(zip(self._operands, self._sums, strict=True)):
                if _sums(copies) != sums:
                    return f"wrote into operand {index}, which it may only read"
        return ""


class _Guards:
    """What the bytes around some buffers were."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._kept = [(buffer.before.copy(), buffer.after.copy()) for buffer in buffers]

    def changed(self) -> list[tuple[int, int, int]]:
        """As of `_changed`."""
        return [
            one
            for buffer, (before, after) in zip(self._buffers, self._kept, strict=True)
            for one in _changed(buffer, before, after)
        ]


def _changed(buffer: Buffer, was_before: Any, was_after: Any) -> list[tuple[int, int, int]]:
    """Where guard bytes differ from what they were: how far from the array, its byte number there, and its size.

    What lies between two arrays guards both; the nearest of them is most likely the one that was overrun.
    """
    size = buffer.array.nbytes
    found = []
    if len(places := np.flatnonzero(buffer.before != was_before)):
        distance = len(buffer.before) - int(places[-1])
        found.append((distance, -distance, size))
    if len(places := np.flatnonzero(buffer.after != was_after)):
        found.append((int(places[0]), size + int(places[0]), size))
    return found


def _sums(copies: Sequence[Buffer]) -> list[tuple[int, int]]:
    """Checksums of the first copies: a kernel that writes to its operand does so in every call."""
    found = []
    for buffer in copies[:3]:
        flat = buffer.array.reshape(-1).view(np.uint8)
        words = flat[: flat.size // 4 * 4].view(np.uint32)
        rest = flat[flat.size // 4 * 4 :].tolist()
        found.append((int(np.bitwise_xor.reduce(words, initial=0)), int(words.sum(dtype=np.uint64)) + sum(rest)))
    return found
