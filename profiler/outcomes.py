"""What a race finds, on its way to the store."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from joulec.costdb.cost import CostKey, Measurement
from joulec.costdb.store import CostStore
from joulec.profiler.candidate import Candidate
from joulec.profiler.entrant import Entrant


class Outcomes:
    """What is found in one race, on its way to the store."""

    def __init__(self, store: CostStore, told: Callable[[Measurement], None]) -> None:
        self._store, self._told = store, told
        self._secured: set[CostKey] = set()
        self.found: list[Measurement] = []

    def keep(self, measurements: Sequence[Measurement]) -> None:
        """Store what is final, and tell."""
        if measurements:
            self._store.put_many(measurements)
        for measurement in measurements:
            self.found.append(measurement)
            self._told(measurement)

    def secure(self, measurements: Sequence[Measurement]) -> None:
        """Store what may become more precise yet, once: if this process were killed now, it would be lost."""
        fresh = [measurement for measurement in measurements if measurement.key not in self._secured]
        if fresh:
            self._store.put_many(fresh)
            self._secured.update(measurement.key for measurement in fresh)


def here() -> dict[str, str]:
    """Host and date: the least that is kept of the circumstances."""
    return {"host": platform.node(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def measurements(
    entrants: Mapping[Candidate, Entrant], provenance: Mapping[str, str], stopped_too: bool = False
) -> list[Measurement]:
    """What is known to the full; ``stopped_too`` adds what was left before."""
    found = []
    for candidate, entrant in entrants.items():
        if entrant.complete:
            found.append(Measurement(candidate.key, entrant.cost(), provenance))
        elif entrant.stopped is not None and stopped_too:
            found.append(Measurement(candidate.key, entrant.cost(), {**provenance, "stopped": str(entrant.stopped)}))
    return found
