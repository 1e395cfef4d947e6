"""The table of rules in the documentation is the one that the code prints."""

from __future__ import annotations

from pathlib import Path

from joulec.passes.rules.table import table

PAGE = Path(__file__).parents[3] / "docs" / "rules.md"


def test_the_page_lists_every_rule():
    assert table() in PAGE.read_text(encoding="utf-8"), "run python -m joulec.passes.rules.table and paste its output"
