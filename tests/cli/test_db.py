"""``joulec db``: what is listed, carried between databases, upgraded and refused."""

import csv
import json
import math
import shutil
import sqlite3

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
        (("--device", "CPU"), 5),
        (("--device", "|y", "--operator", "conv2d"), 1),
        (("--source", "rapl"), 4),
        (("--limit", "2"), 2),
    ],
)
def test_rows_are_listed_and_filtered(filled, filters, count):
    assert len(json.loads(run(filled, ("db", "list", *filters, "--json")).stdout)["rows"]) == count


def test_people_see_the_first_hundred(joulec):
    with open_store(str(joulec.costs)) as store:
        store.put_many(measurement(index) for index in range(120))
    shown = run(joulec, ("db", "list"))
    assert shown.stdout.count("conv2d") == 100
    assert "the first 100 are shown; --limit shows more" in shown.stderr
    every = run(joulec, ("db", "list", "--limit", "120"))
    assert (every.stdout.count("conv2d"), every.stderr) == (120, "")
    assert len(json.loads(run(joulec, ("db", "list", "--json")).stdout)["rows"]) == 120


def test_nothing_found_is_said(filled):
    done = run(filled, ("db", "list", "--operator", "softmax"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no measurement matches\n")


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
    assert json.loads(run(filled, ("db", "upgrade", "--json")).stdout) == {"from": "0004", "to": "0004", "backup": None}


def test_a_file_is_known_by_its_contents(filled, tmp_path):
    exported = [("db", "export", "costs.txt", "--format", form) for form in ("csv", "jsonl")]
    for words in exported:
        done = run(filled, words, ("db", "import", "costs.txt", "--costs", f"{words[-1]}.db", "--json"))
        assert json.loads(done.stdout)["new"] == 5
    assert rows_of(tmp_path / "csv.db") == rows_of(tmp_path / "jsonl.db") == rows_of(filled.costs)


def test_a_dash_is_standard_output(filled):
    lines = run(filled, ("db", "export", "-", "--operator", "pool")).stdout.splitlines()
    assert [json.loads(line)["operator"] for line in lines] == ["pool"]


def test_three_machines_become_one_database(filled, tmp_path):
    """Every measurement is kept, the better counts, in whatever order they are merged."""
    third = [measurement(0, Cost(1e-5, 1.0, "measured", "rapl", spread=1 / 900, samples=30), host="bench-3")]
    with open_store(str(tmp_path / "third.db")) as store:
        store.put_many([*third, measurement(6, host="bench-3")])
    done = run(
        filled,
        ("db", "export", "third.csv", "--costs", "third.db"),
        ("db", "merge", "costs.db", "other.db", "third.csv", "--costs", "all.db", "--json"),
        ("db", "merge", "third.db", "--costs", "backwards.db", "--json"),
        ("db", "merge", "other.db", "costs.db", "--costs", "backwards.db", "--json"),
    )
    assert done.returncode == 0
    kept, superseded = rows_of(tmp_path / "all.db")
    again, superseded_again = rows_of(tmp_path / "backwards.db")
    assert kept == again
    assert len(kept) + len(superseded) == len(MINE) + len(OTHERS) + 2
    assert sorted(map(str, superseded)) == sorted(map(str, superseded_again))
    assert kept[third[0].key] == third[0]


def test_a_file_that_was_cut_off_is_merged_with_a_warning_and_not_imported(filled, tmp_path):
    whole = run(filled, ("db", "export")).stdout
    (tmp_path / "cut.jsonl").write_text(whole[:-20])
    refused = run(filled, ("db", "import", "cut.jsonl", "--costs", "new.db"))
    assert refused.returncode == 2
    assert "line 5: not JSON; nothing of the file was taken" in refused.stderr
    merged = run(filled, ("db", "merge", "cut.jsonl", "--costs", "new.db", "--json"))
    assert json.loads(merged.stdout)["new"] == 4
    assert merged.stderr == "warning: the last line of cut.jsonl was cut off, and is left out\n"


def test_an_older_database_is_upgraded_and_a_newer_refused(filled, tmp_path):
    """``old.db`` as the first joulec made it; in ``new.db`` a revision that this one does not know."""
    with open_store(str(tmp_path / "new.db")) as store:
        store.put_many(MINE)
    for name, change in (
        ("old.db", "DROP TABLE joulec_superseded; DROP INDEX ix_joulec_costs_lookup"),
        ("new.db", "SELECT 1"),
    ):
        if not (tmp_path / name).exists():
            shutil.copy(filled.costs, tmp_path / name)
        connection = sqlite3.connect(tmp_path / name)
        version = "0001_0.1.0" if name == "old.db" else "0009_2.5.0"
        connection.executescript(f"{change}; UPDATE joulec_schema SET version_num = '{version}'")
        connection.close()
    done = run(filled, ("db", "upgrade", "--costs", "old.db", "--json"))
    backup = tmp_path / "old.db.schema-0001.bak"
    assert json.loads(done.stdout) == {"from": "0001", "to": "0004", "backup": str(backup)}
    assert rows_of(tmp_path / "old.db")[0].keys() == {m.key for m in MINE}
    assert sqlite3.connect(backup).execute("SELECT count(*) FROM joulec_costs").fetchone() == (len(MINE),)
    before = (tmp_path / "new.db").read_bytes()
    for command in ("info", "upgrade"):
        refused = run(filled, ("db", command, "--costs", "new.db"))
        assert refused.returncode == 2
        assert "was made by a later joulec (schema 0009)" in refused.stderr
        assert "pip install --upgrade 'joulec>=2.5.0'" in refused.stderr
    assert (tmp_path / "new.db").read_bytes() == before


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
        (("merge", "noise"), "noise is no file of measurements, neither JSON Lines nor CSV"),
        (("merge", "."), ". is a folder"),
        (("import", "none.csv"), "none.csv cannot be read"),
        (("import", "noise"), "noise is no file of measurements"),
        (("import", "other.db"), "other.db is a database, no exported file; joulec db merge other.db takes it in"),
        (("import", "empty.csv"), "line 1: the header is missing"),
        (("import", "half.csv"), "line 1: the column shapes is missing"),
        (("export", "a.csv", "-o", "b.csv"), "FILE and --output name the same thing"),
        (("list", "--source", "guess"), "guess is no source of costs; there are measured, replay"),
        (("list", "--device", "gpu"), "no measurement is of a device called gpu; the database has cpu|x; cpu|y"),
        (("export", "none/costs.csv"), "cannot be written"),
        (("export", "--json"), "name a FILE"),
        (("list", "--costs", "noise"), "noise is not a cost database"),
        (("upgrade", "--costs", "noise"), "noise is not a cost database"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(filled, tmp_path, words, complaint):
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "half.csv").write_text("operator,attributes,epilogue\nconv2d,,\n")
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
