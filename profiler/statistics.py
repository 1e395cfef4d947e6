"""Confidence intervals of means, and the mean of what nothing disturbed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95% quantiles of Student's t for 1 to 30 degrees of freedom.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def interval95(values: Sequence[float]) -> float:
    """Half width of the 95% confidence interval of the mean (Student's t); infinite for fewer than two values."""
    degrees = len(values) - 1
    if degrees < 1:
        return math.inf
    quantile = _T95[degrees - 1] if degrees <= len(_T95) else 1.96
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Summary:
    """Mean of the samples kept.

    Attributes:
        mean_s: mean seconds per call.
        spread: half width of the mean's 95% confidence interval, relative to the mean.
        kept: how many samples were kept.
    """

    mean_s: float
    spread: float
    kept: int


def summarise(samples: Sequence[float]) -> Summary:
    """Mean and confidence interval of the samples that nothing disturbed: those of the fastest mode.

    Disturbance only ever adds time, and often in steps, so that times have several modes of which the fastest is the
    workload's own (Chen and Revels 2016, "Robust benchmarking in noisy environments"). The mode is located by its
    density (as the shorth of Andrews et al. 1972 is): of all intervals that hold a quarter of the samples and end
    within their fastest half, the narrowest. Samples beyond its upper end + 3 × 1.4826 × its width are dropped. For
    normally distributed times that is the median + 3σ and drops next to nothing: the interval reaches from the lower
    quartile to the median, 0.6745 σ. The mean, unlike the minimum, does not fall as samples are added.

    Args:
        samples: seconds per call.
    """
    ordered = sorted(samples)
    count = min(len(ordered), max(3, math.ceil(len(ordered) / 4)))
    ends = range(count - 1, max(count, math.ceil(len(ordered) / 2)))
    end = min(ends, key=lambda last: ordered[last] - ordered[last - count + 1])
    limit = ordered[end] + 3 * 1.4826 * (ordered[end] - ordered[end - count + 1])
    kept = [sample for sample in ordered if sample <= limit]
    mean_s = statistics.fmean(kept)
    return Summary(mean_s, spread_of(kept, mean_s), len(kept))


def spread_of(samples: Sequence[float], mean_s: float) -> float:
    """Half width of the mean's 95% confidence interval (Student's t), relative to the mean."""
    return interval95(samples) / mean_s if mean_s > 0 else math.inf
