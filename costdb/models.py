"""The table of costs, and rows to and from measurements."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, DateTime, Double, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.preference import measured_at, measurement_digest
from joulec.costdb.store import KEY_FIELDS

LOOKUP_INDEX = "ix_joulec_costs_lookup"
LOOKUP_NAMES = ("time_s", "energy_j", "time_source", "energy_source", "spread", "samples", "failure_kind")
"""Columns that a look-up reads: they stand in an index behind the id, so that only failures are read from the table."""
OUTCOME_NAMES = (*LOOKUP_NAMES, "failure_reason")

DIGEST = String(64).with_variant(String(64, collation="C"), "postgresql")
"""Hexadecimal digits; compared byte by byte, whatever the language of a server's database is."""


class Base(DeclarativeBase):
    """What all tables share; a change here needs a migration."""

    type_annotation_map = {str: Text(), float: Double(), dict[str, str]: JSON(), datetime: DateTime()}  # noqa: RUF012


class _Measured:
    """One measurement: its key field by field, and either a cost or a failure. Seconds, joules, UTC."""

    operator: Mapped[str]
    attributes: Mapped[str]
    epilogue: Mapped[str]
    shapes: Mapped[str]
    layouts: Mapped[str]
    placement: Mapped[str]
    algorithm: Mapped[str]
    parameters: Mapped[str]
    digest: Mapped[str]
    device: Mapped[str]
    compiler: Mapped[str]
    key_energy_source: Mapped[str]
    protocol: Mapped[str]
    time_s: Mapped[float | None]
    energy_j: Mapped[float | None]
    time_source: Mapped[str | None]
    energy_source: Mapped[str | None]
    spread: Mapped[float | None]
    samples: Mapped[int | None]
    failure_kind: Mapped[str | None]
    failure_reason: Mapped[str | None]
    provenance: Mapped[dict[str, str]]
    measured_at: Mapped[datetime | None]


class CostRow(_Measured, Base):
    """The measurement that counts for its key."""

    __tablename__ = "joulec_costs"
    __table_args__ = (
        CheckConstraint("(time_s IS NULL) <> (failure_kind IS NULL)", name="ck_joulec_costs_one_outcome"),
        Index(LOOKUP_INDEX, "id", *LOOKUP_NAMES),
        Index("ix_joulec_costs_operator", "operator", "id"),
        Index("ix_joulec_costs_device", "device", "id"),
    )

    id: Mapped[str] = mapped_column(DIGEST, primary_key=True)


class SupersededRow(_Measured, Base):
    """A measurement than which another one of its key is better."""

    __tablename__ = "joulec_superseded"
    __table_args__ = (
        CheckConstraint("(time_s IS NULL) <> (failure_kind IS NULL)", name="ck_joulec_superseded_one_outcome"),
        Index("ix_joulec_superseded_operator", "operator", "measurement_digest"),
        Index("ix_joulec_superseded_device", "device", "measurement_digest"),
    )

    measurement_digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    id: Mapped[str] = mapped_column(DIGEST, index=True)


def outcome_of(
    time_s: float | None,
    energy_j: float | None,
    time_source: Any,
    energy_source: Any,
    spread: float | None,
    samples: int | None,
    failure_kind: Any,
    failure_reason: str | None,
) -> Cost | Failure:
    """The cost or failure in the values of the columns `OUTCOME_NAMES`; the table's check holds."""
    if failure_kind is not None:
        return Failure(failure_kind, failure_reason or "")
    return Cost(time_s, energy_j, time_source, energy_source, spread, samples)  # type: ignore[arg-type]


def measurement_of(row: Any) -> Measurement:
    """The measurement in a row of either table, with its columns as attributes."""
    key = CostKey(**{name: getattr(row, _COLUMN_OF.get(name, name)) for name in KEY_FIELDS})
    return Measurement(key, outcome_of(*(getattr(row, name) for name in OUTCOME_NAMES)), row.provenance)


def superseded_values_of(measurement: Measurement) -> dict[str, object]:
    """The columns of the `SupersededRow` that keeps a measurement."""
    return values_of(measurement) | {"measurement_digest": measurement_digest(measurement)}


def values_of(measurement: Measurement) -> dict[str, object]:
    """The columns of the `CostRow` that keeps a measurement."""
    outcome = measurement.outcome
    values: dict[str, object] = dict.fromkeys(OUTCOME_NAMES)
    values |= {_COLUMN_OF.get(name, name): getattr(measurement.key, name) for name in KEY_FIELDS}
    if isinstance(outcome, Failure):
        values |= {"failure_kind": outcome.kind, "failure_reason": outcome.reason}
    else:
        values |= {name: getattr(outcome, name) for name in OUTCOME_NAMES if not name.startswith("failure")}
    moment = measured_at(measurement)
    naive_utc = None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)
    return values | {"id": measurement.key.id, "provenance": dict(measurement.provenance), "measured_at": naive_utc}


_COLUMN_OF = {"energy_source": "key_energy_source"}
