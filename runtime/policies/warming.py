"""Whether the power of a configuration that runs on still grows, as its device warms up, and to where."""

from __future__ import annotations

import math

_MEMORY_S = 20.0  # over which readings are forgotten
_CONSTANT_S = 60.0  # a device warms over about so long: of a heat sink and its fan
_LEAST_S = 15.0  # of readings, before a slope is believed
_SURE, _LESS = 3.0, 2.0  # standard deviations of a slope, to be one, and of it that do not count


class Warming:
    """A line through the logarithms of the readings of one configuration, older ones counting less.

    A device that warms up draws more, ever more slowly: where the slope is ``s`` per second, the rest of the way is
    ``s`` times the device's time constant.
    """

    def __init__(self) -> None:
        self._weight = self._squares = 0.0  # sum of the weights, and of their squares
        self._since_s = math.nan
        self._t_s = self._mean_t = self._mean = 0.0
        self._tt = self._tp = self._pp = 0.0  # weighted sums of products of what is away from the means

    def add(self, t_s: float, power: float, readings: int) -> None:
        """The mean of so many readings, in logarithms, that came until ``t_s``."""
        if math.isnan(self._since_s):
            self._since_s = self._t_s = t_s
        kept = math.exp((self._t_s - t_s) / _MEMORY_S)
        self._t_s = t_s
        self._squares = kept * kept * self._squares + readings * readings
        self._tt, self._tp, self._pp = kept * self._tt, kept * self._tp, kept * self._pp
        weight = kept * self._weight + readings
        away_t, away = t_s - self._mean_t, power - self._mean
        share = readings / weight
        self._mean_t += share * away_t
        self._mean += share * away
        self._tt += readings * away_t * (t_s - self._mean_t)
        self._tp += readings * away_t * (power - self._mean)
        self._pp += readings * away * (power - self._mean)
        self._weight = weight

    @property
    def ahead(self) -> float:
        """By how much power will still grow, as a share: what is sure of it; 0 while nothing is."""
        if self._t_s - self._since_s < _LEAST_S or not self._tt:
            return 0.0
        slope = self._tp / self._tt
        scatter = max(self._pp - slope * self._tp, 0.0) / self._weight
        deviation = math.sqrt(scatter * self._squares / self._weight / self._tt)
        return max(slope - _LESS * deviation, 0.0) * _CONSTANT_S if slope > _SURE * deviation else 0.0
