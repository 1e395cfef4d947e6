"""Servers that restart or die, and files that are deleted, while they are in use."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import make_url

from joulec.costdb.engine import postgres_engine, sqlite_engine
from joulec.costdb.exchange import read
from joulec.costdb.journal import Journal
from joulec.costdb.open import open_store
from joulec.costdb.retry import Retry
from joulec.costdb.sql import SqlStore
from joulec.costdb.store import CostStoreError, Merged


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_restart_in_the_middle_is_survived(own_server, row, how):
    with open_store(f"postgresql://joulec@/postgres?host={own_server.root}") as store:
        store.put_many(row(i) for i in range(5))
        assert store.try_lock("device")
        own_server.stop(how)
        starting = threading.Thread(target=lambda: (time.sleep(0.5), own_server.start()))
        starting.start()
        store.put_many(row(i) for i in range(5, 10))
        starting.join()
        assert set(store.get_many([row(i).key for i in range(10)])) == {row(i).key for i in range(10)}
        assert store.try_lock("another")
        assert not store.try_lock("device"), "the lock was not taken again"
        with open_store(f"postgresql://joulec@/postgres?host={own_server.root}") as other:
            assert not other.try_lock("device")
        assert not store.journal.path.exists()


def test_a_dead_server_leaves_a_journal_that_is_merged_later(own_server, row, tmp_path):
    url = f"postgresql://joulec:secret@/postgres?host={own_server.root}"
    now_s = [0.0]

    def sleep(seconds):
        now_s[0] += seconds

    journal = Journal(tmp_path / "journals" / "one.jsonl", "postgresql://joulec:***@/postgres")
    retry = Retry(patience_s=30.0, clock=lambda: now_s[0], sleep=sleep)
    with SqlStore(postgres_engine(make_url(url)), retry=retry, journal=journal) as store:
        store.put_many([row(1)])
        own_server.stop()
        with pytest.raises(CostStoreError) as error:
            store.put_many([row(2), row(3)])
        assert now_s[0] == pytest.approx(30.0)
    message = str(error.value)
    assert "check the URL, and that the server is up" in message
    assert f"joulec db merge {journal.path} --costs" in message
    assert "secret" not in message
    assert "\n" not in message
    assert {m.key: m for m in read(journal.path)} == {row(2).key: row(2), row(3).key: row(3)}
    own_server.start()
    with open_store(url) as store:
        with journal.taken() as measurements:
            assert store.merge(measurements) == Merged(new=2)
        assert store.info().rows == 3
    assert not journal.path.exists()


def deleted(path):
    path.unlink()


def replaced(path):
    other = path.with_name("other.db")
    open_store(str(other)).close()
    other.replace(path)


def overwritten(path):
    path.write_bytes(b"garbage" * 5000)


def emptied(path):
    path.write_bytes(b"")


USES = {
    "put": lambda store, row: store.put_many([row(2)]),
    "look up": lambda store, row: store.get_many([row(1).key]),
    "lock": lambda store, row: store.try_lock("device"),
    "count": lambda store, row: store.info(),
}


@pytest.mark.parametrize("how", [deleted, replaced, overwritten, emptied])
@pytest.mark.parametrize("use", USES)
def test_a_file_that_is_lost_in_mid_run_is_said_and_nothing_of_the_run_is_lost(tmp_path, row, how, use):
    path = tmp_path / "costs.db"
    with open_store(str(path)) as store:
        store.put_many([row(0)])
        store.put_many([row(1)])
        how(path)
        with pytest.raises(CostStoreError, match=r"while it was in use.*measurements are kept in.*joulec db merge"):
            USES[use](store, row)
        kept = {m.key for m in read(store.journal.path)}
        assert kept == {row(i).key for i in range(3 if use == "put" else 2)}
        with pytest.raises(CostStoreError, match="while it was in use"):
            store.get_many([row(1).key])
        assert {m.key for m in read(store.journal.path)} == kept
    assert path.exists() == (how is not deleted)


def test_another_store_of_the_file_keeps_its_locks(tmp_path, row):
    """Closing a descriptor of a SQLite file drops all locks that the process has on it."""
    path = tmp_path / "costs.db"
    with open_store(str(path)) as store:
        store.put_many([row(1)])
        open_store(str(path)).close()
        code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM joulec_costs')"
        subprocess.run([sys.executable, "-c", f"{code}; c.close()", path], check=True)
        assert path.with_name("costs.db-wal").exists(), "another process took the file for unused"
        store.put_many([row(2)])
    with open_store(str(path)) as store:
        assert store.info().rows == 2


def test_a_journal_that_cannot_be_written_is_said_too(tmp_path, row):
    (tmp_path / "file").write_text("")
    store = SqlStore(sqlite_engine(tmp_path / "a.db"), tmp_path / "a.db", journal=Journal(tmp_path / "file" / "j", "a"))
    with store:
        (tmp_path / "a.db").unlink()
        with pytest.raises(CostStoreError, match=r"nor can the journal .* be written"):
            store.put_many([row(1)])
