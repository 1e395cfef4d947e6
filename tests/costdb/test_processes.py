"""Several processes on one database, and processes that are killed."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulec.costdb.open import open_store
from joulec.costdb.store import CostStoreError

WRITER = Path(__file__).with_name("writer.py")
EACH = 60
BATCH = 4


@contextlib.contextmanager
def writers(url: str, count: int, last: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have loaded joulec and now begin, all at the same time, by opening the database."""
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([sys.executable, WRITER, url, str(n), "0", str(last), str(BATCH)], **pipe)
        for n in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def check_writers(url: str, count: int) -> None:
    """Let so many processes create and write one database, and look for all that they put."""
    with writers(url, count, EACH) as processes:
        for process in processes:
            _, complaints = process.communicate(timeout=120)
            assert process.returncode == 0, complaints
    with open_store(url) as store:
        kept = {(m.key.operator, int(m.key.attributes)): m.outcome.time_s for m in store.rows()}
    shared = {i: kept.pop(("shared", i)) for i in range(EACH)}
    assert kept == {(f"own{n}", i): 1.0 + i for n in range(count) for i in range(EACH)}
    assert set(shared.values()) <= {1.0 + n for n in range(count)}
    # A batch is one transaction: one writer's figures stand in all of its rows.
    assert all(len({shared[i] for i in range(start, start + BATCH)}) == 1 for start in range(0, EACH, BATCH))


def test_eight_processes_create_and_write_one_sqlite_file(tmp_path):
    check_writers(str(tmp_path / "costs.db"), 8)


def test_eight_processes_create_and_write_one_server(postgres_url):
    check_writers(postgres_url, 8)


def test_opening_waits_for_a_process_that_is_just_creating_the_file(tmp_path):
    path = tmp_path / "costs.db"
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    released = threading.Event()

    def release():
        released.set()
        holder.execute("ROLLBACK")

    timer = threading.Timer(0.3, release)
    timer.start()
    with open_store(str(path)) as store:
        assert released.is_set(), "the file was opened while another held it"
        assert store.info().rows == 0
    timer.join()
    holder.close()


def test_writers_of_the_same_rows_in_opposite_orders_do_not_block_each_other(postgres_url, row):
    rows = [row(i) for i in range(400)]
    failed: list[CostStoreError] = []

    def write(batch):
        try:
            with open_store(postgres_url) as store:
                for _ in range(8):
                    store.put_many(batch)
        except CostStoreError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(batch,)) for batch in (rows, rows[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize("batches", [1, 25])
def test_a_killed_writer_loses_nothing_that_it_had_put(database_url, batches):
    with writers(database_url, 1, -1) as (process,):
        put = 0
        for _ in range(batches):
            put = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        assert process.wait() == -signal.SIGKILL
        put = int(rest[-1]) if rest else put
    with open_store(database_url) as store:
        kept = {int(m.key.attributes) for m in store.rows(operator="own0")}
        assert set(range(put)) <= kept
        assert len(kept) % BATCH == 0, "half of a batch was kept"
        assert {int(m.key.attributes) for m in store.rows(operator="shared")} == kept


def test_a_writer_killed_within_a_transaction_leaves_the_database_free(tmp_path, row):
    path = tmp_path / "costs.db"
    with open_store(str(path)) as store:
        store.put_many([row(1)])
    hold = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');"
    hold += "c.execute('DELETE FROM joulec_costs'); print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    process.kill()
    process.communicate()
    with open_store(str(path)) as store:
        store.put_many([row(2)])
        assert {m.key for m in store.rows()} == {row(1).key, row(2).key}


def test_locks_of_a_killed_process_are_free(database_url):
    code = (
        "import sys; from joulec.costdb.open import open_store; store = open_store(sys.argv[1])\n"
        "assert store.try_lock('device'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with open_store(database_url) as store:
        assert not store.try_lock("device")
        holder.kill()
        holder.communicate()
        deadline_s = time.monotonic() + 10
        while not store.try_lock("device"):
            assert time.monotonic() < deadline_s, "the lock outlives its process"
            time.sleep(0.01)
