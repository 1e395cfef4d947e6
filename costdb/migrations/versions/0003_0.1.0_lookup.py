"""Ids under which what one search looks up lies together, and an index that holds all a look-up reads.

Ids were the SHA-256 of the whole key. Now they are three digests one after another (`joulec.costdb.cost.CostKey.id`).
A superseded measurement's own digest rests on the id, so it changes too.
"""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003_0.1.0"
down_revision = "0002_0.1.0"

PARTS = (
    (16, ("device", "compiler", "key_energy_source", "protocol")),
    (24, ("operator", "attributes", "epilogue", "shapes")),
    (24, ("layouts", "placement", "algorithm", "parameters", "digest")),
)
COST = ("time_s", "energy_j", "time_source", "energy_source", "spread", "samples")
READ_AT_ONCE = 1000


def upgrade() -> None:
    """Give every row its new id and make the index."""
    for table in ("joulec_costs", "joulec_superseded"):
        op.execute(f"UPDATE {table} SET id = {_id_expression()}")
    _renew_digests()
    op.create_index("ix_joulec_costs_lookup", "joulec_costs", ["id", *COST, "failure_kind"])


def _id_expression() -> str:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        driver = connection.connection.driver_connection
        driver.create_function("joulec_part", -1, _part, deterministic=True)
        return " || ".join(f"joulec_part({length}, {', '.join(columns)})" for length, columns in PARTS)
    nul = "'\\x00'::bytea"
    joined = [(length, f" || {nul} || ".join(f"convert_to({c}, 'UTF8')" for c in columns)) for length, columns in PARTS]
    return " || ".join(f"substr(encode(sha256({text}), 'hex'), 1, {length})" for length, text in joined)


def _part(length: int, *texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:length]


def _renew_digests() -> None:
    connection = op.get_bind()
    names = ("measurement_digest", "id", *COST, "failure_kind", "failure_reason", "provenance")
    columns = [sa.column(name, sa.JSON() if name == "provenance" else None) for name in names]
    table = sa.table("joulec_superseded", *columns)
    rows = connection.execute(sa.select(table)).mappings().all()
    renewed = [{"old": row["measurement_digest"], "new": _measurement_digest(row)} for row in rows]
    change = table.update().where(table.c.measurement_digest == sa.bindparam("old"))
    for begin in range(0, len(renewed), READ_AT_ONCE):
        values = {"measurement_digest": sa.bindparam("new")}
        connection.execute(change.values(values), renewed[begin : begin + READ_AT_ONCE])


def _measurement_digest(row: Any) -> str:
    if row["failure_kind"] is None:
        outcome = {"kind": "Cost", **{name: row[name] for name in COST}}
    else:
        outcome = {"kind": row["failure_kind"], "reason": row["failure_reason"]}
    parts = [row["id"], outcome, row["provenance"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
