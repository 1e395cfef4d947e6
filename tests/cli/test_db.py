"""``joulec db``: what is listed, carried between databases, upgraded and refused."""

import csv
import json
import math

import pytest
from cli_support import forked

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.open import open_store


def measurement(index, outcome=None, operator="conv2d", device="cpu|x", host="bench-1"):
    text = dict.fromkeys(CostKey.__dataclass_fields__, "")
    fields = {"operator": operator, "attributes": f"index={index}", "device": device, "energy_source": "rapl"}
    cost = Cost((index + 1) / 3e5, (index + 1) / 7, "measured", "rapl", spread=1 / 61, samples=30)
    return Measurement(CostKey(**{**text, **fields}), outcome or cost, {"host": host, "date": "2026-03-01T12:00:00Z"})


MINE = [measurement(0), measurement(1), measurement(2, Failure("crash", 'signal 11\nat "conv", é'))]
MINE += [measurement(3, operator="pool"), measurement(4, device="cpu|y")]
OTHERS = [measurement(1, Cost(1.0, None, "measured", None), host="bench-2"), measurement(2, host="bench-2")]
OTHERS += [measurement(5, Cost(1.0, 2.0, "measured", "rapl", spread=math.inf), host="bench-2")]


@pytest.fixture
def filled(joulec, tmp_path):
    """The command with some measurements in its database, and others in other.db."""
    for path, rows in ((joulec.costs, MINE), (tmp_path / "other.db", OTHERS)):
        with open_store(str(path)) as store:
            store.put_many(rows)
    return joulec


def run(joulec, *lines):
    """Command lines one after another, all but the last of which must succeed; the last one's outcome."""
    outcomes = forked([(joulec, line) for line in lines])
    assert all(done.returncode == 0 for done in outcomes[:-1]), outcomes
    return outcomes[-1]


def rows_of(path):
    with open_store(str(path)) as store:
        return {m.key: m for m in store.rows()}, list(store.rows(superseded=True))


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ((), 5),
        (("--operator", "pool"), 1),
        (("--device", "cpu|x"), 4),
        (("--source", "rapl"), 4),
        (("--limit", "2"), 2),
    ],
)
def test_rows_are_listed_and_filtered(filled, filters, count):
    assert len(json.loads(run(filled, ("db", "list", *filters, "--json")).stdout)["rows"]) == count


def test_people_see_times_and_failures(filled):
    shown = run(filled, ("db", "list")).stdout
    assert "3.33" in shown
    assert "failed" in shown


@pytest.mark.parametrize("name", ["costs.jsonl", "costs.csv"])
def test_what_is_exported_is_imported_exactly(filled, tmp_path, name):
    done = run(filled, ("db", "export", name, "--json"), ("db", "import", name, "--costs", "new.db", "--json"))
    assert json.loads(done.stdout) == {"new": 5, "better": 0, "worse": 0, "same": 0}
    assert rows_of(tmp_path / "new.db") == rows_of(filled.costs)


def test_standard_output_takes_both_forms(filled):
    lines = run(filled, ("db", "export", "--operator", "pool")).stdout.splitlines()
    assert [json.loads(line)["operator"] for line in lines] == ["pool"]
    cells = list(csv.DictReader(run(filled, ("db", "export", "--format", "csv")).stdout.splitlines(keepends=True)))
    assert sorted(row["failure_reason"] for row in cells)[-1] == 'signal 11\nat "conv", é'


def test_merging_prefers_the_better_and_keeps_every_measurement(filled, tmp_path):
    done = run(filled, ("db", "merge", "other.db", "--json"))
    assert json.loads(done.stdout) == {"new": 1, "better": 1, "worse": 1, "same": 0}
    again = run(filled, ("db", "merge", "other.db", "--json"))
    assert json.loads(again.stdout) == {"new": 0, "better": 0, "worse": 0, "same": 3}
    kept, superseded = rows_of(filled.costs)
    assert len(kept) == 6
    assert kept[MINE[1].key] == MINE[1]
    assert kept[OTHERS[1].key] == OTHERS[1]
    assert sorted(m.provenance["host"] for m in superseded) == ["bench-1", "bench-2"]
    assert filled.json("db", "info")["superseded"] == 2


def test_a_current_database_is_not_upgraded(filled):
    assert json.loads(run(filled, ("db", "upgrade", "--json")).stdout) == {"from": "0003", "to": "0003", "backup": None}


def damaged(text, tmp_path):
    (tmp_path / "damaged.jsonl").write_text(text)
    return "damaged.jsonl"


LINE = json.dumps(
    dict.fromkeys(CostKey.__dataclass_fields__.keys() - {"energy_source"}, "")
    | {"key_energy_source": "rapl", "time_s": 1.0, "energy_j": None, "time_source": "measured", "energy_source": None}
    | {"spread": None, "samples": 1, "failure_kind": None, "failure_reason": None, "provenance": {}}
)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ((LINE, LINE[:40]), "line 2: not JSON"),
        ((LINE, "[1]"), "line 2: not an object"),
        (('"time_s": 1.0', '"time_s": "fast"'), "line 1: time_s is 'fast', no number"),
        (('"time_s": 1.0, ', ""), "line 1: time_s missing"),
        (('"samples": 1', '"samples": 0'), "line 1: samples is 0"),
        (('"measured"', '"guessed"'), "time_source is 'guessed', not one of measured"),
    ],
)
def test_a_damaged_file_is_refused_whole(joulec, tmp_path, change, complaint):
    old, new = change
    text = f"{LINE}\n{new}\n" if old == LINE else LINE.replace(old, new) + "\n"
    done = run(joulec, ("db", "import", damaged(text, tmp_path)))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert rows_of(joulec.costs) == ({}, [])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("merge", "none.db"), "none.db is not there"),
        (("merge", "costs.db"), "is the database that is merged into"),
        (("merge", "noise"), "is not a cost database"),
        (("import", "none.csv"), "none.csv cannot be read"),
        (("import", "noise"), "no text file of measurements"),
        (("export", "none/costs.csv"), "cannot be written"),
        (("export", "--json"), "name a FILE"),
        (("list", "--costs", "noise"), "noise is not a cost database"),
        (("upgrade", "--costs", "noise"), "noise is not a cost database"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(filled, tmp_path, words, complaint):
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 40)
    done = run(filled, ("db", *words))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_journal_is_merged_and_removed(filled, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with open_store(str(filled.costs)) as store:
        store.journal.keep([OTHERS[2]])
        store.journal.keep([OTHERS[1]])
        path = store.journal.path
    with path.open("a") as file:
        file.write('{"cut off')
    info = json.loads(run(filled, ("db", "info", "--json")).stdout)
    assert info["journal"] == str(path)
    merged = json.loads(run(filled, ("db", "merge", "--json")).stdout)
    assert merged == {"new": 1, "better": 1, "worse": 0, "same": 0}
    assert not path.exists()
