"""What ``joulec optimize`` shows of its explanations on a screen of 80 columns."""

from __future__ import annotations

from joulec.render_search import show_extras

STEP = {
    "rule": "merge-enlarged-convolutions",
    "value": 0.98765,
    "time_s": 1.234e-3,
    "energy_j": 56.7e-3,
    "saved_value": 0.01234,
    "saved_time_s": 12.3e-6,
    "saved_energy_j": 45.6e-6,
}


def test_names_of_rules_are_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show_extras({"entries": {"1": {"explain": {"objective": "energy", "steps": [STEP]}}}, "verified": None})
    said = capsys.readouterr().err
    assert "merge-enlarged-convolutions" in said
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80
