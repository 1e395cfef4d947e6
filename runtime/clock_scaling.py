"""What is expected at other clocks than the highest, of which alone there are predictions: a prior, to be corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from joulec.runtime.policies import Configuration, Prediction, Predictions

CLOCK_SHARE = 0.9
"""Share of a batch's time that goes with the clock; the rest waits for memory and the host."""
DYNAMIC_SHARE = 0.7
"""Share of power that goes with the clock; the rest is idle power and leakage."""
EXPONENT = 2.0
"""Of the clock, in that share: voltage falls with the clock, but not in proportion."""
ERROR = 0.3
"""How far such a prediction may be off."""


def at_clocks(predictions: Predictions, clocks_hz: Sequence[float | None]) -> Predictions:
    """Predictions for every clock, from those without one, which hold at the highest.

    With r = f / f_max: time is multiplied by 0.9 / r + 0.1, power by 0.3 + 0.7 r^2. Configurations that name a clock
    stay as they are.
    """
    known = [clock_hz for clock_hz in clocks_hz if clock_hz is not None]
    if not known:
        return predictions
    entries: dict[Configuration, Prediction] = {}
    for clock_hz in known:
        ratio = clock_hz / max(known)
        slower = CLOCK_SHARE / ratio + 1 - CLOCK_SHARE
        share = 1 - DYNAMIC_SHARE + DYNAMIC_SHARE * ratio**EXPONENT
        for configuration, expected in predictions.entries.items():
            if configuration.clock_hz is None:
                scaled = Prediction(expected.time_s * slower, expected.power_w * share)
                entries[replace(configuration, clock_hz=clock_hz)] = scaled
    given = {one: expected for one, expected in predictions.entries.items() if one.clock_hz is not None}
    return Predictions({**entries, **given}, max(predictions.error, ERROR))
