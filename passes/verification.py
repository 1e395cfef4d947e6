"""Comparing what was compiled with the original, and finding what is at fault where they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.graph import Value

_Array = npt.NDArray[Any]
Runner = Callable[[Mapping[str, _Array]], Sequence[_Array]]

DEFAULT_TOLERANCE = 1e-4
MAGNITUDES = (1.0, 16.0, 64.0)
"""Standard deviations of the random inputs: unit scale, and up to that of image pixels."""


class VerificationError(RuntimeError):
    """The optimised model does not compute what the original computes; nothing is emitted."""


@dataclass(frozen=True)
class Verified:
    """How the comparison went.

    Attributes:
        inputs: how many random inputs were tried.
        max_relative_error: largest norm of the difference over norm of the original's output.
        reference: what computed the original, e.g. ``onnxruntime 1.31.1``.
    """

    inputs: int
    max_relative_error: float
    reference: str


@dataclass(frozen=True)
class Reference:
    """The original and what computes it."""

    name: str
    run: Runner


def random_inputs(inputs: Sequence[Value], seed: int) -> list[dict[str, _Array]]:
    """Seeded random inputs, one set per magnitude; integers are drawn from {0, 1}, which every index accepts."""
    sets = []
    for index, magnitude in enumerate(MAGNITUDES):
        generator = np.random.default_rng((seed, index))
        given: dict[str, _Array] = {}
        for value in inputs:
            dtype = np.dtype(value.type.dtype)
            if np.issubdtype(dtype, np.floating):
                given[value.name] = (generator.standard_normal(value.type.shape) * magnitude).astype(dtype)
            else:
                given[value.name] = generator.integers(0, 2, value.type.shape).astype(dtype)
        sets.append(given)
    return sets


def relative_error(found: _Array, wanted: _Array) -> float:
    """Norm of the difference over norm of the wanted; infinite where shapes differ or not both are finite."""
    if found.shape != wanted.shape:
        return float("inf")
    both = np.isfinite(found) & np.isfinite(wanted)
    same = np.array_equal(found[~both], wanted[~both], equal_nan=True)
    if not same:
        return float("inf")
    difference = found[both].astype(np.float64) - wanted[both].astype(np.float64)
    scale = float(np.linalg.norm(wanted[both].astype(np.float64)))
    error = float(np.linalg.norm(difference))
    if error == 0:
        return 0.0
    relative = error / scale if scale > 0 else float("inf")
    return relative if np.isfinite(relative) else float("inf")


def largest_error(found: Sequence[_Array], wanted: Sequence[_Array]) -> float:
    """The largest relative error over all outputs."""
    if len(found) != len(wanted):
        return float("inf")
    return max((relative_error(f, w) for f, w in zip(found, wanted, strict=True)), default=0.0)


def verify(reference: Reference, run: Runner, inputs: Sequence[Mapping[str, _Array]], tolerance: float) -> Verified:
    """Compare on all inputs.

    Raises:
        VerificationError: an output differs by more than the tolerance.
    """
    worst = 0.0
    for given in inputs:
        worst = max(worst, largest_error(run(given), reference.run(given)))
    if not worst <= tolerance:
        raise VerificationError(
            f"the optimised model differs from the original ({reference.name}) by {worst:.3g}, "
            f"more than the tolerance {tolerance:.3g}"
        )
    return Verified(len(inputs), worst, reference.name)


def first_fault(steps: Sequence[str], agrees: Callable[[int], bool]) -> str | None:
    """Bisect a chain of changes: the first after which the result no longer agrees.

    Args:
        steps: names of the changes, in order.
        agrees: whether the result agrees after the first ``n`` changes.

    Returns:
        The change at fault, or None where it is none of them (the start differs already, or the end agrees).
    """
    if not agrees(0) or agrees(len(steps)):
        return None
    low, high = 0, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if agrees(middle) else (low, middle)
    return steps[high - 1]
