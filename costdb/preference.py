"""Which of two measurements of one key is the better, whoever made them and in whatever order they come."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime

from joulec.costdb.cost import Cost, Measurement

_TRUST = ("estimated", "simulated", "replay", "measured")
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)

Rank = tuple[bool, int, bool, float, int, datetime, str]


def rank(measurement: Measurement) -> Rank:
    """The larger, the better; equal for equal measurements only, so that an order of merging never matters.

    In this order: a cost before a failure; measured before replayed, simulated and estimated times; one with energy;
    the narrower confidence interval of the mean (one sample has none); more samples; the later date. What is still
    equal is told apart by its digest. The protocol, its version included, is part of the key, as device, compiler and
    energy source are: measurements that differ in one of them are never compared.
    """
    outcome, when = measurement.outcome, measured_at(measurement) or _LONG_AGO
    if not isinstance(outcome, Cost):
        return (False, 0, False, 0.0, 0, when, measurement_digest(measurement))
    spread = outcome.spread if outcome.samples > 1 else math.inf
    trust = _TRUST.index(outcome.time_source) if outcome.time_source in _TRUST else -1
    return (True, trust, outcome.energy_j is not None, -spread, outcome.samples, when, measurement_digest(measurement))


def measurement_digest(measurement: Measurement) -> str:
    """SHA-256 over key, outcome and provenance: equal for what is one and the same measurement."""
    outcome = {"kind": type(measurement.outcome).__name__, **vars(measurement.outcome)}
    parts = [measurement.key.id, outcome, dict(measurement.provenance)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def measured_at(measurement: Measurement) -> datetime | None:
    """When it was measured, in UTC: provenance's ``date``; None where that is absent or not ISO 8601."""
    try:
        moment = datetime.fromisoformat(measurement.provenance.get("date", ""))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
