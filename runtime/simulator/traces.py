"""What changes over a simulation: the cap, and how many rows arrive."""

from __future__ import annotations

import bisect
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MOST = 1e9  # watts or rows per second: beyond, a trace is not in these units


class TraceError(ValueError):
    """A trace file that cannot be read."""


@dataclass(frozen=True)
class Trace:
    """A value that changes in steps.

    Attributes:
        times_s: when, ascending; the first value holds from the start on.
        values: what it is from then on.
    """

    times_s: Sequence[float]
    values: Sequence[float]

    @classmethod
    def constant(cls, value: float) -> Trace:
        return cls((0.0,), (value,))

    def at(self, t_s: float) -> float:
        """The value in force."""
        return self.values[max(bisect.bisect_right(self.times_s, t_s) - 1, 0)]

    def next_change_s(self, t_s: float) -> float:
        """When the value changes next; infinity where it does not."""
        index = bisect.bisect_right(self.times_s, t_s)
        return self.times_s[index] if index < len(self.times_s) else math.inf


def read_trace(path: Path, column: str) -> Trace:
    """A CSV file of lines ``t_s,COLUMN`` with ascending times; a header is optional. Values may be 0,
    at most 1e9.

    Raises:
        TraceError: the file cannot be read or is not of that form.
    """
    times: list[float] = []
    values: list[float] = []
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace {path}: {getattr(error, 'strerror', None) or error}") from error
    for number, row in enumerate(rows, 1):
        if not row or (number == 1 and row[0].strip() == "t_s"):
            continue
        try:
            t_s, value = map(float, row)
        except ValueError:
            raise TraceError(f"{path}, line {number}: expected t_s,{column}, found {','.join(row)!r}") from None
        if not 0 <= t_s < math.inf:
            raise TraceError(f"{path}, line {number}: times must be seconds from 0 up")
        if not 0 <= value <= _MOST:
            raise TraceError(f"{path}, line {number}: {column} must lie between 0 and {_MOST:g}")
        if times and t_s <= times[-1]:
            raise TraceError(f"{path}, line {number}: times must ascend")
        times.append(t_s)
        values.append(value)
    if not times:
        raise TraceError(f"{path} holds no line t_s,{column}")
    return Trace(times, values)
