"""Energy of a window from what a sensor showed in it: a counter's staircase, or readings that average a while."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from joulec.profiler.statistics import interval95

Samples = Sequence[tuple[float, float]]
"""(moment in seconds, value) in order of time."""

_END_STEPS = 5
_UNIFORM_95 = 1.96 * math.sqrt(2 / 12)
"""Half width of the 95% interval of the difference of two moments, each known to within one unit."""


@dataclass(frozen=True)
class Energy:
    """Joules of a window, and the relative half width of their 95% interval (infinite where there is no telling)."""

    joules: float
    spread: float


def staircase(samples: Samples, start_s: float, end_s: float) -> Energy:
    """Energy from a counter that steps now and then.

    Between its first and its last step the counter is exact, up to when those were seen; before and after, power is
    taken to be that of the steps nearest to it. With fewer than three steps it is the plain difference.

    Args:
        samples: (seconds, joules), from the beginning of the window to its end.
        start_s: when the window began.
        end_s: when it ended.
    """
    steps: list[tuple[float, float]] = []
    gaps = [0.0]
    for (before_s, before_j), (after_s, after_j) in itertools.pairwise(samples):
        if after_j != before_j:
            steps.append(((before_s + after_s) / 2, after_j))
            gaps.append(after_s - before_s)
    if len(steps) < 3:
        return Energy(samples[-1][1] - samples[0][1], math.inf)
    (first_s, first_j), (last_s, last_j) = steps[0], steps[-1]
    ends = min(_END_STEPS, len(steps) - 1)
    first_w = (steps[ends][1] - first_j) / (steps[ends][0] - first_s)
    last_w = (last_j - steps[-1 - ends][1]) / (last_s - steps[-1 - ends][0])
    joules = last_j - first_j + first_w * (first_s - start_s) + last_w * (end_s - last_s)
    return Energy(joules, _UNIFORM_95 * statistics.fmean(gaps[1:]) / (last_s - first_s))


def readings(samples: Samples, start_s: float, end_s: float, update_s: float, average_s: float) -> Energy:
    """Energy from readings that are replaced every ``update_s`` by the mean over the ``average_s`` before.

    Those that may have seen what was before the window are left out, as long as others remain.

    Args:
        samples: (seconds, watts), in order of time.
        start_s: when the window began.
        end_s: when it ended.
        update_s: seconds between the sensor's updates.
        average_s: seconds that a reading averages.
    """
    own = [sample for sample in samples if sample[0] >= start_s + update_s + average_s]
    if not own:
        return Energy(samples[-1][1] * (end_s - start_s), math.inf)
    moments = [*(moment for moment, _ in own), max(end_s, own[-1][0])]
    weights = [after - before for before, after in itertools.pairwise(moments)]
    values = [watts for _, watts in own]
    total_s = sum(weights)
    mean_w = math.fsum(w * v for w, v in zip(weights, values, strict=True)) / total_s if total_s else values[-1]
    distinct = [value for index, value in enumerate(values) if index == 0 or value != values[index - 1]]
    return Energy(mean_w * (end_s - start_s), _scatter(distinct, mean_w))


def _scatter(updates: Sequence[float], mean_w: float) -> float:
    """The relative 95% interval of the mean of independent updates; of one alone, or equal ones, they are exact."""
    if len(updates) < 2 or mean_w <= 0:
        return 0.0
    return interval95(updates) / mean_w
