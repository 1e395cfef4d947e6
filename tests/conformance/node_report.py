"""Outcomes of the node tests as a table, and as the page docs/onnx-coverage.md."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from node_cases import NodeCase
from node_outcomes import Outcome
from rich.console import Console
from rich.table import Table

Results = dict[str, dict[str, Outcome]]

_ROWS = {
    "native": "right, compiled natively",
    "external": "right, with an external engine",
    "right": "right",
    "refused": "refused",
    "wrong": "wrong",
    "crashed": "crashed",
    "hung": "hung",
}


def show(cases: Sequence[NodeCase], results: Results) -> None:
    """Print the table."""
    out = Console()
    table = Table(*("outcome", *results))
    for row in _rows(results):
        table.add_row(*row)
    out.print(table)
    lost = wrong_where_others_are_right(cases, results)
    out.print(f"wrong, crashed or hung where another engine is right: {', '.join(lost) or 'none'}", markup=False)


def wrong_where_others_are_right(cases: Sequence[NodeCase], results: Results) -> list[str]:
    """Names of cases that joulec gets wrong although ONNX Runtime or the reference, where asked, gets them right."""
    others = [outcomes for engine, outcomes in results.items() if engine != "joulec"]
    return [
        case.name
        for case in cases
        if results.get("joulec", {}).get(case.name, Outcome("right")).kind in ("wrong", "crashed", "hung")
        and any(outcomes[case.name].kind == "right" for outcomes in others)
    ]


def _rows(results: Results) -> list[tuple[str, ...]]:
    counts = {engine: Counter(outcome.kind for outcome in outcomes.values()) for engine, outcomes in results.items()}
    rows = [
        (label, *(str(count[kind]) if count[kind] else "" for count in counts.values()))
        for kind, label in _ROWS.items()
        if any(count[kind] for count in counts.values())
    ]
    right = [sum(count[kind] for kind in ("native", "external", "right")) for count in counts.values()]
    return [
        *rows,
        ("right in all", *(f"{one} of {count.total()}" for one, count in zip(right, counts.values(), strict=True))),
    ]


def as_markdown(cases: Sequence[NodeCase], results: Results) -> str:
    """The page."""
    outcomes = results["joulec"]
    lines = [
        "# Which ONNX operators compile",
        "",
        "Written by `make test-onnx`; do not edit. ONNX's own node tests, as the installed onnx package holds them,",
        'go through `joulec.compile(model, costs="model", measure=False)`, `save`, `joulec.load` and a call. Values',
        "(within each test's own tolerance), shapes and dtypes of all outputs are compared. Of all node tests",
        "those are taken whose data are numpy arrays throughout and that use no random operator.",
        "",
        f"onnx {version('onnx')}, onnxruntime {version('onnxruntime')}, apache-tvm {version('apache-tvm')}, "
        f"Python {platform.python_version()}, {platform.machine()}.",
        "",
        f"| outcome | {' | '.join(results)} |",
        f"| --- |{' ---: |' * len(results)}",
        *(f"| {' | '.join(row)} |" for row in _rows(results)),
        "",
    ]
    lost = wrong_where_others_are_right(cases, results)
    if len(results) > 1:
        lines += [f"Wrong, crashed or hung where another engine is right: {', '.join(map(_code, lost)) or 'none'}.", ""]
    lines += ["## Refused, by reason", ""]
    refused = [
        f"- {why}: {', '.join(map(_code, names))}" for why, names in _by_reason(cases, outcomes, "refused").items()
    ]
    lines += refused or ["None."]
    for kind in ("wrong", "crashed", "hung"):
        if any(outcome.kind == kind for outcome in outcomes.values()):
            lines += ["", f"## {kind.capitalize()}", ""]
            lines += [f"- `{name}`: {one.reason}" for name, one in outcomes.items() if one.kind == kind]
    lines += ["", "## By operator", "", "| operator | native | external | refused | other |", "| --- |" + " ---: |" * 4]
    for operator, kinds in sorted(_by_operator(cases, outcomes).items()):
        counts = Counter("other" if kind in ("wrong", "crashed", "hung") else kind for kind in kinds)
        cells = (str(counts[kind] or "") for kind in ("native", "external", "refused", "other"))
        lines.append(f"| {operator} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _by_reason(cases: Sequence[NodeCase], outcomes: Mapping[str, Outcome], kind: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        outcome = outcomes[case.name]
        if outcome.kind == kind:
            found[outcome.reason.removeprefix(f"{case.model.graph.name}: ").replace("|", "\\|")].append(case.name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _by_operator(cases: Sequence[NodeCase], outcomes: Mapping[str, Outcome]) -> dict[str, list[str]]:
    """Outcomes of the cases of a single operator; expanded functions and small graphs stand together."""
    found: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        operators = case.operators
        found[operators[0] if len(case.model.graph.node) == 1 else "(several operators)"].append(
            outcomes[case.name].kind
        )
    return found


def _code(name: str) -> str:
    return f"`{name}`"
