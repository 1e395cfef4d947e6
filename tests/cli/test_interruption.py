"""What was measured is kept, whatever ends a run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from cli_support import FEW, Command

from joulec.costdb.open import open_store
from joulec.interrupts import ended_by_interrupt


def wait_for_rows(command: Command, running, count):
    """Wait until so many rows are in the database of a run that still goes on."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert running.poll() is None, "it ended before it was interrupted"
        if command.costs.exists():
            with open_store(str(command.costs)) as store:
                if store.info().rows >= count:
                    return
        time.sleep(0.02)
    raise AssertionError(f"no {count} rows in 120 s")


def patience_s():
    """A second, what a busy machine adds, and more where many wait for each of its processors."""
    return 5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid, limit_s=10.0):
    """Whether a process has ended (one that nobody has waited for counts)."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def end(running):
    """Its standard error; it must not outlive the test."""
    if running.poll() is None:
        running.kill()
    return running.communicate()[1]


def test_killed_while_compiling(joulec, model):
    running = joulec.start("compile", model, "-o", "out.joulec", *FEW)
    try:
        wait_for_rows(joulec, running, 3)
        workers = children(running.pid)
        assert workers
        running.send_signal(signal.SIGKILL)
        assert running.wait(10) == -signal.SIGKILL
        assert all(gone(worker) for worker in workers)
    finally:
        end(running)
    kept = joulec.json("db", "info")["rows"]
    assert kept >= 3
    assert not (joulec.folder / "out.joulec").exists()
    report = joulec.json("compile", model, "-o", "out.joulec", *FEW)
    assert report["profiling"]["reused"] == kept
    assert report["profiling"]["measured"] > 0
    assert joulec.json("db", "info")["rows"] == kept + report["profiling"]["measured"]


@pytest.mark.parametrize("command", ["compile", "profile"])
def test_interrupted(joulec, model, command):
    output = ("-o", "out.joulec") if command == "compile" else ()
    running = joulec.start(command, model, *output)
    try:
        wait_for_rows(joulec, running, 1)
        workers = children(running.pid)
        begun = time.monotonic()
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert time.monotonic() - begun < patience_s()
        assert workers
        assert all(gone(worker) for worker in workers)
    finally:
        error = end(running)
    assert error.splitlines()[-1] == "joulec: error: interrupted; what was measured is kept"
    assert "Traceback" not in error
    assert {path.name for path in joulec.folder.iterdir()} <= {
        "costs.db",
        "costs.db-wal",
        "costs.db-shm",
        "costs.db.locks",
    }
    assert joulec.json("db", "info")["rows"] >= 1


def test_a_process_that_goes_on_takes_interrupts_as_before():
    with ended_by_interrupt():
        within = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(within)
    assert within != -1
    assert signal.set_wakeup_fd(-1) == -1
