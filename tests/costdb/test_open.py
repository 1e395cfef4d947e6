"""What the user may give as a database, and what is said where it cannot be opened or used."""

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import event

from joulec.costdb import engine as engines
from joulec.costdb import open as opening
from joulec.costdb.engine import sqlite_engine
from joulec.costdb.memory import MemoryStore
from joulec.costdb.open import default_path, open_store
from joulec.costdb.sql import SqlStore
from joulec.costdb.store import CostStoreError


def complaint(url: str | None) -> str:
    """What opening it says: one line that names the database and what to do."""
    with pytest.raises(CostStoreError) as error:
        open_store(url)
    message = str(error.value)
    assert "\n" not in message
    assert ";" in message
    return message


@pytest.mark.parametrize(
    "form", ["{}/costs.db", "sqlite:///{}/costs.db", "~/costs.db", "costs.db", "sqlite:///costs.db"]
)
def test_forms_of_a_sqlite_file(form, tmp_path, monkeypatch, row):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with open_store(form.format(tmp_path)) as store:
        assert store.info().path == tmp_path / "costs.db"
        store.put_many([row(1)])
        url = store.info().url
    with open_store(url) as again:
        assert again.info().rows == 1


def test_memory_is_its_own_store_each_time(row):
    with open_store("memory:") as one, open_store("memory:") as other:
        assert isinstance(one, MemoryStore)
        one.put_many([row(1)])
        assert other.info().rows == 0


def test_by_default_costs_are_kept_in_the_users_data_directory(tmp_path, monkeypatch, row):
    monkeypatch.delenv(opening.URL_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with open_store(None) as store:
        store.put_many([row(1)])
        assert store.info().path == default_path()
    assert default_path().is_relative_to(tmp_path)
    assert default_path().is_file()


def test_the_environment_names_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("JOULEC_COSTS", str(tmp_path / "ours.db"))
    with open_store(None) as store:
        assert store.info().path == tmp_path / "ours.db"
    with open_store(str(tmp_path / "mine.db")) as store:
        assert store.info().path == tmp_path / "mine.db"


@pytest.mark.parametrize("url", ["mysql://me@host/db", "redis:costs", "postgresql+asyncpg://host/db"])
def test_an_unknown_scheme_names_the_forms(url):
    assert "sqlite:///PATH, postgresql://USER@HOST/DATABASE or memory:" in complaint(url)


def test_a_path_that_looks_like_a_scheme_can_be_given_with_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_store("./mysql:costs.db").close()
    assert (tmp_path / "mysql:costs.db").is_file()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///x.db?mode=ro", "sqlite://x.db"])
def test_sqlite_urls_without_a_plain_path_are_refused(url):
    assert "sqlite:///PATH" in complaint(url)


def test_a_folder_is_refused(tmp_path):
    assert f"{tmp_path} is a folder" in complaint(str(tmp_path))


def test_a_missing_folder_is_refused(tmp_path):
    assert f"{tmp_path / 'no'} of the cost database does not exist" in complaint(str(tmp_path / "no" / "costs.db"))


def test_a_default_folder_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv(opening.URL_VARIABLE, raising=False)
    monkeypatch.setattr(opening, "default_path", lambda: tmp_path / "file" / "joulec" / "costs.db")
    assert "cannot make the folder" in complaint(None)


def test_an_unwritable_place_is_refused(tmp_path):
    """A file and a folder that may not be written; root may write anywhere, so it becomes nobody first."""
    code = (
        "import os, sys; from joulec.costdb.open import open_store; from joulec.costdb.store import CostStoreError\n"
        "file, new = sys.argv[1:]\n"
        "os.chdir(os.path.dirname(file)); open_store(file).close()\n"
        "os.chmod(file, 0o444); os.chmod('.', 0o555)\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for path in (file, new):\n"
        "    try: open_store(path)\n"
        "    except CostStoreError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        paths = [f"{name}/costs.db", f"{name}/new.db"]
        done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, encoding="utf-8", check=True)
        Path(name).chmod(0o755)
    messages = done.stdout.splitlines()
    assert [m.partition(" cannot be kept there: ")[0] for m in messages] == [f"the cost database {p}" for p in paths]
    assert all("may not be written; get the permission" in message for message in messages)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    path = tmp_path / "costs.db"
    path.write_text("layer,time_s\n" * 1000)
    assert f"{path} is not a cost database" in complaint(str(path))
    assert path.read_text() == "layer,time_s\n" * 1000


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_database_is_said_to_be_damaged(tmp_path, row, kept):
    path = tmp_path / "costs.db"
    with open_store(str(path)) as store:
        store.put_many(row(i) for i in range(1000))
    os.truncate(path, int(path.stat().st_size * kept))
    assert re.search(r"costs\.db is damaged .*; move the file away", complaint(str(path)))


def test_damage_inside_is_said_when_it_is_met(tmp_path, row):
    path = tmp_path / "costs.db"
    with open_store(str(path)) as store:
        store.put_many(row(i) for i in range(1000))
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 16 * 4096))
    with open_store(str(path)) as store, pytest.raises(CostStoreError, match="is damaged"):
        list(store.rows())


@pytest.mark.parametrize("edit", ["provenance = '{'", "measured_at = 'today'"])
def test_a_row_that_was_edited_by_hand_is_said(tmp_path, row, edit):
    with open_store(str(tmp_path / "costs.db")) as store:
        store.put_many([row(1)])
        with store._engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE joulec_costs SET {edit}")
        assert store.get_many([row(1).key]) == {row(1).key: row(1).outcome}
        with pytest.raises(CostStoreError, match="holds a row that cannot be read"):
            list(store.rows())


def test_a_full_disk_keeps_what_was_there(tmp_path, row):
    path = tmp_path / "costs.db"
    engine = sqlite_engine(path)
    pages = 40

    @event.listens_for(engine, "connect")
    def limit(connection, _):
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with SqlStore(engine, path) as store:
        store.put_many([row(1)])
        with pytest.raises(CostStoreError, match=r"disk is full.*free some space"):
            store.put_many(row(i) for i in range(1000))
        assert [m.key for m in store.rows()] == [row(1).key]


def test_a_database_that_another_process_holds_for_too_long(tmp_path, row, monkeypatch):
    path = tmp_path / "costs.db"
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_S", 0.05)
    with open_store(str(path)) as store:
        store.put_many([row(1)])
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        assert store.get_many([row(1).key]) == {row(1).key: row(1).outcome}
        with pytest.raises(CostStoreError, match="held by another process"):
            store.put_many([row(2)])
        holder.execute("ROLLBACK")
        holder.close()
        store.put_many([row(2)])
        assert store.info().rows == 2


def test_a_dropped_table_is_said(database_url, row):
    with open_store(database_url) as store:
        with store._engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE joulec_costs")
        with pytest.raises(CostStoreError, match="joulec_costs"):
            store.put_many([row(1)])


def test_a_server_that_is_not_there(tmp_path):
    pytest.importorskip("psycopg")
    message = complaint(f"postgresql://joulec:secret@/costs?host={tmp_path}")
    assert "check the URL, and that the server is up" in message
    assert "secret" not in message


def test_a_database_that_is_not_there(postgres_socket):
    assert 'database "none" does not exist' in complaint(f"postgresql://joulec@/none?host={postgres_socket}")


def test_a_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'joulec[postgres]'" in complaint("postgresql://me@host/costs")


def test_a_url_that_cannot_be_read():
    pytest.importorskip("psycopg")
    assert "cannot be read" in complaint("postgresql://host:port/costs")


def test_no_password_is_shown(postgres_url):
    with open_store(postgres_url.replace("joulec@", "joulec:secret@")) as store:
        url = store.info().url
    assert "secret" not in url
    assert url.startswith("postgresql://joulec:***@/")


def test_a_user_who_may_not_create_tables(postgres_url):
    with open_store(postgres_url) as store, store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE joulec_costs, joulec_superseded, joulec_schema")
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
        connection.exec_driver_sql(f"CREATE ROLE guest LOGIN; GRANT USAGE ON SCHEMA {schema} TO guest")
    try:
        assert "permission denied for schema costs_" in complaint(postgres_url.replace("joulec@", "guest@"))
    finally:
        with open_store(postgres_url) as store, store._engine.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY guest; DROP ROLE guest")
