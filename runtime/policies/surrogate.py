"""What a model-predictive policy believes of a positive quantity (time, power) over all configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from joulec.runtime.policies.protocol import Configuration

_Floats = npt.NDArray[np.float64]

_MODES = 10
_LEVEL_SD = 0.12  # of the factor common to all predictions, in logarithms
_ROUGH_SD = 0.3  # of the smooth deviation from a power law in batch size and clock
_LENGTH = 0.45  # over which it changes; batch sizes and clocks span 1 in logarithms
_ANOTHER_SCALE = 1.0  # a value so far off in logarithms says something of all, not of one configuration
_APART = 0.95  # correlation between variants of a graph


class Surrogate:
    """Logarithms of a quantity: ``prediction + factor + smooth deviation + the configuration's own deviation``.

    Predictions are off, each in its own way; the truth is smooth in batch size and clock. So the prior is a Gaussian
    process over (log batch size, log clock, variant), conditioned on the predictions as noisy observations of it, and
    cut to its largest modes. Observations update the common factor, which drifts, the modes, and what is the
    configuration's own by a Kalman filter. A step costs the same however many configurations there are.

    Args:
        configurations: all.
        predictions: the quantity predicted of each.
        error: how far a prediction may be off, as a share.
        drift: standard deviation by which the factor moves in one second.
        own: standard deviation of what is a configuration's own.
    """

    def __init__(
        self,
        configurations: Sequence[Configuration],
        predictions: Sequence[float],
        *,
        error: float,
        drift: float,
        own: float,
    ) -> None:
        self._drift, self._own = drift, own
        values = np.log(np.array(predictions))
        prior = _kernel(configurations)
        noisy = prior + max(error / math.sqrt(3), 0.01) ** 2 * np.eye(len(values))
        gain = np.linalg.solve(noisy, prior).T
        center = values.mean()
        self._base: _Floats = center + gain @ (values - center)
        scale, modes = np.linalg.eigh(prior - gain @ prior)
        kept = slice(-_MODES, None)
        self._modes: _Floats = modes[:, kept] * np.sqrt(np.maximum(scale[kept], 0.0))
        size = self._modes.shape[1] + 2  # factor, modes, the current one's own deviation
        self._state = np.zeros(size)
        self._covariance = np.eye(size)
        self._covariance[0, 0] = _LEVEL_SD**2
        self._local = np.zeros(len(values))
        self._local_var = np.full(len(values), own**2)
        self._row = np.ones(size)
        self._at = -1
        self._surprises = 0

    def observe(self, index: int, value: float, noise_var: float, seconds: float) -> float:
        """Take a value of a configuration; the innovation by its standard deviation comes back."""
        state, covariance = self._state, self._covariance
        if index != self._at:
            self._settle()
            self._at = index
            self._row[1:-1] = self._modes[index]
            covariance[-1, :] = covariance[:, -1] = 0.0
            covariance[-1, -1] = self._local_var[index]
            state[-1] = self._local[index]
        covariance[0, 0] += self._drift**2 * seconds
        column = covariance @ self._row
        spread = float(self._row @ column) + noise_var
        innovation = math.log(value) - float(self._base[index]) - float(self._row @ state)
        score = innovation / math.sqrt(spread)
        self._surprises = self._surprises + 1 if abs(score) > 4 else 0
        if self._surprises >= 2 or abs(innovation) > _ANOTHER_SCALE:  # the load has changed, or the scale was wrong
            covariance[0, 0] += innovation**2
            column = covariance @ self._row
            spread = float(self._row @ column) + noise_var
            self._surprises = 0
        state += column * (innovation / spread)
        covariance -= np.outer(column / spread, column)
        return score

    def _settle(self) -> None:
        """Keep what is known of the current one before another is observed."""
        if self._at >= 0:
            self._local[self._at] = self._state[-1]
            self._local_var[self._at] = max(float(self._covariance[-1, -1]), 1e-6)

    def mean(self) -> _Floats:
        """Expected logarithms of all."""
        self._settle()
        expected: _Floats = self._base + (self._state[0] + self._modes @ self._state[1:-1]) + self._local
        return expected

    def deviation(self) -> _Floats:
        """Their standard deviations."""
        self._settle()
        inner = self._covariance[1:-1, 1:-1]
        variance = ((self._modes @ inner) * self._modes).sum(axis=1) + self._covariance[0, 0]
        variance += 2 * (self._modes @ self._covariance[0, 1:-1]) + self._local_var
        if self._at >= 0:
            variance[self._at] = max(float(self._row @ self._covariance @ self._row), 1e-9)
        deviations: _Floats = np.sqrt(np.maximum(variance, 1e-9))
        return deviations

    def expected(self, index: int) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm of the one observed last."""
        mean = float(self._base[index] + self._row @ self._state)
        return mean, math.sqrt(max(float(self._row @ (self._covariance @ self._row)), 1e-9))


def _kernel(configurations: Sequence[Configuration]) -> _Floats:
    """Prior covariance of logarithms: any power law, and a smooth deviation from it."""

    def spread(values: list[float]) -> _Floats:
        logs = np.log(np.array(values))
        width = float(np.ptp(logs))
        scaled: _Floats = (logs - logs.min()) / width if width > 0 else logs * 0.0
        return scaled

    batch = spread([float(item.batch) for item in configurations])
    clock = spread([item.clock_hz or 1.0 for item in configurations])
    names = sorted({str(item.variant) for item in configurations})
    variant = np.array([names.index(str(item.variant)) for item in configurations])
    distance = (batch[:, None] - batch) ** 2 + (clock[:, None] - clock) ** 2
    smooth = _ROUGH_SD**2 * np.exp(-distance / (2 * _LENGTH**2))
    laws = 9.0 + 9.0 * np.outer(batch - 0.5, batch - 0.5) + 4.0 * np.outer(clock - 0.5, clock - 0.5)
    laws += np.outer((clock - 0.5) * (batch - 0.5), (clock - 0.5) * (batch - 0.5))
    same = variant[:, None] == variant
    covariance: _Floats = laws + smooth * np.where(same, 1.0, _APART) + np.where(same, 0.05, 0.0)
    return covariance
