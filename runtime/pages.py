"""Memory for weights in large pages."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.runtime.packing import ALIGNMENT

_PAGE_BYTES = 1 << 21
_BLOCK_BYTES = 1 << 26


class LargePages:
    """Copies of arrays, one after another in blocks of memory that the system is asked to keep in large pages.

    A model reads all its weights once per call. In pages of 4 KiB each needs a translation of its own, and the
    processor's prefetching ends with each. Where the system has no large pages, or none left, the same memory is in
    small ones. What is never written takes no memory.
    """

    def __init__(self) -> None:
        self._block: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._used = 0

    def keep(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A copy of the array, aligned to `ALIGNMENT` bytes.

        Raises:
            MemoryError: there is not enough.
        """
        if self._used + array.nbytes > self._block.size:
            self._block, self._used = _block(max(array.nbytes, _BLOCK_BYTES)), 0
        part = self._block[self._used : self._used + array.nbytes]
        self._used += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        copy = part.view(array.dtype).reshape(array.shape)
        np.copyto(copy, array)
        return copy


def _block(size: int) -> npt.NDArray[np.uint8]:
    """Fresh memory that begins with a large page."""
    try:
        memory = mmap.mmap(-1, size + _PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size / 2**20:.0f} MiB for weights cannot be had: {error.strerror}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    block = np.frombuffer(memory, np.uint8)
    begin = -block.ctypes.data % _PAGE_BYTES
    return block[begin : begin + size]
