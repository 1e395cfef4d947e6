"""The data that kernels are measured on: one block of random numbers per process, and how it is rotated through.

What an operator costs depends on where its operands lie. In a network larger than the cache, weights come from memory
on every call, while activations were written by the operator before and still lie in a cache. The constants below are
the one place where that is imitated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import TensorType
from joulec.passes.kernels.fence import GUARD_BYTES, RESULT_GUARD_BYTES, Buffer, carve
from joulec.passes.kernels.target import last_level_bytes

CONSTANT_SPAN = 1.5
"""All copies of the constants together, in last-level caches: more than one, so that each call finds them evicted."""
MOST_CONSTANT_COPIES = 256
"""Copies of the constants at most; constants smaller than a 256th of the cache are not worth more."""
RUNTIME_COPIES = 3
"""Copies of run-time operands and of results: few, so that they stay in the caches, as what was just computed does."""
ARENA_SPAN = 2.0
"""Size of the block in last-level caches; it grows where one workload needs more."""
ALIGNMENT_BYTES = 64

_Array = npt.NDArray[Any]


def constant_copies(types: Sequence[TensorType]) -> int:
    """Over how many copies to rotate constants of the given types, as the kernel reads them."""
    total = sum(type.bytes for type in types)
    if not total:
        return 1
    return min(MOST_CONSTANT_COPIES, max(1, math.ceil(CONSTANT_SPAN * last_level_bytes() / total)))


class Arena:
    """Standard normal float32 numbers from which operands are cut one after another; results have a block of their own.

    Data that were handed out are shared by later workloads of the process (never written to: results lie elsewhere).
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._data = _aligned(0)
        self._results = _aligned(0)

    def operands(self, types: Sequence[TensorType]) -> list[Buffer]:
        """Filled arrays, 64-byte aligned, that do not overlap, with guard bytes between them."""
        self._grow(_need(types, GUARD_BYTES))
        return _cut(self._data, types, GUARD_BYTES, self._other)

    def results(self, types: Sequence[TensorType]) -> list[Buffer]:
        """Writable arrays, 64-byte aligned, that do not overlap, with guard bytes between them."""
        need = _need(types, RESULT_GUARD_BYTES)
        if need > self._results.size:
            self._results = _aligned(need)
            self._results.fill(1.0)
        return _cut(self._results, types, RESULT_GUARD_BYTES, lambda type: np.ones(type.shape, type.dtype))

    def _grow(self, need: int) -> None:
        if need <= self._data.size:
            return
        size = max(need, int(ARENA_SPAN * last_level_bytes()) // 4)
        block = self._data if self._data.size else self._normal(min(size, 1 << 24))
        self._data = _aligned(size)
        for begin in range(0, size, block.size):
            part = self._data[begin : begin + block.size]
            part[:] = block[: part.size]

    def _normal(self, size: int) -> npt.NDArray[np.float32]:
        block = self._random.standard_normal(size, dtype=np.float32)
        block[block == 0] = 1.0
        return block

    def _other(self, type: TensorType) -> _Array:
        """Operands of another type are made for themselves; integers are ones, which are valid as indices too."""
        if np.issubdtype(type.dtype, np.floating):
            return self._random.standard_normal(type.shape).astype(type.dtype)
        return np.ones(type.shape, type.dtype)


@cache
def arena(seed: int) -> Arena:
    """The process's arena for a seed."""
    return Arena(seed)


def _need(types: Sequence[TensorType], guard: int) -> int:
    """Float32 elements that tensors take in a block, guards around each."""
    return sum(_room(type) + guard // 4 for type in types) + guard // 4


def _room(type: TensorType) -> int:
    """Float32 elements that a tensor takes in a block, rounded up to the alignment."""
    return -(-type.bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES // 4 if type.dtype == "float32" else 0


def _aligned(size: int) -> npt.NDArray[np.float32]:
    raw = np.empty(size * 4 + ALIGNMENT_BYTES, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[begin : begin + size * 4].view(np.float32)


def _cut(
    block: npt.NDArray[np.float32], types: Sequence[TensorType], guard: int, otherwise: Callable[[TensorType], _Array]
) -> list[Buffer]:
    buffers = []
    begin = guard
    for type in types:
        if type.dtype != "float32":
            buffers.append(_copied(otherwise(type), guard))
            continue
        buffers.append(carve(block.view(np.uint8), begin, type.shape, "float32", guard))
        begin += 4 * _room(type) + guard
    return buffers


def _copied(array: _Array, guard: int) -> Buffer:
    """The array at an aligned address of its own."""
    block = _aligned(-(-array.nbytes // 4) + 2 * guard // 4).view(np.uint8)
    block.fill(0)
    buffer = carve(block, guard, array.shape, str(array.dtype), guard)
    buffer.array[...] = array
    return buffer
