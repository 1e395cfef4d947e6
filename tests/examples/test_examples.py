"""The examples run as they stand, and say what their docs say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, folder):
    """Standard output of an example, run in a folder where it leaves nothing."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout


def test_python_api(tmp_path):
    said = run("python_api.py", tmp_path)
    assert "5 rows in, (5, 10) out" in said
    assert re.findall(r"batch (\d+): predicted [\d.]+ µs \(estimated\), [\d.]+ µs \(measured\)", said) == ["1", "4"]
    assert "same answers: True" in said


def test_own_objective(tmp_path):
    found = re.findall(
        r"(\w+): ([\d.]+) µs, ([\d.]+) µJ \(estimated\); (\d+) operators", run("own_objective.py", tmp_path)
    )
    assert [name for name, *_ in found] == ["time", "energy", "bill"]
    times = {name: float(time) for name, time, *_ in found}
    energies = {name: float(energy) for name, _, energy, _ in found}
    assert times["time"] == min(times.values())
    assert energies["energy"] == min(energies.values())


def test_in_a_sequential(tmp_path):
    said = run("in_a_sequential.py", tmp_path)
    assert "merge-matmuls ×1" in said
    assert float(said.split()[-1]) < 1e-3


def test_power_capped_session(tmp_path):
    found = re.findall(
        r"cap (\d+) W: batch size (\d), (\d+) W \(simulated\), (\d+) rows", run("power_capped_session.py", tmp_path)
    )
    assert [(cap, size) for cap, size, *_ in found] == [("160", "8"), ("100", "4")]
    for cap, _, watts, rows in found:
        assert int(watts) <= int(cap)
        assert int(rows) > 0


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_listed(example):
    listed = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    assert f"examples/{example.name}" in listed
