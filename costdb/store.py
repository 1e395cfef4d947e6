"""The store's contract, and the rules that every store applies alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement

KEY_FIELDS = tuple(field.name for field in fields(CostKey))


class CostStoreError(RuntimeError):
    """A cost database that cannot be opened, read or written. The message says what is wrong, where, what to do."""


class ServerLostError(CostStoreError):
    """A server that answers no more, and was waited for in vain. What was to be put lies in the journal."""


class FileLostError(CostStoreError):
    """A SQLite file that was deleted, replaced or damaged in use. What was put lies in the journal, all of it."""


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        url: how to open it again, without any password.
        path: the SQLite file, None for other stores.
        schema_version: the schema's number, e.g. ``0001``; empty for a store in memory.
        rows: measurements, failures included.
        failures: how many of them are failures.
        by_source: costs per source. A cost counts under its time source and, where that is another, its energy source.
        devices: rows per device fingerprint.
        last_measured_at: when the newest dated row was measured (UTC), None where there is none.
        superseded: measurements that merging found worse than the one of the same key among the rows.
    """

    url: str
    path: Path | None
    schema_version: str
    rows: int
    failures: int
    by_source: Mapping[str, int]
    devices: Mapping[str, int]
    last_measured_at: datetime | None
    superseded: int = 0


@dataclass(frozen=True)
class Merged:
    """What came of measurements that were merged, counted by measurement.

    Attributes:
        new: of keys that the store had nothing for.
        better: took the place of a worse one, which is kept as superseded.
        worse: kept as superseded.
        same: already there.
    """

    new: int = 0
    better: int = 0
    worse: int = 0
    same: int = 0

    def __add__(self, other: Merged) -> Merged:
        """Both together."""
        return Merged(
            self.new + other.new, self.better + other.better, self.worse + other.worse, self.same + other.same
        )


class CostStore(ABC):
    """Keeps measurements under their keys: what is measured once need not be measured again (first paper, section 3).

    Every store keeps this contract, and one test suite runs over all of them:

    - **Identity.** `CostKey.id` identifies a row; equal keys share one row.
    - **Consistency.** What ``put_many`` has returned from is seen by every later ``get_many``, ``rows`` and ``info``,
      from any process that has the same store open. A ``put_many`` is seen as a whole or not at all.
    - **Precedence.** Of ``put_many`` the last writer of a key wins, but a `Failure` never replaces a `Cost`. Of
      ``merge`` the better measurement wins (`joulec.costdb.preference`), and the other is kept as superseded.
    - **Durability.** What ``put_many`` has returned from outlives the process, even one that is killed. A store in
      memory is the exception: it lives as long as its process.
    - **Concurrency.** Threads may share one store. Processes may use one database at once, each opening its own store:
      one that was opened before a fork must not be used after it in the child.
    - **Text.** Keys must be storable text (no NUL, no lone surrogates). In a failure's reason and in provenance, which
      come from crashed programs, such characters are replaced.
    - **Locks.** At most one store at a time holds the lock of a name, over all stores of one database. The operating
      system or the server releases the locks of a process that dies.
    - **Errors.** Whatever goes wrong in the database is raised as `CostStoreError`, and nothing of the call is kept in
      it. A server that is restarted is waited for. What ``put_many`` could not keep goes to a journal where the store
      has one, which the message names.
    """

    @property
    def lost(self) -> str | None:
        """What became of measurements, and what to do, where the database was lost; None as long as it takes them."""
        return None

    @abstractmethod
    def get_many(self, keys: Iterable[CostKey]) -> dict[CostKey, Cost | Failure]:
        """Look up all keys at once, in a few queries whatever their number.

        Args:
            keys: what is asked for; repeated keys are looked up once.

        Returns:
            The outcome of each key that is known; unknown keys are absent.

        Raises:
            CostStoreError: the database cannot be read.
        """

    @abstractmethod
    def put_many(self, measurements: Iterable[Measurement]) -> None:
        """Keep measurements, all or none; putting the same ones again changes nothing.

        Args:
            measurements: for an equal key the last one wins, but a failure never replaces a cost.

        Raises:
            CostStoreError: the database cannot be written.
            ValueError: a key that is no storable text, or a cost that is no number; nothing is kept.
        """

    @abstractmethod
    def merge(self, measurements: Iterable[Measurement]) -> Merged:
        """Take in measurements that others made, piece by piece: the better of each key counts, none is lost.

        The outcome is the same in whatever order measurements come, and however often.

        Raises:
            CostStoreError: the database cannot be written; what was merged before stays.
            ValueError: as of `put_many`.
        """

    @abstractmethod
    def try_lock(self, name: str) -> bool:
        """Take the lock of a name if it is free, without waiting.

        Returns:
            Whether it is this store's from now on; False where any store, this one too, holds it.

        Raises:
            CostStoreError: the database cannot be reached.
        """

    @abstractmethod
    def unlock(self, name: str) -> None:
        """Give the lock of a name back; nothing happens where this store does not hold it. Closing gives all back."""

    @abstractmethod
    def info(self) -> StoreInfo:
        """Count what is there.

        Raises:
            CostStoreError: the database cannot be read.
        """

    @abstractmethod
    def rows(
        self,
        operator: str | None = None,
        device: str | None = None,
        source: str | None = None,
        *,
        superseded: bool = False,
    ) -> Iterator[Measurement]:
        """Go through the measurements in the order of their key ids, reading them piece by piece.

        The store may be written meanwhile: such rows may or may not be seen, all others are seen once.

        Args:
            operator: only this operator.
            device: only this device fingerprint.
            source: only costs whose time source or energy source is this one (so no failures).
            superseded: those that merging found worse, in any order, instead of those that count.

        Raises:
            CostStoreError: the database cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the database; closing twice is fine, any other use afterwards raises `CostStoreError`."""

    def __enter__(self) -> Self:
        """Return the store; leaving the context closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()


def prevails(new: Cost | Failure, old: Cost | Failure) -> bool:
    """Whether the new outcome of a key replaces the old one."""
    return isinstance(new, Cost) or isinstance(old, Failure)


def settled(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    """The measurements checked and by key id, in the order of the ids, one for each key.

    Raises:
        ValueError: see `CostStore.put_many`.
    """
    kept: dict[str, Measurement] = {}
    for measurement in map(checked, measurements):
        key_id = measurement.key.id
        if key_id not in kept or prevails(measurement.outcome, kept[key_id].outcome):
            kept[key_id] = measurement
    return dict(sorted(kept.items()))


def sources(outcome: Cost | Failure) -> frozenset[str]:
    """The sources under which an outcome counts; none for a failure."""
    if isinstance(outcome, Failure):
        return frozenset()
    return frozenset(s for s in (outcome.time_source, outcome.energy_source) if s is not None)


def checked(measurement: Measurement) -> Measurement:
    """The measurement with storable text and plain numbers.

    Raises:
        ValueError: see `CostStore.put_many`.
    """
    for name in KEY_FIELDS:
        if _storable(text := getattr(measurement.key, name)) != text:
            raise ValueError(
                f"cost key of {measurement.key.operator!r}: {name} holds NUL or a lone surrogate: {text!r}"
            )
    outcome = measurement.outcome
    if isinstance(outcome, Cost):
        outcome = _checked_cost(measurement.key, outcome)
    else:
        outcome = replace(outcome, reason=_storable(outcome.reason))
    provenance = {_storable(name): _storable(text) for name, text in measurement.provenance.items()}
    return Measurement(measurement.key, outcome, provenance)


def _checked_cost(key: CostKey, cost: Cost) -> Cost:
    energy_j = None if cost.energy_j is None else float(cost.energy_j)
    checked = replace(
        cost, time_s=float(cost.time_s), energy_j=energy_j, spread=float(cost.spread), samples=int(cost.samples)
    )
    if not (math.isfinite(checked.time_s) and checked.time_s >= 0):
        raise ValueError(f"cost of {key.operator!r} under {key.algorithm!r}: time_s is {cost.time_s}")
    if energy_j is not None and not math.isfinite(energy_j):
        raise ValueError(f"cost of {key.operator!r} under {key.algorithm!r}: energy_j is {cost.energy_j}")
    if math.isnan(checked.spread):
        raise ValueError(f"cost of {key.operator!r} under {key.algorithm!r}: spread is {cost.spread}")
    return checked


def _storable(text: str) -> str:
    """The text without what databases refuse: NUL and lone surrogates become question marks."""
    return text.replace("\0", "?").encode("utf-8", "replace").decode("utf-8")
