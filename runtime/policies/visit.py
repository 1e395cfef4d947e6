"""What was read of the configuration that runs: the highest power it draws, noise of the sensor left out."""

from __future__ import annotations

import math

_HALF = 32  # readings that one of the two blocks holds, by whose maxima the highest is known
_LONGEST = 48  # readings that the mean reaches back
_SOLID = 16  # readings after which their scatter is believed
_USUAL_SD = 0.008  # of a reading, before anything is known
_USUAL_WEIGHT = 8
_LEAST_SD, _MOST_SD = 0.002, 0.03
SHORT = 0.1  # of the sensor's window: batches of which every reading averages over several
_PHASES = 0.06  # how far a reading may lie beneath the highest where a batch is longer than the sensor's window
_HIGHEST = tuple(0.56 * math.log2(count) ** 0.8 if count > 1 else 0.0 for count in range(1, 4 * _HALF + 2))


class Noise:
    """Standard deviation of a reading, as a share: the sensor's noise and the device's own."""

    def __init__(self) -> None:
        self.deviation = _USUAL_SD

    def learn(self, visit: Visit, *, short: bool) -> None:
        """Take a visit's scatter. Of batches that are not short beside the sensor's window it is a bound from above."""
        if visit.single < _SOLID:
            return
        weight = min(visit.single, _LONGEST)
        variance = (_USUAL_WEIGHT * _USUAL_SD**2 + weight * visit.variance) / (_USUAL_WEIGHT + weight)
        seen = min(max(math.sqrt(variance), _LEAST_SD), _MOST_SD)
        self.deviation = seen if short else min(seen, self.deviation)


class Visit:
    """Readings of one configuration since it began to run, in logarithms.

    A reading averages over a part of a batch or over several, so it depends on where in a batch it falls: what counts
    under a cap is the highest. Of ``count`` readings with noise the highest exceeds the true one by a known number of
    the noise's standard deviations. Where batches are short beside the sensor's window, all readings mean the same.
    """

    def __init__(self) -> None:
        self.count = 0
        self.single = 0  # steps with one reading each: their scatter is that of a reading
        self.mean = 0.0
        self.variance = 0.0
        self.seconds = 0.0
        self.batches = 0
        self.batch_s = 0.0
        self._highest = self._before = -math.inf
        self._block = self._block_before = 0

    def add(self, mean: float, highest: float, readings: int) -> None:
        """Logarithms of the mean and the highest of so many readings."""
        self.count += readings
        if readings == 1:
            self.single += 1
            weight = 1 / min(self.single, _LONGEST)
            delta = mean - self.mean
            self.variance += weight * ((1 - weight) * delta * delta - self.variance)
        self.mean += (mean - self.mean) * readings / min(self.count, max(_LONGEST, readings))
        if self._block >= _HALF:
            self._before, self._block_before = self._highest, self._block
            self._highest, self._block = -math.inf, 0
        self._highest = max(self._highest, highest)
        self._block += max(readings // 4, 1)  # the peaks of a long batch are in some of its readings

    def add_batches(self, batches: int, batch_s: float) -> None:
        """How long batches took."""
        if not batches:
            return
        self.batches += batches
        self.batch_s += (batch_s - self.batch_s) * batches / min(self.batches, max(400, batches))

    def power(self, noise: float, phases: float) -> tuple[float, float]:
        """Logarithm of the highest power and the variance of that.

        Args:
            noise: standard deviation of a reading.
            phases: how long a batch is, as a share of the sensor's window.
        """
        count = min(self._block + self._block_before, len(_HIGHEST))
        known_var = max(noise * noise / min(count, _LONGEST), 1e-6)
        if phases < SHORT:
            return self.mean, known_var
        peaks = max(round(count * (1 - 0.75 * min(phases, 1.0))), 1)  # of a long batch only some fall upon its peak
        highest = max(self._highest, self._before) - _HIGHEST[peaks - 1] * noise
        unseen = _PHASES * min(phases, 1.0) / count
        return max(self.mean, highest), known_var + unseen * unseen
