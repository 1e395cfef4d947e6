"""The table of all rules in ``docs/rules.md``: ``python -m joulec.passes.rules.table`` prints it."""

from __future__ import annotations

import sys
from itertools import groupby

from joulec.passes.rules import RULES
from joulec.passes.rules.rule import Rule, equation


def table(rules: tuple[Rule, ...] = RULES) -> str:
    """One row per equation, in Markdown: the names under which it is tried, and what it says."""
    rows = ["| rule | equation |", "|---|---|"]
    for _, same in groupby(rules, key=type):
        group = tuple(same)
        names = "<br>".join(f"`{rule.name}`" for rule in group)
        rows.append(f"| {names} | {equation(group[0]).replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
