"""Batches in memory: rows of requests are copied once, into buffers that are allocated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.runtime.request import Part

_Array = npt.NDArray[Any]

ALIGNMENT = 64
"""Bytes; kernels use aligned vector loads."""


def aligned_empty(shape: Sequence[int], dtype: np.dtype[Any]) -> _Array:
    """An uninitialised array whose memory begins at a multiple of `ALIGNMENT`."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size].view(dtype).reshape(shape)


class Packer:
    """Puts the rows of requests of one signature into batches.

    A batch that is exactly one request's rows, in memory that the executor can read, is that memory itself. Any other
    is copied, each row once, into buffers that are used again for the next batch.

    Args:
        likes: arrays, one for each input, whose row shapes and dtypes all requests have.
        capacity: rows of the largest batch.
        alignment: of a request's memory, in bytes, for it to be read where it lies.
    """

    def __init__(self, likes: Sequence[_Array], capacity: int, alignment: int = 1) -> None:
        self._buffers = [aligned_empty((capacity, *like.shape[1:]), like.dtype) for like in likes]
        self._alignment = alignment

    def pack(self, parts: Sequence[Part], size: int) -> list[_Array]:
        """The batch's inputs, contiguous and writable; valid until the next call.

        Args:
            parts: rows, at most ``size`` of them.
            size: rows of the batch. What is missing repeats the last row: real data, so no NaN or slow denormals arise.
        """
        if len(parts) == 1 and parts[0].count == size:
            arrays = parts[0].arrays
            if all(map(self._readable, arrays)):
                return arrays
        rows = 0
        for part in parts:
            begin, end = part.start, part.start + part.count
            for buffer, array in zip(self._buffers, part.request.arrays, strict=True):
                buffer[rows : rows + part.count] = array[begin:end]
            rows += part.count
        if rows < size:
            for buffer in self._buffers:
                buffer[rows:size] = buffer[rows - 1]
        return [buffer[:size] for buffer in self._buffers]

    def _readable(self, array: _Array) -> bool:
        flags = array.flags
        return flags.c_contiguous and flags.writeable and array.ctypes.data % self._alignment == 0
