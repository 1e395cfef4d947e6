"""Algorithm 1 of the second paper as it is printed, to show what it does. For tests alone: see `PaperPolicy`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from joulec.runtime.policies.protocol import Configuration, Decision, State, Telemetry


class PaperLiteralPolicy:
    """The listing line by line. Its readings are never cleared: one above the cap counts against every size after it.

    Args:
        levels: configurations in ascending order of batch size: SB(1:N).
        cap_margin: the paper's alpha.
    """

    name = "paper-literal"

    def __init__(self, levels: Sequence[Configuration], *, cap_margin: float = 0.8) -> None:
        self._levels = list(levels)
        self._margin = cap_margin
        self._min, self._max, self._current = 1, len(self._levels), 1  # line 2
        self._readings: list[float] = []
        self.decision = Decision(self._levels[0], "searching", "start at the smallest batch size")

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        if telemetry.highest_w is None:
            return self.decision
        self._readings.append(telemetry.highest_w)  # line 4
        highest_w = max(self._readings)
        state: State = "searching"
        if self._margin * cap_w <= highest_w <= cap_w:  # line 5
            state = "settled"
        if highest_w < self._margin * cap_w:  # line 7
            self._min = self._current
            self._current = math.ceil((self._min + self._max) / 2)
        if highest_w > cap_w:  # line 11
            if self._current == 1:
                state = "smallest"
            if self._current == self._min:
                self._max, self._min = self._current, 1
            else:
                self._max = self._current
            self._current = math.floor((self._min + self._max) / 2)
        reason = f"highest reading so far: {highest_w:.4g} W"
        self.decision = Decision(self._levels[self._current - 1], state, reason)
        return self.decision
