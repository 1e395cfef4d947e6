"""What a model-predictive policy believes of a positive quantity (time, power) over all configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from joulec.runtime.policies.protocol import Configuration

Floats = npt.NDArray[np.float64]

_LEVEL_SD = 0.12  # of the factor common to all predictions, in logarithms
_ROUGH_SD = 0.3  # of the smooth deviation from a power law in batch size and clock
_BATCH_LENGTH = math.log(16)  # over which it changes
_CLOCK_LENGTH = math.log(2.5)
_APART = 0.97  # correlation between variants of a graph
_OWN_SD = 0.015  # of what is a configuration's own
_KEPT = 48  # observations between two foldings of the covariance
_LEAST_VAR = 1e-7


class Surrogate:
    """Logarithms of a quantity over all configurations: a Gaussian process that observations condition.

    Predictions are off, each in its own way; the truth is smooth in batch size and clock. So the prior is a Gaussian
    process over (log batch size, log clock, variant), conditioned on the predictions as noisy observations of it, plus
    a factor common to all, which drifts. One configuration is observed at a time: `arrive` fetches its covariance with
    all others, `expected` tells what follows from what is seen of it so far, `commit` keeps that for good. Each takes
    time in proportion to the number of configurations.

    Args:
        kernel: prior covariance of the logarithms (`kernel`).
        predictions: the quantity predicted of each.
        error: how far a prediction may be off, as a share.
        drift: standard deviation by which the factor moves in one second.
    """

    def __init__(self, kernel: Floats, predictions: Sequence[float], *, error: float, drift: float) -> None:
        values = np.log(np.array(predictions))
        noisy = kernel + max(error / math.sqrt(3), 0.01) ** 2 * np.eye(len(values))
        gain = np.linalg.solve(noisy, kernel).T
        center = values.mean()
        self._drift_var = drift**2
        self._mean: Floats = center + gain @ (values - center)
        self._prior: Floats = kernel - gain @ kernel + _LEVEL_SD**2
        self._variance: Floats = np.maximum(np.diag(self._prior), _LEAST_VAR)
        self._learned = np.zeros((_KEPT, len(values)))  # the covariance is the prior less the products of these rows
        self._count = 0
        self._loose_var = 0.0  # of the factor, since the last commit
        self._at = 0
        self._shared = self._prior[0]

    def arrive(self, index: int) -> None:
        """From now on this configuration is observed."""
        self._at = index
        learned = self._learned[: self._count]
        self._shared = self._prior[index] - learned[:, index] @ learned

    def pass_time(self, seconds: float) -> None:
        """The common factor drifts."""
        self._loose_var += self._drift_var * seconds

    def loosen(self, deviation: float) -> None:
        """The common factor has changed by about so much."""
        self._loose_var += deviation**2

    def here(self, value: float, noise_var: float) -> tuple[float, float]:
        """Mean and standard deviation of the one observed, by what is seen of it."""
        at = self._at
        known_var = float(self._shared[at]) + self._loose_var
        mean, spread = float(self._mean[at]), known_var + noise_var
        return mean + known_var / spread * (value - mean), math.sqrt(max(known_var * noise_var / spread, _LEAST_VAR))

    def means(self, value: float, noise_var: float) -> Floats:
        """Means of all, by what is seen of the one observed."""
        shared = self._shared + self._loose_var
        at = self._at
        expected: Floats = self._mean + shared * ((value - self._mean[at]) / (shared[at] + noise_var))
        return expected

    def expected(self, value: float, noise_var: float) -> tuple[Floats, Floats]:
        """Means and standard deviations of all, by what is seen of the one observed."""
        shared = self._shared + self._loose_var
        at = self._at
        gain = shared / (shared[at] + noise_var)
        variance = self._variance + self._loose_var
        variance -= gain * shared
        return self._mean + gain * (value - self._mean[at]), np.sqrt(np.maximum(variance, _LEAST_VAR))

    def known(self) -> tuple[Floats, Floats]:
        """Means and standard deviations of all, by what was kept."""
        return self._mean, np.sqrt(self._variance + self._loose_var)

    def commit(self, value: float, noise_var: float) -> None:
        """Keep what was seen of the one observed."""
        shared = self._shared + self._loose_var
        at = self._at
        spread = float(shared[at]) + noise_var
        self._prior += self._loose_var
        self._mean = self._mean + shared * ((value - float(self._mean[at])) / spread)
        self._variance = np.maximum(self._variance + self._loose_var - shared * shared / spread, _LEAST_VAR)
        self._loose_var = 0.0
        self._learned[self._count] = shared / math.sqrt(spread)
        self._count += 1
        if self._count == _KEPT:
            self._prior = self._prior - self._learned.T @ self._learned
            self._count = 0


def kernel(configurations: Sequence[Configuration]) -> Floats:
    """Prior covariance of logarithms: any power law, a smooth deviation from it, and what is each one's own."""

    def centred(values: list[float]) -> Floats:
        logs: Floats = np.log(np.array(values))
        return logs - (logs.min() + logs.max()) / 2

    batch = centred([float(item.batch) for item in configurations])
    clock = centred([item.clock_hz or 1.0 for item in configurations])
    names = sorted({str(item.variant) for item in configurations})
    variant = np.array([names.index(str(item.variant)) for item in configurations])
    distance = ((batch[:, None] - batch) / _BATCH_LENGTH) ** 2 + ((clock[:, None] - clock) / _CLOCK_LENGTH) ** 2
    smooth = _ROUGH_SD**2 * np.exp(-distance / 2)
    laws = 9.0 + 0.4 * np.outer(batch, batch) + 9.0 * np.outer(clock, clock) + 0.04 * np.outer(batch * clock, batch * clock)
    same = variant[:, None] == variant
    covariance: Floats = laws + smooth * np.where(same, 1.0, _APART) + np.where(same, 0.05, 0.0)
    return covariance + _OWN_SD**2 * np.eye(len(batch))
