"""Rows of measurements as the authors of the first paper publish them: ``key|time_ms|power_W``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ALGORITHM = re.compile(r",<(\d+)>")


class ReplayError(ValueError):
    """A file of measurements that cannot be read; the message names the line."""


@dataclass(frozen=True)
class Row:
    """One measured operator under one algorithm.

    Attributes:
        time_s: seconds per execution.
        power_w: mean power while it ran in a loop.
    """

    time_s: float
    power_w: float

    @property
    def energy_j(self) -> float:
        """Joules per execution."""
        return self.time_s * self.power_w


def read_rows(path: Path) -> dict[str, Mapping[str, Row]]:
    """The rows by key without algorithm, then by algorithm (empty text for an operator that has only one).

    The flags that end a concat's key are no algorithm and stay in the key.

    Raises:
        ReplayError: the file cannot be read, or a line is no row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReplayError(f"cannot read measurements from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReplayError(f"cannot read measurements from {path}: it is no text ({error.reason})") from error
    table: dict[str, dict[str, Row]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, algorithm, row = _parse(line, f"{path}, line {number}")
        table.setdefault(key, {})[algorithm] = row
    if not table:
        raise ReplayError(f"{path} holds no measurements")
    return dict(table)


def _parse(line: str, where: str) -> tuple[str, str, Row]:
    fields = line.strip().split("|")
    try:
        key, time_ms, power_w = fields[0], float(fields[1]), float(fields[2])
    except (IndexError, ValueError) as error:
        raise ReplayError(f"{where}: expected key|time_ms|power_W, found {line.strip()[:60]!r}") from error
    if not (math.isfinite(time_ms) and math.isfinite(power_w) and time_ms > 0 and power_w > 0):
        raise ReplayError(f"{where}: time and power must be above zero, found {line.strip()[:60]!r}")
    algorithm = ""
    if key.startswith("conv,"):
        match = _ALGORITHM.search(key)
        if match is None:
            raise ReplayError(f"{where}: a convolution's row names its algorithm, found {key!r}")
        key, algorithm = key[: match.start()], match[1]
    return key, algorithm, Row(time_ms * 1e-3, power_w)
