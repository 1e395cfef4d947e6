"""``joulec profile`` and ``compile`` on a PostgreSQL server that they share, that restarts, or that dies in mid-run."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_support import FEW, LIMIT_S, Command

from joulec.costdb.open import open_store


@dataclass(frozen=True)
class ServedCommand(Command):
    """The command with a server's database, its journals in a folder of its own, and little patience."""

    url: str

    def environment(self) -> dict[str, str]:
        own = {"JOULEC_COSTS": self.url, "XDG_DATA_HOME": str(self.folder / "data"), "JOULEC_COSTS_PATIENCE_S": "3"}
        return {**super().environment(), **own}

    def journals(self) -> list[Path]:
        return list((self.folder / "data").rglob("*.jsonl"))


@pytest.fixture
def served(own_server, tmp_path):
    return ServedCommand(tmp_path, tmp_path / "unused.db", own_server.url)


def wait_for_rows(served, running, count):
    """Wait until so many rows are on the server while the run goes on."""
    deadline = time.monotonic() + 120
    with open_store(served.url) as store:
        while store.info().rows < count:
            assert running.poll() is None, running.communicate()[1]
            assert time.monotonic() < deadline, f"no {count} rows in 120 s"
            time.sleep(0.02)


def rows_of(url):
    with open_store(url) as store:
        return list(store.rows()), list(store.rows(superseded=True))


def finish(running):
    try:
        out, err = running.communicate(timeout=LIMIT_S)
    finally:
        running.kill()
    return running.returncode, out, err


def test_a_restart_while_profiling_is_survived(served, own_server, model):
    running = served.start("profile", model, *FEW, "--json")
    wait_for_rows(served, running, 2)
    own_server.stop(signal.SIGINT)
    time.sleep(0.5)
    own_server.start()
    code, out, err = finish(running)
    assert code == 0, err
    of = json.loads(out)["profiling"]
    kept, superseded = rows_of(served.url)
    assert len(kept) == of["measured"] + of["failed"] > 2
    assert of["unknown"] == 0
    assert superseded == []
    assert served.journals() == []


def test_profiling_goes_on_into_a_journal_when_the_server_dies(served, own_server, model):
    running = served.start("profile", model, *FEW, "--json")
    wait_for_rows(served, running, 2)
    own_server.stop()
    code, out, err = finish(running)
    assert code == 2, err
    assert "Traceback" not in err
    (journal,) = served.journals()
    warning = next(line for line in err.splitlines() if line.startswith("warning:"))
    assert f"joulec db merge {journal} --costs " in warning
    last = err.splitlines()[-1]
    assert last.startswith("joulec: error: cost database postgresql://joulec@/postgres?host=")
    assert f"measurements are kept in {journal}" in last
    of = json.loads(out)["profiling"]
    assert of["journal"] == str(journal)
    assert of["unknown"] == 0
    journaled = journal.read_text().splitlines()
    refused = served("db", "info")
    assert refused.returncode == 2
    assert "check the URL, and that the server is up" in refused.stderr.splitlines()[-1]
    own_server.start()
    before, _ = rows_of(served.url)
    assert len(before) + len(journaled) >= of["measured"] + of["failed"]  # the last one may be in both
    merged = served.json("db", "merge", journal)
    assert merged["new"] + merged["same"] == len(journaled)
    assert not journal.exists()
    kept, superseded = rows_of(served.url)
    assert len(kept) == of["measured"] + of["failed"]
    assert superseded == []
    again = served.json("profile", model, *FEW)["profiling"]
    assert (again["measured"], again["failed"], again["reused"]) == (0, 0, of["measured"])


def test_compiling_goes_on_when_the_server_dies(served, own_server, model):
    running = served.start("compile", model, "-o", "out.joulec", *FEW, "--json")
    wait_for_rows(served, running, 1)
    own_server.stop()
    code, out, err = finish(running)
    assert code == 0, err
    report = json.loads(out)
    (journal,) = served.journals()
    assert report["profiling"]["journal"] == str(journal)
    assert report["verified"]["max_relative_error"] < 1e-3
    assert (served.folder / "out.joulec").is_file()
    assert any(line.startswith("warning:") and "joulec db merge" in line for line in err.splitlines())


def test_two_profilers_share_one_server(served, model):
    """None measures what the other one does, and both end with all known."""
    both = [served.start("profile", model, *FEW, "--json") for _ in range(2)]
    outcomes = [finish(running) for running in both]
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    summaries = [json.loads(out)["profiling"] for _, out, _ in outcomes]
    kept, superseded = rows_of(served.url)
    total = Counter()
    for of in summaries:
        total.update({name: of[name] for name in ("measured", "failed", "unknown")})
    assert total["measured"] + total["failed"] == len(kept)
    assert total["unknown"] == 0
    assert superseded == []
    assert all(of["measured"] > 0 for of in summaries), "one did all of it"
    again = served.json("profile", model, *FEW)["profiling"]
    assert (again["measured"], again["failed"]) == (0, 0)
