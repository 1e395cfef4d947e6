"""SqueezeNet as joulec compiles it against TVM's own default pipeline (``tvm.compile(module)``), turn by turn."""

from __future__ import annotations

import argparse

from common import Engine, compile_subject, medians_by_turns, relative_norm, threads, write_subject
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objective", default="time")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--span", type=float, default=1.0, help="seconds of each turn")
    arguments = parser.parse_args()
    subject = write_subject("squeezenet")
    artifact, _ = compile_subject(subject, arguments.objective)
    with (
        Engine("joulec", artifact, subject.inputs) as ours,
        Engine("tvm-default", subject.model, subject.inputs) as theirs,
    ):
        error = relative_norm(ours.outputs()[0], theirs.outputs()[0])
        ours_s, theirs_s = medians_by_turns([ours, theirs], arguments.turns, arguments.span)
    table = Table("network", "joulec", "TVM's default pipeline", "ratio", "outputs differ by")
    table.add_row(
        subject.name, f"{ours_s * 1e3:.2f} ms", f"{theirs_s * 1e3:.2f} ms", f"{theirs_s / ours_s:.1f}", f"{error:.1e}"
    )
    console = Console()
    console.print(f"batch 1, {threads()} threads, medians of {arguments.turns} turns in separate processes")
    console.print(table)


if __name__ == "__main__":
    main()
