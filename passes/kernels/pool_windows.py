"""What the windows of a pooling hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tvm import te

from joulec.passes.graph import AvgPool2d, MaxPool2d, NodeSpec

Combine = Callable[[Any, Any], Any]


def is_global(spec: NodeSpec) -> bool:
    """Whether the one window is the plane itself."""
    op = spec.op
    assert isinstance(op, MaxPool2d | AvgPool2d)
    plane = spec.operands[0].type.shape[2:]
    return op.kernel == plane and op.dilation == (1, 1) and not any(op.padding) and spec.results[0].shape[2:] == (1, 1)


def combination(spec: NodeSpec) -> tuple[Combine, float]:
    """The function that unites elements, and its neutral element."""
    return (te.max, -math.inf) if isinstance(spec.op, MaxPool2d) else (lambda a, b: a + b, 0.0)


@dataclass(frozen=True)
class Row:
    """An output row: which rows of its window lie inside the plane, and over how many it averages."""

    inside: tuple[int, ...]
    counted: int


def counts(size: int, length: int, op: MaxPool2d | AvgPool2d, axis: int) -> list[Row]:
    """For each output position along an axis: the window elements inside the data, and how many the mean counts."""
    before, after = op.padding[axis], op.padding[axis + 2]
    pads = isinstance(op, AvgPool2d) and op.count_include_pad
    rows = []
    for position in range(length):
        places = [position * op.strides[axis] - before + i * op.dilation[axis] for i in range(op.kernel[axis])]
        inside = tuple(i for i, place in enumerate(places) if 0 <= place < size)
        counted = sum(-before <= place < size + after for place in places) if pads else len(inside)
        rows.append(Row(inside, counted))
    return rows


def window_rows(spec: NodeSpec) -> list[Row]:
    op = spec.op
    assert isinstance(op, MaxPool2d | AvgPool2d)
    return counts(spec.operands[0].type.shape[2], spec.results[0].shape[2], op, 0)


def runs(rows: Sequence[Row]) -> list[tuple[int, int, Row]]:
    """Runs of equal rows: where each begins, its length, and what its rows are."""
    runs, begin = [], 0
    for row, run in groupby(rows):
        count = len(list(run))
        runs.append((begin, count, row))
        begin += count
    return runs
