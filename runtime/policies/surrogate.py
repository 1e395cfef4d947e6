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
_KEPT = 24  # observations between two foldings of the covariance
_FOLD_SIZE = 1500  # entries of the covariance that one step folds
_LEAST_VAR = 1e-7
_OFF = 4.0  # standard deviations of a value that shows that the scale of all predictions is wrong
_LEAST_OFF = 0.25  # and at least so much in logarithms
_LOOSE_VAR = 1e-5  # of the common factor, before the arrays are made to show it


class Surrogate:
    """Logarithms of quantities over all configurations: Gaussian processes that observations condition.

    Predictions are off, each in its own way; the truth is smooth in batch size and clock. So the prior of a quantity is
    a Gaussian process over (log batch size, log clock, variant), conditioned on the predictions as noisy observations
    of it, plus a factor common to all, which drifts. One configuration is observed at a time: `arrive` fetches its
    covariance with all others, `expected` tells what follows from what is seen of it so far, `commit` keeps that for
    good. Each takes time in proportion to the number of configurations: the covariance is kept as the prior less
    products, which `tidy` folds into it a few rows at a time. Rows of arrays are quantities.

    Args:
        configurations: all.
        predictions: a row per quantity: what is predicted of each configuration.
        error: how far a prediction may be off, as a share.
        drifts: per quantity, the standard deviation by which the factor moves in one second.
    """

    def __init__(
        self,
        configurations: Sequence[Configuration],
        predictions: Sequence[Sequence[float]],
        *,
        error: float,
        drifts: Sequence[float],
    ) -> None:
        values = np.log(np.array(predictions))
        count = values.shape[1]
        prior = _kernel(configurations)
        noisy = prior + max(error / math.sqrt(3), 0.01) ** 2 * np.eye(count)
        gain = np.linalg.solve(noisy, prior).T
        center = values.mean(axis=1, keepdims=True)
        shape = len(values), count
        self._rows = range(len(values))
        self._drift_vars = [drift**2 for drift in drifts]
        self._mean: Floats = center + (values - center) @ gain.T
        self._prior: Floats = np.repeat((prior - gain @ prior + _LEVEL_SD**2)[None], len(values), axis=0)
        self._variance: Floats = np.maximum(np.diagonal(self._prior, axis1=1, axis2=2), _LEAST_VAR)
        # Covariance: the prior less the products of what was learned. Of what is old, that is done up to a row.
        self._learned, self._old = np.zeros((len(values), _KEPT, count)), np.zeros((len(values), _KEPT, count))
        self._count, self._folded = 0, count
        self._at_once = max(_FOLD_SIZE // count, 1)  # rows
        self._level = np.zeros((len(values), 1))  # of the factors, on top of the prior
        self._loose_vars = [0.0 for _ in self._rows]  # the same, not yet in the arrays
        self._at = 0
        self._shared: Floats = self._prior[:, 0].copy()
        self._expected: tuple[Floats, Floats] = np.empty(shape), np.empty(shape)
        self._steps, self._scales = np.empty((len(values), 1)), np.empty((len(values), 1))
        self._scaled: Floats = np.empty(shape)

    def arrive(self, index: int) -> None:
        """From now on this configuration is observed."""
        self._at = index
        shared = np.add(self._prior[:, index], self._level, out=self._shared)
        if self._count:
            learned = self._learned[:, : self._count]
            shared -= np.matmul(learned[:, None, :, index], learned)[:, 0]
        if index >= self._folded:
            shared -= np.matmul(self._old[:, None, :, index], self._old)[:, 0]

    def pass_time(self, seconds: float) -> None:
        """The common factors drift."""
        loose = self._loose_vars
        for row, variance in enumerate(self._drift_vars):
            loose[row] += variance * seconds
        if max(loose) > _LOOSE_VAR:
            self._spread()

    def tidy(self) -> None:
        """Fold a few rows, in a step that has time for it."""
        if self._folded < self._mean.shape[1]:
            self._fold(self._at_once)

    def loosen(self, row: int, deviation: float) -> None:
        """The common factor of a quantity has changed by about so much."""
        self._loose_vars[row] += deviation**2
        self._spread()

    def check_scale(self, row: int, value: float, noise_var: float) -> None:
        """Before the first value of the one observed is taken: one far off says something of all, not of this one."""
        away = value - self.mean_here(row)
        usual = math.sqrt(float(self._shared[row, self._at]) + noise_var)
        if abs(away) > max(_OFF * usual, _LEAST_OFF):
            self.loosen(row, away)

    def _spread(self) -> None:
        loose = np.array(self._loose_vars)[:, None]
        self._shared += loose
        self._variance += loose
        self._level += loose
        self._loose_vars = [0.0 for _ in self._rows]

    def mean_here(self, row: int) -> float:
        """Mean of a quantity of the one observed, by what was kept."""
        return float(self._mean[row, self._at])

    def here(self, row: int, value: float, noise_var: float) -> tuple[float, float]:
        """Mean and standard deviation of a quantity of the one observed, by what is seen of it."""
        mean, known_var = self.mean_here(row), float(self._shared[row, self._at])
        spread = known_var + noise_var
        return mean + known_var / spread * (value - mean), math.sqrt(max(known_var * noise_var / spread, _LEAST_VAR))

    def expected(self, seen: Sequence[tuple[float, float]]) -> tuple[Floats, Floats]:
        """Means and standard deviations of all; the arrays are written again by the next call.

        Args:
            seen: per quantity, the value of the one observed and its variance; infinite where nothing was seen.
        """
        means, deviations = self._expected
        self._condition(seen, means, deviations)
        return means, np.sqrt(deviations, out=deviations)

    def _condition(self, seen: Sequence[tuple[float, float]], means: Floats, variances: Floats) -> None:
        at, shared, steps, scales = self._at, self._shared, self._steps, self._scales
        for row, (value, noise_var) in enumerate(seen):
            spread = float(shared[row, at]) + noise_var
            steps[row, 0] = (value - float(self._mean[row, at])) / spread
            scales[row, 0] = 1 / math.sqrt(spread)
        scaled = np.multiply(shared, scales, out=self._scaled)
        np.multiply(scaled, scaled, out=variances)
        np.subtract(self._variance, variances, out=variances)
        np.maximum(variances, _LEAST_VAR, out=variances)
        np.multiply(shared, steps, out=means)
        np.add(means, self._mean, out=means)

    def known(self) -> tuple[Floats, Floats]:
        """Means and standard deviations of all, by what was kept."""
        return self._mean, np.sqrt(self._variance)

    def deviation(self, row: int) -> Floats:
        """Standard deviations of one quantity, by what was kept."""
        deviations: Floats = np.sqrt(self._variance[row])
        return deviations

    def commit(self, seen: Sequence[tuple[float, float]]) -> None:
        """Keep what was seen of the one observed."""
        mean, variance = self._expected
        self._condition(seen, mean, variance)
        self._expected = self._mean, self._variance
        self._mean, self._variance = mean, variance
        self._learned[:, self._count] = self._scaled
        self._count += 1
        if self._count == _KEPT:
            self._fold(self._mean.shape[1])
            self._learned, self._old = self._old, self._learned
            self._count = self._folded = 0

    def _fold(self, rows: int) -> None:
        """Take what is old out of so many more rows of the prior."""
        some = slice(self._folded, self._folded + rows)
        for row in self._rows:
            old = self._old[row]
            self._prior[row, some] -= old[:, some].T @ old
        self._folded = min(self._folded + rows, self._mean.shape[1])


def _kernel(configurations: Sequence[Configuration]) -> Floats:
    """Prior covariance of logarithms: any power law, a smooth deviation from it, and what is each one's own."""

    def centred(values: list[float]) -> Floats:
        logs: Floats = np.log(np.array(values))
        middle: Floats = logs - (logs.min() + logs.max()) / 2
        return middle

    batch = centred([float(item.batch) for item in configurations])
    clock = centred([item.clock_hz or 1.0 for item in configurations])
    names = sorted({str(item.variant) for item in configurations})
    variant = np.array([names.index(str(item.variant)) for item in configurations])
    distance = ((batch[:, None] - batch) / _BATCH_LENGTH) ** 2 + ((clock[:, None] - clock) / _CLOCK_LENGTH) ** 2
    smooth = _ROUGH_SD**2 * np.exp(-distance / 2)
    laws = 9.0 + 0.4 * np.outer(batch, batch) + 9.0 * np.outer(clock, clock)
    laws += 0.04 * np.outer(batch * clock, batch * clock)
    same = variant[:, None] == variant
    covariance: Floats = laws + smooth * np.where(same, 1.0, _APART) + np.where(same, 0.05, 0.0)
    covariance += _OWN_SD**2 * np.eye(len(batch))
    return covariance
