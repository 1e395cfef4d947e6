"""Where the batch lies in the values of a program, and how it passes from operands to results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """The batch inside a value.

    Attributes:
        axis: the axis whose size grows with the batch.
        outer: how many parts of that axis lie outside of the batch: time × batch merged to one axis has outer = time.
    """

    axis: int
    outer: int = 1

    def before(self, shape: Shape) -> int:
        """The product of all sizes outside of the batch, in row-major order."""
        return math.prod(shape[: self.axis]) * self.outer


def grown(shape: Shape, axis: int, old: int, new: int) -> Shape:
    """The shape with the batch, which is part of one axis, of another size."""
    return (*shape[:axis], shape[axis] // old * new, *shape[axis + 1 :])


def result_place(was: Shape, now: Shape, operands: Sequence[tuple[Shape, Place]], old: int, new: int) -> Place | None:
    """The batch inside a result, from its shape with the old and the new batch; None where it holds none, or several.

    Args:
        operands: shapes (with the old batch) and places of those operands that hold the batch.
    """
    if len(was) != len(now):
        return None
    changed = [axis for axis, (one, other) in enumerate(zip(was, now, strict=True)) if one != other]
    if len(changed) != 1:
        return None
    axis = changed[0]
    if was[axis] % old or grown(was, axis, old, new) != now:
        return None
    for shape, place in operands:
        if shape[place.axis] == was[axis]:
            return Place(axis, place.outer)
    return Place(axis)


def reshaped(shape: Shape, place: Place, result: Shape, old: int) -> list[Place]:
    """Where the batch may lie after a reshape in row-major order, the likeliest first.

    With a batch of 1 several places can explain the same shapes: (T, 1, C) to (T, C) may keep T × batch in one axis, or
    batch × C.
    """
    outside = place.before(shape)
    inside = math.prod(shape) // max(outside * old, 1)
    found = []
    for axis, size in enumerate(result):
        ahead = math.prod(result[:axis])
        if ahead == 0 or outside % ahead or size % (outside // ahead * old):
            continue
        outer = outside // ahead
        alone = size == old and outer == 1
        keeps = math.prod(result[axis + 1 :]) == inside
        found.append((not alone, not keeps, axis, Place(axis, outer)))
    return [place for *_, place in sorted(found, key=lambda one: one[:3])]
