"""Taking measurements of others into a SQL database: the better of each key counts, and the other is kept too."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from joulec.costdb.cost import Measurement
from joulec.costdb.models import CostRow, SupersededRow, measurement_of, superseded_values_of, values_of
from joulec.costdb.preference import measurement_digest, rank
from joulec.costdb.statements import among, insert_new, replace
from joulec.costdb.store import Merged


def merge_rows(session: Session, measurements: Sequence[Measurement]) -> Merged:
    """Merge some measurements within the session's transaction.

    Rows are locked in the order of their ids, so that two that merge never wait for each other in a ring.

    Args:
        session: begun as a writer.
        measurements: checked; a few thousand at most.
    """
    connection = session.connection()
    dialect = connection.dialect.name
    arriving: dict[str, list[Measurement]] = {}
    for measurement in sorted(measurements, key=lambda one: one.key.id):
        arriving.setdefault(measurement.key.id, []).append(measurement)
    there = set(session.scalars(select(CostRow.id).where(among(dialect, list(arriving)))))
    firsts = [values_of(group[0]) for key_id, group in arriving.items() if key_id not in there]
    if firsts:
        connection.execute(insert_new(dialect, CostRow), firsts)
    current = {
        row.id: measurement_of(row)
        for row in session.scalars(
            select(CostRow).where(among(dialect, list(arriving))).order_by(CostRow.id).with_for_update()
        )
    }
    superseded = _known_superseded(session, [one for group in arriving.values() for one in group])
    merged, winners, losers = Merged(), list[Measurement](), list[Measurement]()
    for key_id, group in arriving.items():
        best = current[key_id]
        for position, measurement in enumerate(group):
            if position == 0 and key_id not in there and measurement == best:
                merged += Merged(new=1)
            elif measurement == best:
                merged += Merged(same=1)
            elif rank(measurement) > rank(best):
                merged += Merged(better=1)
                losers.append(best)
                best = measurement
            else:
                merged += Merged(same=1) if measurement_digest(measurement) in superseded else Merged(worse=1)
                losers.append(measurement)
        if best != current[key_id]:
            winners.append(best)
    if winners:
        connection.execute(replace(dialect, failures_too=True), [values_of(one) for one in winners])
        digests = [measurement_digest(one) for one in winners]
        column = SupersededRow.measurement_digest
        connection.execute(delete(SupersededRow).where(among(dialect, digests, column)))
    if losers:
        rows = {measurement_digest(one): superseded_values_of(one) for one in losers}
        connection.execute(insert_new(dialect, SupersededRow), [rows[digest] for digest in sorted(rows)])
    return merged


def _known_superseded(session: Session, measurements: Sequence[Measurement]) -> set[str]:
    digests = [measurement_digest(one) for one in measurements]
    dialect = session.get_bind().dialect.name
    column = SupersededRow.measurement_digest
    return set(session.scalars(select(column).where(among(dialect, digests, column))))
