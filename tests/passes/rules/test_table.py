"""The table of rules in the documentation is the one that the code prints."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from joulec.passes.rules import RULES
from joulec.passes.rules.table import table

PAGE = Path(__file__).parents[3] / "docs" / "rules.md"


def test_the_page_lists_every_rule():
    assert table() in PAGE.read_text(encoding="utf-8"), "run python -m joulec.passes.rules.table and paste its output"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_says_its_equation_its_conditions_and_where_it_pays(rule):
    equation, *conditions, pays = inspect.getdoc(type(rule)).split("\n\n")
    assert "=" in equation
    assert conditions
    assert pays.startswith("Pays: ")
