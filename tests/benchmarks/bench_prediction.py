"""Six networks: time predicted against time measured, agreement with ONNX Runtime and its latency, turn by turn."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from common import Engine, compile_subject, medians_by_turns, relative_norm, threads, write_subject
from rich.console import Console
from rich.table import Table

NETWORKS = ("squeezenet", "resnet50", "densenet121", "shufflenet", "inception_v1", "inception_v2")
HEADINGS = ("network", "predicted", "measured", "predicted/measured", "ONNX Runtime", "joulec/ORT", "error", "native")


def native_share(assignment: Sequence[Mapping[str, Any]]) -> float:
    """Share of operators that are computed without another engine."""
    foreign = [one for one in assignment if one["algorithm"] == "onnx" or one["operator"].startswith("opaque")]
    return 1.0 - len(foreign) / len(assignment)


def measure(name: str, objective: str, turns: int, span_s: float) -> tuple[str, ...]:
    """One line of the table."""
    subject = write_subject(name)
    artifact, entry = compile_subject(subject, objective)
    with (
        Engine("joulec", artifact, subject.inputs) as ours,
        Engine("onnxruntime", subject.model, subject.inputs) as theirs,
    ):
        pairs = zip(ours.outputs(), theirs.outputs(), strict=True)
        error = max(relative_norm(found, wanted) for found, wanted in pairs)
        ours_s, theirs_s = medians_by_turns([ours, theirs], turns, span_s)
    predicted_s = entry["predicted"]["time_s"]
    return (
        name,
        f"{predicted_s * 1e3:.2f} ms",
        f"{ours_s * 1e3:.2f} ms",
        f"{predicted_s / ours_s:.2f}",
        f"{theirs_s * 1e3:.2f} ms",
        f"{ours_s / theirs_s:.2f}",
        f"{error:.1e}",
        f"{native_share(entry['assignment']):.0%}",
    )


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="network", help=", ".join(NETWORKS))
    parser.add_argument("--objective", default="time")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--span", type=float, default=1.0, help="seconds of each turn")
    arguments = parser.parse_args()
    table = Table(*HEADINGS)
    console = Console(width=120)
    for name in arguments.networks:
        console.print(f"compiling and timing {name}")
        table.add_row(*measure(name, arguments.objective, arguments.turns, arguments.span))
    console.print(f"batch 1, {threads()} threads, medians of {arguments.turns} turns in separate processes")
    console.print(table)


if __name__ == "__main__":
    main()
