"""What happens while a meter's window is open, and what a meter may be told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from joulec.profiler.candidate import NO_WORK, Work

_IDLE_SHARE = 0.1
_MAIN_SHARE = 0.75


@runtime_checkable
class BatchAware(Protocol):
    """A meter that wants to know which batch size runs: a simulated one."""

    def batch(self, size: int) -> None:
        """From now on batches of this size run; 0: nothing runs."""


@dataclass
class Window:
    """What happened since the meter's window was opened. Seconds, counts, and the work done."""

    start_s: float
    batches: int = 0
    items: int = 0
    busy_by_size: dict[int, float] = field(default_factory=dict)
    idle_s: float = 0.0
    pause_s: float = 0.0
    metered: bool = True
    longest_s: float = 0.0
    work: Work = NO_WORK

    @property
    def busy_s(self) -> float:
        """Seconds in batches."""
        return sum(self.busy_by_size.values())

    @property
    def main_size(self) -> int:
        """The batch size that most of the time went to."""
        return max(self.busy_by_size, key=lambda size: self.busy_by_size[size])

    @property
    def typical(self) -> bool:
        """Whether the window is what a device busy with the main size looks like."""
        waited = self.idle_s > _IDLE_SHARE * (self.busy_s + self.idle_s)
        return not waited and self.busy_by_size[self.main_size] >= _MAIN_SHARE * self.busy_s
