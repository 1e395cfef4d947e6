"""The table of all rules in ``docs/rules.md``: ``python -m joulec.passes.rules.table`` prints it."""

from __future__ import annotations

import sys
from itertools import groupby

from joulec.passes.rules import RULES
from joulec.passes.rules.rule import Rule, conditions, equation, pays


def table(rules: tuple[Rule, ...] = RULES) -> str:
    """One row per equation, in Markdown: the names under which it is tried, what it says, when and where it pays."""
    rows = ["| rule | equation | conditions | where it pays |", "|---|---|---|---|"]
    for _, same in groupby(rules, key=type):
        group = tuple(same)
        cells = (equation(group[0]), conditions(group[0]), pays(group[0]))
        names = "<br>".join(f"`{rule.name}`" for rule in group)
        rows.append(f"| {names} | {' | '.join(_cell(text) for text in cells)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", chr(92) + "|")


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
