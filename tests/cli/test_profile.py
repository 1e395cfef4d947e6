"""``joulec profile``: what it says of what is known, failed and unknown, and how it goes on."""

from __future__ import annotations

import sqlite3

from cli_support import FEW


def test_it_ends_in_its_time_and_goes_on_from_there(joulec, model):
    first = joulec.json("profile", model, *FEW, "--time-budget", "4s")["profiling"]
    rest = joulec.json("profile", model, *FEW, "--time-budget", "10m")["profiling"]
    assert rest["unknown"] == 0
    assert rest["reused"] == first["measured"]
    assert joulec.json("db", "info")["rows"] == first["measured"] + rest["measured"]
    with sqlite3.connect(joulec.costs) as connection:
        change = "UPDATE joulec_costs SET time_s = NULL, failure_kind = 'crash', failure_reason = 'signal 11'"
        slower = "WHERE operator = 'matmul' ORDER BY time_s DESC LIMIT 1"  # nothing lost to it, so nothing may win now
        connection.execute(f"{change} WHERE id = (SELECT id FROM joulec_costs {slower})")
    connection.close()
    done = joulec("profile", model, *FEW, "--time-budget", "10m")
    assert done.returncode == 0, done.stderr
    known = first["measured"] + rest["measured"] - 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"known: {known} (0 measured now, {known} before or by others); failed: 1 (0 now); unknown: 0"
    )
    again = joulec.json("profile", model, *FEW)["profiling"]
    assert (again["measured"], again["reused"], again["failed"], again["failed_before"]) == (0, known, 0, 1)
