"""Where the time of a call goes: its steps one by one, as the virtual machine runs them."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from joulec.runtime.external import FUNCTION
from joulec.runtime.manifest import Assigned

STEPS_SUFFIX = "__steps"
"""What the name of a function has after it where it runs step by step."""
LOWERED = "tvm"
"""The algorithm of operators that TVM lowers itself, to any number of steps under names of its own."""
CONVERSION = "relayout"
"""The algorithm of conversions between layouts, which stand between operators; their kernels are named after it."""
_ENGINES = ("onnxruntime", "onnx.reference")
"""The algorithms of operators that are called outside; all their steps have one name."""
_RUNTIME = ("vm.builtin.", "call_tir_dyn")
_GO_ON = 0

Watch = Callable[[str, Sequence[Any]], None]
"""Takes a step's name and the arguments of its call, the result last, once it is done. A number is the offset, in
elements, at which the kernel reads or writes in the tensor after it."""


@dataclass(frozen=True)
class Step:
    """One step of a call, or the steps to which TVM lowered one operator, taken together.

    Attributes:
        function: the kernel's name in the library; the first one's of several.
        time_s: median seconds over the profiled calls.
        assigned: the operator that it computes; None where it is a part of one of several neighbours that TVM lowered,
            or a conversion between layouts.
    """

    function: str
    time_s: float
    assigned: Assigned | None

    @property
    def algorithm(self) -> str:
        """What computes it."""
        if self.assigned:
            return self.assigned.algorithm
        return CONVERSION if self.function.startswith(CONVERSION) else LOWERED


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
            if _is_step(symbol):
                self.calls[-1].append((str(symbol), ended_s - self._begun_s))
        return _GO_ON

    def steps(self, assignment: Sequence[Assigned]) -> tuple[Step, ...]:
        """Medians over all calls, each step beside the operator that it computes."""
        names = [name for name, _ in self.calls[0]]
        places = _owners(names, assignment)
        found, begin = [], 0
        while begin < len(names):
            place, end = places[begin], begin + 1
            while place is not None and end < len(names) and places[end] == place:
                end += 1
            time_s = statistics.median(sum(seconds for _, seconds in call[begin:end]) for call in self.calls)
            found.append(Step(names[begin], time_s, None if place is None else assignment[place]))
            begin = end
        return tuple(found)


def _owners(names: Sequence[str], assignment: Sequence[Assigned]) -> list[int | None]:
    """The index of each step's operator; None of conversions."""
    computing = iter(_owners_of([name for name in names if not name.startswith(CONVERSION)], assignment))
    return [None if name.startswith(CONVERSION) else next(computing) for name in names]


def _owners_of(names: Sequence[str], assignment: Sequence[Assigned]) -> list[int | None]:
    """The index of the operator of each step that computes one.

    Steps without a kernel's name lie between two that have one, and so do the operators that TVM lowered: all belong to
    the only such operator, or one to each where there are as many.
    """
    places: list[int | None] = [*map(Matcher(assignment), names)]
    begin, before = 0, -1
    while begin < len(names):
        end = begin
        while end < len(names) and places[end] is None:
            end += 1
        after = places[end] if end < len(names) else len(assignment)
        assert after is not None
        lowered = [place for place in range(before + 1, after) if assignment[place].algorithm == LOWERED]
        if len(lowered) in (1, end - begin):
            places[begin:end] = lowered if len(lowered) == end - begin else lowered * (end - begin)
        begin, before = end + 1, after
    return places


def _is_step(symbol: str) -> bool:
    """Whether it is a step of the model: neither the machine's own nor a function of such steps."""
    return not str(symbol).startswith(_RUNTIME) and not str(symbol).endswith(STEPS_SUFFIX)


def watching(watch: Watch) -> Callable[..., int]:
    """An instrument of the virtual machine that tells of each step but the machine's own."""

    def instrument(function: Any, symbol: str, before: bool, result: Any, *arguments: Any) -> int:
        if not before and _is_step(symbol):
            watch(str(symbol), arguments)
        return _GO_ON

    return instrument


class Matcher:
    """Finds the operator of each step: kernels run in the assignment's order, named by operator and family.

    Args:
        assignment: the operators of the entry, in order.
    """

    def __init__(self, assignment: Sequence[Assigned]) -> None:
        self._waiting = list(enumerate(assignment))

    def __call__(self, name: str) -> int | None:
        """The index of the operator that the next step, of this name, computes; None for a part of one, or of none."""
        place = next((i for i, (_, one) in enumerate(self._waiting) if _computes(name, one)), None)
        return None if place is None else self._waiting.pop(place)[0]


def _computes(name: str, assigned: Assigned) -> bool:
    family = assigned.algorithm.partition("(")[0]
    if name == FUNCTION:
        return family in _ENGINES
    base = re.sub(r"\W", "_", f"{assigned.operator}_{family}")
    return name == base or (name.startswith(base) and name[len(base) :].lstrip("_").isdigit())
