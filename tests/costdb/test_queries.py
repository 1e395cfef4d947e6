"""How often the database is asked."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event

from joulec.costdb.open import open_store


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements that any engine sends."""
    sent: list[str] = []

    def note(_connection, _cursor, statement, _parameters, _context, _executemany):
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield sent
    event.remove(Engine, "before_cursor_execute", note)


def test_ten_thousand_keys_take_one_query(database_url, row, statements):
    keys = [row(i).key for i in range(10_000)]
    with open_store(database_url) as store:
        store.put_many(row(i) for i in range(0, 10_000, 5))
        statements.clear()
        found = store.get_many(keys)
        lookups = [s for s in statements if s.startswith("SELECT")]
    assert set(found) == set(keys[::5])
    assert len(lookups) == 1
    assert len(statements) <= len(lookups) + 1  # BEGIN


def test_a_batch_is_put_by_one_statement(database_url, row, statements):
    with open_store(database_url) as store:
        statements.clear()
        store.put_many(row(i) for i in range(300))
    assert [s.split()[0] for s in statements if not s.startswith("BEGIN")] == ["INSERT"]


def plans(store, statements, parameters):
    with store._engine.connect() as connection:
        return [
            [step[-1] for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}", parameters).fetchall()]
            for one in statements
            if one.startswith("SELECT")
        ]


def test_look_ups_read_one_index_and_nothing_else(tmp_path, row, statements):
    with open_store(str(tmp_path / "costs.db")) as store:
        statements.clear()
        store.get_many([row(1).key])
        ((asked, found, *_),) = plans(store, list(statements), ('["x"]',))
    assert asked == "SCAN asked VIRTUAL TABLE INDEX 1:"
    assert found == "SEARCH c USING COVERING INDEX ix_joulec_costs_lookup (id=?)"


@pytest.mark.parametrize("superseded", [False, True])
@pytest.mark.parametrize("column", ["operator", "device"])
def test_pages_of_filtered_rows_need_no_sorting(tmp_path, statements, column, superseded):
    with open_store(str(tmp_path / "costs.db")) as store:
        statements.clear()
        assert list(store.rows(superseded=superseded, **{column: "x"})) == []
        ((step,),) = plans(store, list(statements), ("x", "", 1000, 0))
    table, place = ("joulec_superseded", "measurement_digest") if superseded else ("joulec_costs", "id")
    assert step == f"SEARCH {table} USING INDEX ix_{table}_{column} ({column}=? AND {place}>?)"
