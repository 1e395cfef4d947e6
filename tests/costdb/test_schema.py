"""Creating, upgrading and refusing databases."""

import dataclasses
import hashlib
import json
import logging
import math
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, insert, inspect, make_url, text

from joulec.costdb import schema
from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.engine import postgres_engine, sqlite_engine
from joulec.costdb.models import Base, CostRow, SupersededRow, values_of
from joulec.costdb.open import open_store
from joulec.costdb.schema import MIGRATIONS, VERSION_TABLE, prepare
from joulec.costdb.store import CostStoreError, Merged

NEXT = '''"""Tell hosts apart."""
import sqlalchemy as sa
from alembic import op
revision = "0005_9.1.0"
down_revision = "0004_0.1.0"
def upgrade():
    op.add_column("joulec_costs", sa.Column("host", sa.Text(), nullable=True))
    op.create_index("ix_joulec_costs_host", "joulec_costs", ["host"])
'''


@pytest.fixture
def next_migrations(tmp_path: Path) -> Path:
    """The migrations of a later joulec."""
    folder = tmp_path / "100% later"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "0005_9.1.0_host.py").write_text(NEXT)
    return folder


def engine_of(url: str) -> Engine:
    return postgres_engine(make_url(url)) if url.startswith("postgresql") else sqlite_engine(Path(url))


def prepare_with(migrations: Path, url: str) -> str:
    engine = engine_of(url)
    try:
        return prepare(engine, url, None if url.startswith("postgresql") else Path(url), migrations).schema_version
    finally:
        engine.dispose()


def test_the_migrations_make_what_the_models_say(database_url):
    with open_store(database_url) as store:
        assert store.info().schema_version == "0004"
    engine = engine_of(database_url)
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
        checks = inspect(connection).get_check_constraints("joulec_costs")
        assert [check["name"] for check in checks] == ["ck_joulec_costs_one_outcome"]
    engine.dispose()


def test_every_revision_names_its_number_and_a_joulec():
    revisions = [script.revision for script in ScriptDirectory(MIGRATIONS).walk_revisions()][::-1]
    assert [revision.partition("_")[0] for revision in revisions] == [f"{n + 1:04}" for n in range(len(revisions))]
    assert all(revision.partition("_")[2].replace(".", "").isdigit() for revision in revisions)


def test_the_table_refuses_a_row_that_is_both_or_neither(database_url, row):
    with open_store(database_url) as store:
        store.put_many([row(1)])
        with pytest.raises(Exception, match="one_outcome"), store._engine.begin() as connection:
            connection.execute(text("UPDATE joulec_costs SET failure_kind = 'run'"))


def test_an_older_database_is_upgraded_in_place(database_url, row, next_migrations, caplog):
    with open_store(database_url) as store:
        store.put_many(row(i) for i in range(50))
    with caplog.at_level(logging.WARNING):
        assert prepare_with(next_migrations, database_url) == "0005"
    engine = engine_of(database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*), count(host) FROM joulec_costs")).one() == (50, 0)
    engine.dispose()
    assert prepare_with(next_migrations, database_url) == "0005"
    if not database_url.startswith("postgresql"):
        assert "costs.db.schema-0004.bak" in caplog.text


def test_the_copy_beside_holds_what_was_there_before(tmp_path, row, next_migrations):
    path = tmp_path / "costs.db"
    rows = {row(i).key: row(i) for i in range(50)}
    taken = path.with_name("costs.db.schema-0004.bak")
    taken.write_text("somebody else's")
    with open_store(str(path)) as store:
        store.put_many(rows.values())
        # The rows are still in the write-ahead log, where copying the file alone would miss them.
        assert Path(f"{path}-wal").stat().st_size > 0
        prepare_with(next_migrations, str(path))
    assert taken.read_text() == "somebody else's"
    with open_store(str(path.with_name("costs.db.schema-0004.2.bak"))) as copy:
        assert {m.key: m for m in copy.rows()} == rows


def test_a_later_database_is_refused_with_the_version_to_install(database_url, row, next_migrations):
    with open_store(database_url) as store:
        store.put_many([row(1)])
    prepare_with(next_migrations, database_url)
    with pytest.raises(CostStoreError, match=r"later joulec \(schema 0005\).*'joulec>=9\.1\.0'"):
        open_store(database_url)
    engine = engine_of(database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM joulec_costs")).scalar() == 1
    engine.dispose()


def test_an_upgrade_that_fails_changes_nothing(database_url, row, next_migrations):
    with open_store(database_url) as store:
        store.put_many([row(1)])
    broken = next_migrations / "versions" / "0005_9.1.0_host.py"
    broken.write_text(NEXT + '    op.execute("INSERT INTO nowhere VALUES (1)")\n')
    with pytest.raises(CostStoreError, match="nowhere"):
        prepare_with(next_migrations, database_url)
    with open_store(database_url) as store:
        assert [m.key for m in store.rows()] == [row(1).key]
        store.put_many([row(2)])


def test_another_programs_sqlite_file_is_left_alone(tmp_path):
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(CostStoreError, match=r"photos\.db is another program's"):
        open_store(str(path))
    assert path.read_bytes() == before


def test_other_tables_on_a_server_stay(postgres_url, row):
    engine = engine_of(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('another program')"))
    with open_store(postgres_url) as store:
        store.put_many([row(1)])
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [
            "another program"
        ]
    engine.dispose()


def test_missing_migrations_ask_for_a_new_installation(tmp_path):
    (tmp_path / "empty" / "versions").mkdir(parents=True)
    with pytest.raises(CostStoreError, match="reinstall"):
        prepare_with(tmp_path / "empty", str(tmp_path / "costs.db"))
    assert schema.MIGRATIONS.is_dir()


def old_id(key: CostKey) -> str:
    """What a row's id was up to schema 0002."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(key), sort_keys=True).encode()).hexdigest()


def old_values(measurement: Measurement) -> dict[str, object]:
    return values_of(measurement) | {"id": old_id(measurement.key)}


def old_superseded_values(measurement: Measurement) -> dict[str, object]:
    outcome = {"kind": type(measurement.outcome).__name__, **vars(measurement.outcome)}
    parts = [old_id(measurement.key), outcome, dict(measurement.provenance)]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return old_values(measurement) | {"measurement_digest": digest}


def make_old(database_url: str, folder: Path, number: int, *rows: tuple[type[Base], list[dict[str, object]]]) -> None:
    """A database of an earlier schema with rows in its tables."""
    later = [f"{n:04}*" for n in range(number + 1, 100)]
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__", *later))
    assert prepare_with(folder, database_url) == f"{number:04}"
    engine = engine_of(database_url)
    with engine.begin() as connection:
        for table, values in rows:
            connection.execute(insert(table), values)
    engine.dispose()


def test_the_first_schema_is_upgraded_when_it_is_opened(database_url, row, tmp_path):
    make_old(database_url, tmp_path / "first", 1, (CostRow, [old_values(row(i)) for i in range(3)]))
    with open_store(database_url) as store:
        assert (store.prepared.before, store.prepared.schema_version) == ("0001", "0004")
        assert {m.key: m for m in store.rows()} == {row(i).key: row(i) for i in range(3)}
        assert store.merge([row(1, Failure("run", "x"))]) == Merged(worse=1)
        assert (store.prepared.backup is None) == database_url.startswith("postgresql")


def test_rows_of_the_second_schema_are_found_under_their_new_ids(database_url, row, tmp_path):
    """Texts with quotes, line ends and letters of all kinds: the ids come from SQL or from Python."""
    strange = row(3, operator='"é\\ 電\n\t\U0001f600', device="")
    kept = [row(0), row(1, Failure("crash", "signal 11")), strange]
    worse = [row(0, Cost(1.0, None, "measured", None, math.inf, 1)), row(0, Failure("run", "é"))]
    worse.append(row(0, Cost(2.0, 3.0, "measured", "rapl", 0.25, 7)))
    rows = (CostRow, [old_values(m) for m in kept]), (SupersededRow, [old_superseded_values(m) for m in worse])
    make_old(database_url, tmp_path / "second", 2, *rows)
    with open_store(database_url) as store:
        assert store.get_many([m.key for m in kept]) == {m.key: m.outcome for m in kept}
        assert store.merge([*kept, *worse]) == Merged(same=6)
        assert sorted(map(str, store.rows(superseded=True))) == sorted(map(str, worse))


def test_of_several_processes_that_open_an_old_database_one_upgrades_it(database_url, row, tmp_path):
    make_old(database_url, tmp_path / "first", 1, (CostRow, [old_values(row(i)) for i in range(2000)]))
    code = (
        "import sys; from joulec.costdb.open import open_store; print('ready', flush=True); sys.stdin.readline()\n"
        "with open_store(sys.argv[1]) as store: print(store.prepared.before, store.prepared.backup, store.info().rows)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code, database_url], **pipes) for _ in range(4)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = sorted(process.communicate(timeout=60)[0].split() for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    copies = list(tmp_path.glob("*.bak"))
    one = "None" if database_url.startswith("postgresql") else str(tmp_path / "costs.db.schema-0001.bak")
    assert said == [["0001", one, "2000"], *[["0004", "None", "2000"]] * 3]
    assert len(copies) == (not database_url.startswith("postgresql"))
