"""True power over time: spans of like batches, whose energy up to any moment is known in closed form."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from joulec.runtime.simulator.device import Phase

_Floats = npt.NDArray[np.float64]


class PowerHistory:
    """Spans in order of time; before the first, the device idles.

    Args:
        idle_w: watts before the start.
    """

    def __init__(self, idle_w: float) -> None:
        self._idle_w = idle_w
        self._starts: list[float] = []
        self._spans: list[tuple[float, ...]] = []  # start, joules before, batch_s, batch_j, then phases flat
        self.end_s = 0.0
        self._joules = 0.0

    def add(self, batch_s: float, count: int, phases: Sequence[Phase]) -> None:
        """``count`` batches of ``batch_s`` from the end on; phases (three at most) are relative: seconds are scaled."""
        whole_s = sum(seconds for seconds, _ in phases)
        scale = batch_s / whole_s
        flat: list[float] = []
        batch_j = 0.0
        for seconds, watts in phases:
            flat += (seconds * scale, watts)
            batch_j += seconds * scale * watts
        while len(flat) < 6:
            flat += (0.0, 0.0)
        self._starts.append(self.end_s)
        self._spans.append((self.end_s, self._joules, batch_s, batch_j, *flat))
        self.end_s += batch_s * count
        self._joules += batch_j * count

    def energy_j(self, t_s: float) -> float:
        """Joules from the start to a moment that is not after the end; negative before the start."""
        if t_s <= 0 or not self._starts:
            return t_s * self._idle_w
        start, joules, batch_s, batch_j, d1, w1, d2, w2, _, w3 = self._spans[bisect_right(self._starts, t_s) - 1]
        periods = (t_s - start) // batch_s
        left = t_s - start - periods * batch_s
        joules += periods * batch_j
        if left <= d1:
            return joules + left * w1
        joules, left = joules + d1 * w1, left - d1
        return joules + left * w2 if left <= d2 else joules + d2 * w2 + (left - d2) * w3

    def energies_j(self, t_s: _Floats) -> _Floats:
        """The same for many moments."""
        spans = np.array(self._spans).T
        index = np.maximum(np.searchsorted(spans[0], t_s, side="right") - 1, 0)
        start, joules, batch_s, batch_j, d1, w1, d2, w2, _, w3 = spans[:, index]
        periods = np.floor((t_s - start) / batch_s)
        left = t_s - start - periods * batch_s
        first = np.minimum(left, d1)
        second = np.minimum(left - first, d2)
        inside = joules + periods * batch_j + first * w1 + second * w2 + (left - first - second) * w3
        return np.where(t_s <= 0, t_s * self._idle_w, inside)

    def window_means_w(self, moments_s: _Floats, window_s: float) -> _Floats:
        """Mean watts over the window that ends at each moment."""
        return (self.energies_j(moments_s) - self.energies_j(moments_s - window_s)) / window_s
