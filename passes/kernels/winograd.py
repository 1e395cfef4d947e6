"""Winograd's minimal filtering: the matrices of F(m, r), and their products emitted on vectors.

An output tile of m values under a kernel of r taps needs m + r - 1 multiplications in place of m * r (S. Winograd,
*Arithmetic Complexity of Computations*, 1980; for convolutions A. Lavin and S. Gray, *Fast Algorithms for Convolutional
Neural Networks*, 2015, equation 8: Y = A^T [(G g G^T) * (B^T d B)] A). The matrices are made by Cook and Toom's
interpolation at the points 0, 1, -1, 2, -2, … and infinity, in exact fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.kernels import loops

Rows = tuple[tuple[Fraction, ...], ...]

_POINTS = tuple(map(Fraction, (0, 1, -1, 2, -2)))
"""Small numbers in pairs of opposite signs: exact in float32, and half of the additions are shared."""


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m, r) for one dimension.

    Attributes:
        data: B^T, [t, t] with t = m + r - 1.
        kernel: G, [t, r].
        result: A^T, [m, t].
    """

    data: Rows
    kernel: Rows
    result: Rows


@cache
def transforms(outputs: int, taps: int) -> Transforms:
    """The matrices of F(outputs, taps).

    Raises:
        ValueError: the tile is larger than there are points that keep float32 accurate.
    """
    tile = outputs + taps - 1
    points = _POINTS[: tile - 1]
    if len(points) < tile - 1:
        raise ValueError(f"F({outputs}, {taps}) needs {tile - 1} points; {len(_POINTS)} keep float32 accurate")
    data, kernel = [], []
    for index, point in enumerate(points):
        others = points[:index] + points[index + 1 :]
        weight = Fraction(1)
        for other in others:
            weight *= point - other
        data.append((*_polynomial(others), Fraction(0)))
        kernel.append(tuple(point**power / weight for power in range(taps)))
    last = (Fraction(0),)
    data.append(_polynomial(points))
    kernel.append(last * (taps - 1) + (Fraction(1),))
    result = tuple(
        (*(point**power for point in points), Fraction(1 if power == outputs - 1 else 0)) for power in range(outputs)
    )
    return Transforms(tuple(data), tuple(kernel), result)


def _polynomial(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients, lowest power first, of the product of (x - root)."""
    found = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *found]
        found = [shifted[k] - root * (found[k] if k < len(found) else 0) for k in range(len(shifted))]
    return tuple(found)


def transformed_kernel(outputs: int, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A kernel [O, I, r, r] as [t * t, O, I]: G g G^T, computed in float64 and rounded once."""
    matrix = np.array(transforms(outputs, array.shape[-1]).kernel, np.float64)
    wide = np.einsum("ar,oirs,bs->aboi", matrix, array.astype(np.float64), matrix, optimize=True)
    return np.asarray(wide.reshape(-1, *array.shape[:2]), np.float32)


def product(matrix: Rows, values: Sequence[Any], lanes: int) -> list[Any]:
    """The matrix times vectors. Columns, else rows, that differ in signs alone share their sums and differences."""
    paired = _pairs(tuple(zip(*matrix, strict=True)))
    if paired:
        matrix, values = _paired_columns(matrix, values, paired)
        return [loops.bind(_sum(row, values, lanes)) for row in matrix]
    found: dict[int, Any] = {}
    for first, second in _pairs(matrix):
        same = [a if a == b else Fraction(0) for a, b in zip(matrix[first], matrix[second], strict=True)]
        opposite = [a if a != b else Fraction(0) for a, b in zip(matrix[first], matrix[second], strict=True)]
        even, odd = loops.bind(_sum(same, values, lanes)), loops.bind(_sum(opposite, values, lanes))
        found[first], found[second] = loops.bind(even + odd), loops.bind(even - odd)
    return [
        found[index] if index in found else loops.bind(_sum(row, values, lanes)) for index, row in enumerate(matrix)
    ]


def _paired_columns(
    matrix: Rows, values: Sequence[Any], pairs: Sequence[tuple[int, int]]
) -> tuple[Rows, Sequence[Any]]:
    """The product on sums and differences: a x + a y is a (x + y), and a x - a y is a (x - y)."""
    rows, values = [list(row) for row in matrix], list(values)
    for first, second in pairs:
        x, y = values[first], values[second]
        values[first], values[second] = loops.bind(x + y), loops.bind(x - y)
        for row in rows:
            same = row[first] == row[second]
            row[first], row[second] = (row[first], Fraction(0)) if same else (Fraction(0), row[first])
    return tuple(map(tuple, rows)), values


def _pairs(rows: Rows) -> list[tuple[int, int]]:
    """Disjoint pairs of rows that agree in some and differ in the sign of the other elements."""
    pairs: list[tuple[int, int]] = []
    for first in range(len(rows)):
        for second in range(first + 1, len(rows)):
            couples = [(a, b) for a, b in zip(rows[first], rows[second], strict=True) if a or b]
            taken = any(first in pair or second in pair for pair in pairs)
            equal = sum(a == b for a, b in couples)
            if not taken and all(abs(a) == abs(b) for a, b in couples) and 0 < equal < len(couples):
                pairs.append((first, second))
    return pairs


def _sum(coefficients: Sequence[Fraction], values: Sequence[Any], lanes: int) -> Any:
    """Sum of coefficients times vectors; those of one first, so that every other is a multiply-add."""
    terms = [(c, value) for c, value in zip(coefficients, values, strict=True) if c]
    terms.sort(key=lambda term: (abs(term[0]) != 1, term[0] < 0))
    total = None
    for coefficient, value in terms:
        scaled = value if abs(coefficient) == 1 else value * loops.splat(loops.f32(float(abs(coefficient))), lanes)
        if total is None:
            total = scaled if coefficient > 0 else loops.splat(loops.f32(0), lanes) - scaled
        else:
            total = total + scaled if coefficient > 0 else total - scaled
    return total
