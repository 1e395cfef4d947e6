"""Weights in large pages."""

from __future__ import annotations

import numpy as np
import pytest

from joulec.runtime.packing import ALIGNMENT
from joulec.runtime.pages import LargePages


@pytest.mark.parametrize("sizes", [[1, 100, 4097], [20 << 20, 3, 20 << 20], [70 << 20, 5]])
def test_copies_are_aligned_and_apart(sizes):
    pages = LargePages()
    arrays = [np.full(size, number + 1, "int8") for number, size in enumerate(sizes)]
    copies = [pages.keep(array) for array in arrays]
    del pages  # the copies hold their memory
    for array, copy in zip(arrays, copies, strict=True):
        assert copy.ctypes.data % ALIGNMENT == 0
        np.testing.assert_array_equal(copy, array)
        assert not np.may_share_memory(copy, array)


def test_shapes_and_types_are_kept():
    array = np.arange(24, dtype="float16").reshape(2, 3, 4).transpose(2, 0, 1)
    copy = LargePages().keep(array)
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, array)
    assert copy.dtype == array.dtype


def test_memory_that_cannot_be_had_is_said():
    huge = np.broadcast_to(np.zeros(1, "uint8"), (1 << 50,))
    with pytest.raises(MemoryError, match="MiB for weights cannot be had"):
        LargePages().keep(huge)
