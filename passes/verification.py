"""Comparing what was compiled with the original, and finding what is at fault where they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.passes.forms import comparable
from joulec.passes.graph import Value
from joulec.profiler.dtypes import numpy_dtype
from joulec.profiler.values import random_text

_Array = npt.NDArray[Any]
Runner = Callable[[Mapping[str, _Array]], Sequence[_Array]]
Ranges = Mapping[str, tuple[int, int]]
_NO_RANGES: Ranges = {}

DEFAULT_TOLERANCE = 1e-4
_FINE = 2e-5
"""Rounding step (eps) up to which a type's errors count in full; half precision lies at 50 times that."""
_COARSE = {"bfloat16": 2.0**-7 / _FINE}

_ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Difference, relative to an output's full scale, that rounding in float32 explains."""

_NUDGES = 5
_NUDGE = 16 * float(np.finfo(np.float32).eps)
"""Change of an input, relative to it, that stands for what rounding between a model's operators amounts to."""
_MOST_OWN = 0.1
"""Error beyond which no original's own unsteadiness excuses a difference."""

MAGNITUDES = (1.0, 16.0, 64.0)
"""Standard deviations of the random inputs: unit scale, and up to that of image pixels."""


MOST_TEXT = 1 << 20
"""Strings of an input beyond which no random ones are drawn."""


class VerificationError(RuntimeError):
    """The optimised model does not compute what the original computes; nothing is emitted."""


class ReferenceRefusal(RuntimeError):
    """The original itself takes no such inputs (an index out of range, a shape that does not fit)."""


@dataclass(frozen=True)
class Verified:
    """How the comparison went.

    Attributes:
        inputs: how many random inputs were compared: those that the original takes.
        max_relative_error: largest norm of the difference over norm of the original's output.
        reference: what computed the original, e.g. ``onnxruntime 1.31.1``.
        own_error: largest error of the original against itself, with inputs changed by float32's rounding, where that
            was needed to judge (see `Reference.rounds`); 0 elsewhere.
    """

    inputs: int
    max_relative_error: float
    reference: str
    own_error: float = 0.0


@dataclass(frozen=True)
class Reference:
    """The original and what computes it.

    Attributes:
        name: what computes it.
        run: raises ReferenceRefusal for inputs that it does not take.
        second: another opinion, asked where results differ: engines are not free of errors either.
        rounds: whether the original rounds to few levels between its operators (it is quantised): then it turns what
            rounding in float32 changes into steps of a level, and is compared with how it answers to such changes.
        nudged: by seed, the original with what it rounds changed by a few roundings; None where only inputs can be.
    """

    name: str
    run: Runner
    second: Runner | None = None
    rounds: bool = False
    nudged: Callable[[int], Runner] | None = None


def random_inputs(
    inputs: Sequence[Value], seed: int, ranges: Ranges = _NO_RANGES, words: Sequence[str] = ()
) -> list[dict[str, _Array]]:
    """Seeded random inputs, one set per magnitude.

    Args:
        words: that the model holds, for text.
        ranges: by name, the least whole number and the one after the largest; without one integers are drawn from
            {0, 1}, which every index accepts.
    """
    sets = []
    for index, magnitude in enumerate(MAGNITUDES):
        generator = np.random.default_rng((seed, index))
        given: dict[str, _Array] = {}
        for value in inputs:
            dtype = numpy_dtype(value.type.dtype)
            if is_float(dtype):
                given[value.name] = np.asarray(generator.standard_normal(value.type.shape) * magnitude).astype(dtype)
            elif dtype.kind == "O":
                given[value.name] = random_text(generator, value.type.shape, words)
            else:
                low, high = ranges.get(value.name, (0, 2))
                given[value.name] = np.asarray(generator.integers(low, high, value.type.shape)).astype(dtype)
        sets.append(given)
    return sets


def likely_inputs(
    inputs: Sequence[Value],
    numbers: Sequence[int],
    seed: int,
    ranges: Ranges = _NO_RANGES,
    words: Sequence[str] = (),
) -> list[dict[str, _Array]]:
    """Inputs for a model that takes none of the random ones, the likeliest first.

    Floating-point inputs are drawn from the unit interval, integers are each number in turn that the model itself
    holds: what it compares an input with (a sample rate, a mode) is among them. Inputs with a range keep to that.
    """
    sets = []
    for index, number in enumerate([*numbers, 2, 8]):
        generator = np.random.default_rng((seed, len(MAGNITUDES), index))
        given: dict[str, _Array] = {}
        for value in inputs:
            dtype = numpy_dtype(value.type.dtype)
            if is_float(dtype):
                given[value.name] = np.asarray(generator.random(value.type.shape)).astype(dtype)
            elif dtype.kind == "O":
                given[value.name] = random_text(generator, value.type.shape, words)
            elif value.name in ranges:
                given[value.name] = np.asarray(generator.integers(*ranges[value.name], value.type.shape)).astype(dtype)
            else:
                given[value.name] = np.full(value.type.shape, number).astype(dtype)
        sets.append(given)
    return sets


def relative_error(found: _Array, wanted: _Array) -> float:
    """Norm of the difference over norm of the wanted; infinite where shapes differ or not both are finite."""
    if found.shape != wanted.shape:
        return float("inf")
    if found.dtype.kind == "V" or wanted.dtype.kind == "V":  # numbers that numpy itself does not know
        found, wanted = found.astype(np.float64), wanted.astype(np.float64)
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


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a type holds floating-point numbers, those included that numpy knows by extension only."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def coarseness(dtype: np.dtype[Any]) -> float:
    """How much larger errors may be than float32's, for a type that rounds more coarsely."""
    if dtype.kind == "f":
        return max(1.0, float(np.finfo(dtype).eps) / _FINE)
    return _COARSE.get(dtype.name, 1.0)


def largest_error(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest relative error over all outputs; of half precision, in units that make it comparable to float32's.

    Outputs may be of any form; text must be equal.
    """
    found, wanted = comparable(found, wanted)
    return max((relative_error(f, w) / coarseness(w.dtype) for f, w in zip(found, wanted, strict=True)), default=0.0)


def verify(reference: Reference, run: Runner, inputs: Sequence[Mapping[str, _Array]], tolerance: float) -> Verified:
    """Compare on all inputs that the original takes.

    A quantised original that answers to changes of its inputs by rounding with more than the tolerance need only be met
    to within that.

    Raises:
        VerificationError: an output differs by more than the tolerance.
    """
    differing: list[tuple[Mapping[str, _Array], Sequence[Any], Sequence[Any], float]] = []
    peaks: list[float] = []
    worst, own, compared = 0.0, 0.0, 0
    for given in inputs:
        try:
            wanted = reference.run(given)
        except ReferenceRefusal:
            continue
        found = run(given)
        error = largest_error(found, wanted)
        own_peaks = map(_peak, comparable(wanted, wanted)[0])
        peaks = [max(pair) for pair in zip_longest(peaks, own_peaks, fillvalue=0.0)]
        compared += 1
        if error <= tolerance:
            worst = max(worst, error)
        else:
            differing.append((given, found, wanted, error))
    for given, found, wanted, error in differing:
        error = min(error, _error_at_full_scale(*comparable(found, wanted), peaks))
        if not error <= tolerance and reference.second is not None:
            error = min(error, _second_error(reference.second, given, found))
        if not error <= tolerance and reference.rounds:
            own = max(own, _own_error(reference, given, wanted))
        worst = max(worst, error)
    if not worst <= max(tolerance, own):
        raise VerificationError(
            f"the optimised model differs from the original ({reference.name}) by {worst:.3g}, "
            f"more than the tolerance {tolerance:.3g}"
        )
    return Verified(compared, worst, reference.name, own)


def _own_error(reference: Reference, given: Mapping[str, _Array], wanted: Sequence[_Array]) -> float:
    """How far the original's outputs move where its inputs, and what it rounds, change by a few roundings.

    Never more than `_MOST_OWN`.
    """
    worst = 0.0
    for seed in range(_NUDGES):
        generator = np.random.default_rng(seed)
        nudged = {name: _nudged(array, generator) for name, array in given.items()}
        try:
            run = reference.nudged(seed) if reference.nudged else reference.run
            worst = max(worst, largest_error(run(nudged), wanted))
        except ReferenceRefusal:
            continue
    return min(worst, _MOST_OWN)


def _nudged(array: Any, generator: np.random.Generator) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return array
    change = generator.uniform(-_NUDGE, _NUDGE, array.shape)
    return np.asarray(array * (1 + change)).astype(array.dtype)


def _peak(array: _Array) -> float:
    """The largest finite magnitude."""
    wide = np.abs(array.astype(np.float64))
    return float(wide.max(initial=0.0, where=np.isfinite(wide)))


def _error_at_full_scale(found: Sequence[_Array], wanted: Sequence[_Array], peaks: Sequence[float]) -> float:
    """The error relative to the outputs' largest magnitudes over all inputs, where it is no more than rounding.

    A sigmoid far in its tail is nearly zero; engines agree there to the precision of its range, not of the tail.
    """
    worst = 0.0
    for ours, theirs, peak in zip(found, wanted, peaks, strict=False):
        if (
            ours.shape != theirs.shape
            or not is_float(ours.dtype)
            or not (np.isfinite(ours) & np.isfinite(theirs)).all()
        ):
            return float("inf")
        apart = _peak(ours.astype(np.float64) - theirs.astype(np.float64))
        if apart > _ROUNDING * coarseness(ours.dtype) * peak:
            return float("inf")
        worst = max(worst, apart / peak if peak else 0.0)
    return worst


def _second_error(second: Runner, given: Mapping[str, _Array], found: Sequence[_Array]) -> float:
    try:
        return largest_error(found, second(given))
    except (ReferenceRefusal, VerificationError):
        return float("inf")


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
