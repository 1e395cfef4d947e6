"""The statements that SQLite and PostgreSQL each have their own words for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Insert, Text, TextClause, any_, func, literal, or_, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute

from joulec.costdb.models import LOOKUP_INDEX, LOOKUP_NAMES, CostRow, SupersededRow


def _outcomes(place: str) -> str:
    """The columns of an outcome. A failure's reason stands in the table alone, where the row is found by its place."""
    return (
        f"SELECT c.id, {', '.join(f'c.{name}' for name in LOOKUP_NAMES)}, CASE WHEN c.failure_kind IS NOT NULL THEN "
        f"(SELECT failed.failure_reason FROM {CostRow.__tablename__} AS failed WHERE failed.{place} = c.{place}) END "
    )


_LOOKUP = {
    # SQLite would take the primary key's index, being unique, and then fetch every row.
    "sqlite": text(
        f"{_outcomes('rowid')} FROM json_each(:ids) AS asked "
        f"CROSS JOIN {CostRow.__tablename__} AS c INDEXED BY {LOOKUP_INDEX} WHERE c.id = asked.value"
    ),
    "postgresql": text(f"{_outcomes('id')} FROM {CostRow.__tablename__} AS c WHERE c.id = ANY(:ids)"),
}


def lookup(dialect: str, ids: Sequence[str]) -> tuple[TextClause, dict[str, object]]:
    """The query, with its parameters, for id and outcome (`OUTCOME_NAMES`) of any number of distinct ids."""
    return _LOOKUP[dialect], {"ids": json.dumps(ids) if dialect == "sqlite" else list(ids)}


def among(dialect: str, ids: Sequence[str], column: InstrumentedAttribute[str] = CostRow.id) -> ColumnElement[bool]:
    """Whether a row's column is one of any number of texts, which travel as one parameter, in one query."""
    if dialect == "sqlite":
        return column.in_(select(func.json_each(json.dumps(ids)).table_valued("value").c.value))
    return column == any_(literal(list(ids), postgresql.ARRAY(Text)))


def insert_new(dialect: str, table: type[CostRow | SupersededRow]) -> Insert:
    """Insert rows; where the primary key is there already, nothing happens."""
    return _insert(dialect, table).on_conflict_do_nothing()


def replace(dialect: str, *, failures_too: bool) -> Insert:
    """Insert, or replace the row of an equal key; unless ``failures_too``, no failure takes the place of a cost."""
    insert = _insert(dialect, CostRow)
    new = insert.excluded
    columns = [column.name for column in CostRow.__table__.columns if column.name != "id"]
    return insert.on_conflict_do_update(
        index_elements=["id"],
        set_={name: new[name] for name in columns},
        where=None if failures_too else or_(new.failure_kind.is_(None), CostRow.failure_kind.is_not(None)),
    )


def _insert(dialect: str, table: Any) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
