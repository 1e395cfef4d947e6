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

    def batch(self, size: int, variant: str | int = 0) -> None:
        """From now on batches of this size run, in this variant of the graph; 0: nothing runs."""


@dataclass
class Window:
    """What happened since the meter's window was opened. Seconds, counts, and the work done."""

    start_s: float
    batches: int = 0
    items: int = 0
    busy: dict[tuple[int, str | int], float] = field(default_factory=dict)  # by batch size and variant
    idle_s: float = 0.0
    pause_s: float = 0.0
    metered: bool = True
    longest_s: float = 0.0
    work: Work = NO_WORK
    begun_s: float = 0.0  # when the meter's own window was open
    age_s: float = 0.0  # of its reading, once there is one

    @property
    def busy_s(self) -> float:
        """Seconds in batches."""
        return sum(self.busy.values())

    @property
    def main(self) -> tuple[int, str | int]:
        """The batch size and variant that most of the time went to."""
        return max(self.busy, key=lambda ran: self.busy[ran])

    @property
    def typical(self) -> bool:
        """Whether the window is what a device busy with the main size and variant looks like."""
        waited = self.idle_s > _IDLE_SHARE * (self.busy_s + self.idle_s)
        return not waited and self.busy[self.main] >= _MAIN_SHARE * self.busy_s
