"""Where the time of a call goes: its steps one by one, as the virtual machine runs them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from joulec.runtime.manifest import Assigned

STEPS_SUFFIX = "__steps"
"""What the name of a function has after it where it runs step by step."""
_RUNTIME = ("vm.builtin.", "call_tir_dyn")
_GO_ON = 0


@dataclass(frozen=True)
class Step:
    """One step of a call.

    Attributes:
        function: the kernel's name in the library.
        time_s: median seconds over the profiled calls.
        assigned: the operator that it computes; None where it is a part of one that TVM lowered itself, or of none.
    """

    function: str
    time_s: float
    assigned: Assigned | None


class Recorder:
    """Takes the virtual machine's word before and after each of its steps (`VirtualMachine.set_instrument`).

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begun_s = 0.0
        self.calls: list[list[tuple[str, float]]] = []

    def begin(self) -> None:
        """A call begins."""
        self.calls.append([])

    def __call__(self, function: Any, symbol: str, before: bool, result: Any, *arguments: Any) -> int:
        """Note one step; the machine's own steps (memory, shapes) are left out."""
        if before:
            self._begun_s = self._clock()
        else:
            ended_s = self._clock()
            if not str(symbol).startswith(_RUNTIME):
                self.calls[-1].append((str(symbol), ended_s - self._begun_s))
        return _GO_ON

    def steps(self, assignment: Sequence[Assigned]) -> tuple[Step, ...]:
        """Medians over all calls, each step beside the operator that it computes."""
        names = [name for name, _ in self.calls[0]]
        seconds = [statistics.median(call[index][1] for call in self.calls) for index in range(len(names))]
        return tuple(map(Step, names, seconds, _matched(names, assignment)))


def _matched(names: Sequence[str], assignment: Sequence[Assigned]) -> list[Assigned | None]:
    """The operator of each step: kernels run in the assignment's order and bear operator and family in their names."""
    waiting = list(assignment)
    found: list[Assigned | None] = []
    for name in names:
        index = next((i for i, one in enumerate(waiting) if _computes(name, one)), None)
        found.append(None if index is None else waiting.pop(index))
    return found


def _computes(name: str, assigned: Assigned) -> bool:
    family = assigned.algorithm.partition("(")[0]
    base = f"{assigned.operator}_{family}".replace(".", "_")
    return name == base or (name.startswith(base) and name[len(base) :].lstrip("_").isdigit())
