"""How long the command and the package take to begin: medians of ten processes each.

python tests/benchmarks/bench_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

RUNS = 10
CASES = (
    ("python -c pass", ("-c", "pass"), None),
    ("import joulec", ("-c", "import joulec"), 0.2),
    ("joulec --help", ("-m", "joulec", "--help"), 0.3),
    ("joulec compile --help", ("-m", "joulec", "compile", "--help"), None),
    ("joulec devices", ("-m", "joulec", "devices"), None),
)
"""What is run, how, and the seconds that it is to keep beneath."""


def median_s(arguments: tuple[str, ...]) -> float:
    """Median wall time of a Python process; one before them warms the file cache."""
    seconds = []
    for _ in range(RUNS + 1):
        begun_s = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begun_s)
    return statistics.median(seconds[1:])


def main() -> None:
    """Print the table."""
    table = Table("what", f"median of {RUNS}", "aim")
    for name, arguments, aim_s in CASES:
        table.add_row(name, f"{median_s(arguments):.3f} s", "" if aim_s is None else f"{aim_s} s")
    Console().print(table)


if __name__ == "__main__":
    main()
