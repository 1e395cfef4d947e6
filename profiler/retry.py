"""Trying known failures again, on demand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.store import CostStore


class RetryingStore:
    """A cost store that keeps quiet about failures from before it was made, so that they are measured again.

    What fails again is told, like everything else: nothing is tried twice.

    Args:
        inner: the store.
    """

    def __init__(self, inner: CostStore) -> None:
        self._inner = inner
        self._fresh: set[CostKey] = set()

    def __getattr__(self, name: str) -> Any:
        """All else is the store's."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def get_many(self, keys: Iterable[CostKey]) -> dict[CostKey, Cost | Failure]:
        """Known outcomes, failures only where they were found since."""
        found = self._inner.get_many(keys)
        return {key: out for key, out in found.items() if not isinstance(out, Failure) or key in self._fresh}

    def put_many(self, measurements: Iterable[Measurement]) -> None:
        """Keep outcomes; one that succeeds takes the failure's place."""
        kept = list(measurements)
        self._inner.put_many(kept)
        self._fresh.update(measurement.key for measurement in kept)
