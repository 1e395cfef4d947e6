"""Operators that move or rename data and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph.operators.base import Arrays, Operator, require
from joulec.passes.graph.values import TensorType


@dataclass(frozen=True, slots=True)
class _Movement(Operator):
    def flops(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> int:
        return 0


@dataclass(frozen=True, slots=True, repr=False)
class Concat(_Movement):
    """Operands one after another along a non-negative axis.

    Attributes:
        in_place: per operand, whether its producer writes it where the result has it, so that it is not copied; empty
            where all are copied. It is no part of what the concat means.
    """

    axis: int
    in_place: tuple[bool, ...] = ()

    @property
    def attributes(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"axis": self.axis}
        return {**shown, "in_place": self.in_place} if self.in_place else shown

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self.attributes.items())
        return f"{type(self).__name__}({shown})"

    @property
    def is_view(self) -> bool:
        return bool(self.in_place) and all(self.in_place)

    def untouched(self, operands: Sequence[TensorType]) -> int:
        kept = [operand.bytes for operand, stays in zip(operands, self.in_place, strict=False) if stays]
        return 2 * sum(kept)

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) >= 1, "concat takes at least one operand")
        first = operands[0]
        require(0 <= self.axis < len(first.shape), f"concat: axis {self.axis} of {first}")
        for other in operands[1:]:
            same = (
                len(other.shape) == len(first.shape)
                and other.dtype == first.dtype
                and all(a == b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if i != self.axis)
            )
            require(same, f"concat along axis {self.axis}: {first} and {other} do not agree")
        total = sum(operand.shape[self.axis] for operand in operands)
        return (TensorType((*first.shape[: self.axis], total, *first.shape[self.axis + 1 :]), first.dtype),)

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        return (np.concatenate(operands, axis=self.axis),)


@dataclass(frozen=True, slots=True, repr=False)
class PlacedConcat(Concat):
    """A concat whose producers write into its result, so that nothing is copied; it means what `Concat` means.

    Placement is a property of the edges from the producers. A back end offers it only where each producer can really
    write its slice, and feeds nothing else.
    """


@dataclass(frozen=True, slots=True)
class Split(_Movement):
    """Consecutive slices of the given sizes along a non-negative axis."""

    axis: int
    sizes: tuple[int, ...]

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 1, "split takes one operand")
        data = operands[0]
        require(0 <= self.axis < len(data.shape), f"split: axis {self.axis} of {data}")
        require(sum(self.sizes) == data.shape[self.axis], f"split: sizes {self.sizes} do not add up to {data}")
        return tuple(
            TensorType((*data.shape[: self.axis], size, *data.shape[self.axis + 1 :]), data.dtype)
            for size in self.sizes
        )

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """(begin, end) of each slice."""
        edges = np.cumsum([0, *self.sizes]).tolist()
        return tuple(pairwise(edges))

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        return tuple(operands[0][(slice(None),) * self.axis + (slice(begin, end),)] for begin, end in self.bounds)


@dataclass(frozen=True, slots=True)
class Reshape(_Movement):
    """The same elements in row-major order under another shape (all dimensions given)."""

    shape: tuple[int, ...]

    @property
    def is_view(self) -> bool:
        return True

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 1, "reshape takes one operand")
        result = TensorType(self.shape, operands[0].dtype)
        require(result.size == operands[0].size, f"reshape: {operands[0]} has other elements than {self.shape}")
        return (result,)

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        return (operands[0].reshape(self.shape),)


@dataclass(frozen=True, slots=True)
class Transpose(_Movement):
    """Axes permuted: result axis i is operand axis ``permutation[i]``."""

    permutation: tuple[int, ...]

    def infer(self, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
        require(len(operands) == 1, "transpose takes one operand")
        data = operands[0]
        require(sorted(self.permutation) == list(range(len(data.shape))), f"transpose {self.permutation} of {data}")
        return (TensorType(tuple(data.shape[axis] for axis in self.permutation), data.dtype),)

    def evaluate(self, *operands: npt.NDArray[Any]) -> Arrays:
        return (operands[0].transpose(self.permutation),)
