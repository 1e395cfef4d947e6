"""What was read of the configuration that runs: the highest power it draws, noise of the sensor left out."""

from __future__ import annotations

import math

from joulec.runtime.policies.protocol import Telemetry

_HALF = 32  # readings that one of the two blocks holds, by whose maxima the highest is known
_LONGEST = 48  # readings that the mean reaches back
SOLID = 16  # readings after which their scatter is believed
_USUAL_SD = 0.008  # of a reading, before anything is known
_USUAL_WEIGHT = 8
_LEAST_SD, _MOST_SD = 0.002, 0.03
SHORT = 0.1  # of the sensor's window: batches of which every reading averages over several
_BINS = 16  # of a batch, by where in it a reading ends
_ALL = (1 << _BINS) - 1
_NEAR = tuple(sum(1 << (phase + step) % _BINS for step in (-1, 0, 1)) for phase in range(_BINS))
_PEAK = 0.7  # how far the power of a part of a batch may lie above its mean, in logarithms
_FORGOTTEN = 64.0  # readings after which phases that are still unseen count for half
_HIGHEST = tuple(0.56 * math.log2(count) ** 0.8 if count > 1 else 0.0 for count in range(1, 4 * _HALF + 2))


class Noise:
    """Standard deviation of a reading, as a share: the sensor's noise and the device's own."""

    def __init__(self) -> None:
        self.deviation = _USUAL_SD

    def learn(self, visit: Visit, *, short: bool) -> None:
        """Take a visit's scatter. Of batches that are not short beside the sensor's window it is a bound from above."""
        if visit.single < SOLID:
            return
        weight = min(visit.single, _LONGEST)
        variance = (_USUAL_WEIGHT * _USUAL_SD**2 + weight * visit.variance) / (_USUAL_WEIGHT + weight)
        seen = min(max(math.sqrt(variance), _LEAST_SD), _MOST_SD)
        self.deviation = seen if short else min(seen, self.deviation)


class Visit:
    """Readings of one configuration since it began to run, in logarithms.

    A reading averages over a part of a batch or over several, so it depends on where in a batch it falls: what counts
    under a cap is the highest. Where batches are short beside the sensor's window, all readings mean the same. Else
    readings may beat with the batches and show the same phase for long, so the phases of a batch that were seen are
    counted; and of ``count`` readings with noise the highest exceeds the true one by a known number of the noise's
    standard deviations.
    """

    def __init__(self) -> None:
        self.count = 0
        self.single = 0  # steps with one reading each: their scatter is that of a reading
        self.mean = 0.0
        self.variance = 0.0
        self.batches = 0
        self.batch_s = 0.0
        self._highest = self._before = -math.inf
        self._block = self._block_before = 0
        self._phases = 0  # seen, a bit each

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

    def add_batches(self, telemetry: Telemetry) -> None:
        """How long batches took, and at which of their phases the readings were taken."""
        count, batch_s = telemetry.batches, telemetry.batch_s
        if not batch_s or not count:
            return
        self.batches += count
        self.batch_s += (batch_s - self.batch_s) * count / min(self.batches, max(400, count))
        if telemetry.whole or self._phases == _ALL:
            self._phases = _ALL
            return
        apart_s = telemetry.seconds / max(telemetry.readings, 1)
        for number in range(min(telemetry.readings, _BINS)):
            self._phases |= _NEAR[int((telemetry.age_s + number * apart_s) / batch_s * _BINS) % _BINS]

    def unseen(self, phases: float) -> float:
        """How far the highest power may lie above the highest reading, as a share, as some phases were not seen."""
        if phases < SHORT or self._phases == _ALL:
            return 0.0
        missing = (_BINS - self._phases.bit_count()) / _BINS
        return _most_above(phases) * missing * math.exp2(-self.count / _FORGOTTEN)

    def power(self, noise: float, phases: float, expected: float | None = None) -> tuple[float, float]:
        """Logarithm of the highest power and the variance of that.

        While phases are unseen it lies anywhere between what was seen and what those may add: nearest to what was
        expected before.

        Args:
            noise: standard deviation of a reading.
            phases: how long a batch is, as a share of the sensor's window.
            expected: logarithm of the power expected; what was seen when None.
        """
        count = min(self._block + self._block_before, len(_HIGHEST))
        known_var = max(noise * noise / min(count, _LONGEST), 1e-6)
        if phases < SHORT:
            return self.mean, known_var
        peaks = max(round(count * (1 - 0.75 * min(phases, 1.0))), 1)  # of a long batch only some fall upon its peak
        highest = max(self.mean, max(self._highest, self._before) - _HIGHEST[peaks - 1] * noise)
        unseen = self.unseen(phases)
        if expected is not None:
            highest = min(max(expected, highest), highest + unseen)
        return highest, known_var + unseen * unseen / 9


def _most_above(phases: float) -> float:
    """How far readings may differ by where in a batch they fall: what a window holds beyond whole batches is a part.

    A sensor may average over a part of its window only, of which it does not tell: half of it is looked at too.
    """
    most = 0.0
    for length in (phases, 2 * phases):
        part = (1 / length) % 1.0
        most = max(most, length * min(part, 1 - part))
    return _PEAK * most
