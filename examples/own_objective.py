"""An objective of one's own: what an electricity bill and a deadline make of time and energy.

python examples/own_objective.py
"""

from __future__ import annotations

import numpy as np
from small_model import small_model

import joulec
from joulec.passes.search.objective import Objective

DEADLINE_S = 5e-6


def bill(totals, origin):
    """Cents per call: 40 for a kilowatt-hour, and a million for each second beyond the deadline.

    Args:
        totals: what the graph costs under an assignment of algorithms; fields may be arrays (many assignments at once).
        origin: what the original graph costs under its fastest algorithms.
    """
    late_s = np.maximum(totals.time_s - DEADLINE_S, 0.0)
    return 40.0 * totals.energy_j / 3.6e6 + 1e6 * late_s


def main() -> None:
    """Compile a small model under three objectives and show what each chose."""
    promised = Objective("bill", bill, monotone=True)  # more time or energy never costs less: exact methods apply
    for name, objective in (("time", "time"), ("energy", "energy"), ("bill", promised)):
        with joulec.compile(small_model(), objective=objective, costs="model", measure=False) as model:
            (entry,) = model.manifest.entries
            cost = entry.predicted
            print(
                f"{name}: {cost.time_s * 1e6:.2f} µs, {cost.energy_j * 1e6:.1f} µJ ({cost.energy_source}); "
                f"{len(entry.assignment)} operators"
            )


if __name__ == "__main__":
    main()
