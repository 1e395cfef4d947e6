"""Tensor types and values (the edges of a graph)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

from joulec.profiler.dtypes import numpy_dtype


def content_key(*parts: object) -> int:
    """A 128-bit hash of the parts' text, equal between processes and machines."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest(), "big")


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape (all dimensions fixed) and dtype (numpy's name, e.g. ``float32``) of a tensor."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.size * numpy_dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor that flows through a graph.

    The key names what the tensor *is*, not who computes it: a rewrite that computes the same tensor in another way
    produces the same value, so consumers need not change and two orders of rewriting meet in one graph.
    """

    key: int
    type: TensorType = field(compare=False)
    name: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return self.key & 0x7FFFFFFFFFFFFFFF

    @staticmethod
    def input(name: str, type: TensorType) -> Value:
        """A graph input."""
        return Value(content_key("input", name, type), type, name)
