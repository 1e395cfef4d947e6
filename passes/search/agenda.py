"""The graphs that wait to be expanded."""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """A graph with its place in both lines."""

    @property
    def order(self) -> tuple[float, float, int]:
        """Bounds first, then cost; ties by the graph's hash."""

    @property
    def free_order(self) -> tuple[float, int]:
        """Cost as if there were no bounds."""


State = TypeVar("State", bound=Waiting)


class Agenda(Generic[State]):
    """Best first; where there are bounds, in turn with the best that there would be without them.

    A bound that the way to the best graph breaks only at first would otherwise lead the search elsewhere.
    """

    def __init__(self) -> None:
        self._ranked: list[tuple[tuple[float, float, int], State]] = []
        self._free: list[tuple[tuple[float, int], State]] = []
        self._taken: set[int] = set()
        self._turn = 0

    def push(self, state: State, *, ranked: bool, free: bool) -> None:
        """Let a graph wait in either line or both."""
        if ranked:
            heapq.heappush(self._ranked, (state.order, state))
        if free:
            heapq.heappush(self._free, (state.free_order, state))

    @property
    def empty(self) -> bool:
        """Whether none waits."""
        return all(state.order[2] in self._taken for line in (self._ranked, self._free) for _, state in line)

    def pop(self) -> State | None:
        """The next graph, each once; None when none waits."""
        while self._ranked or self._free:
            self._turn += 1
            by_rank = not self._free or (bool(self._ranked) and self._turn % 2 == 1)
            state = heapq.heappop(self._ranked)[1] if by_rank else heapq.heappop(self._free)[1]
            if state.order[2] not in self._taken:
                self._taken.add(state.order[2])
                return state
        return None
