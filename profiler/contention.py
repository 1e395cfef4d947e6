"""Whether others took processors away from this process while it was timing something; the kernel keeps account."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

_TASKS = Path("/proc/self/task")
_SHARE = 0.05


@dataclass(frozen=True)
class Contention:
    """The account of all threads of this process up to some moment.

    Attributes:
        preemptions: how often one that wanted to go on was taken off its processor (``getrusage``).
        waited_s: seconds for which they stood ready without a processor, summed (Linux: ``schedstat``); None where
            the kernel does not tell.
    """

    preemptions: int
    waited_s: float | None

    def disturbed(self, later: Contention, seconds: float) -> bool:
        """Whether what ran in the ``seconds`` between the two accounts was disturbed.

        It was when a thread was preempted and the threads waited for more than a twentieth of the time. Neither alone
        will do: a thread that is woken waits a little on an idle machine too, and a long run is interrupted now and
        then by the kernel's own short work.
        """
        if later.preemptions == self.preemptions:
            return False
        if self.waited_s is None or later.waited_s is None:
            return True
        return later.waited_s - self.waited_s > _SHARE * seconds


def own_contention(tasks: Path = _TASKS) -> Contention:
    """The account of this process now.

    Args:
        tasks: where the kernel lists its threads.
    """
    return Contention(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, _waited_s(tasks))


def _waited_s(tasks: Path) -> float | None:
    try:
        found = [int((task / "schedstat").read_text(encoding="ascii").split()[1]) for task in tasks.iterdir()]
    except (OSError, ValueError, IndexError):  # no such account, or a thread that has just ended
        return None
    return sum(found) * 1e-9 if found else None
