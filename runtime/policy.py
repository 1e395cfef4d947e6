"""Policies: which batch size comes next, given the power that was read and the cap.

A policy knows neither clock nor device: the same sequence of readings and caps gives the same decisions.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["searching", "settled", "gap", "largest", "smallest", "held"]
"""Where a policy stands.

``searching``: still adjusting; ``settled``: power is in the band; ``gap``: this size draws less than the band and the
next one exceeds the cap; ``largest``: below the band at the largest size, ``smallest``: above the cap at the smallest,
so nothing further is possible by batch size; ``held``: not decided by power (no cap, or power unknown).
"""


@dataclass(frozen=True)
class Telemetry:
    """One reading.

    Attributes:
        batch: the smallest batch size that ran in its window.
        power_w: mean power over the window.
        batches: how many batches it covers.
        largest: the largest batch size that is allowed now for other reasons (latency), None for all.
    """

    batch: int
    power_w: float
    batches: int = 1
    largest: int | None = None


@dataclass(frozen=True)
class Decision:
    """What to do next.

    Attributes:
        batch: the batch size to run.
        state: where the policy stands.
        reason: for people.
    """

    batch: int
    state: State
    reason: str = ""


class Policy(Protocol):
    """Chooses batch sizes. Deterministic; holds its own state; does no input or output."""

    @property
    def name(self) -> str:
        """How the user names it."""

    @property
    def decision(self) -> Decision:
        """The latest decision; before any reading, where to start."""

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        """Take a reading and the cap now in force, and decide."""


class PaperPolicy:
    """BatchSizer (second paper, Section 4.2 and Algorithm 1), made precise.

    It starts at the smallest size. An epoch is ``epoch_batches`` batches at one size; its highest reading decides:
    within [``cap_margin`` x cap, cap] the size stays; below, it moves to the middle of itself and the upper bound,
    rounded up; above, to the middle of the lower bound and itself, rounded down. Each decision moves a bound, so the
    search ends after O(log n) epochs. Where the listing is silent or loops:

    - The bounds are indices of sizes known not to fit (``below`` draws too little, ``above`` too much) or lie just
      outside of the set; so every size can be reached and none is tried twice in one search.
    - Where no size lies in the band (``above`` = ``below`` + 1) the listing alternates between the two for ever; here
      the lower one is kept, as it keeps to the cap, until its own reading has moved by more than ``drift`` x cap.
    - Once the search has ended, a reading that leaves the band means that the load changed: both bounds are restored
      and the search goes on from the present size. A change of the cap, or of the largest size allowed, does so too.
    - A window with batches smaller than the chosen size (few requests at hand) says only that the chosen size draws at
      least as much: it counts where it exceeds the cap.

    Args:
        sizes: the batch sizes to choose from.
        cap_margin: the paper's alpha.
        epoch_batches: batches per epoch (the paper: 10).
        drift: share of the cap by which a reading must fall before a gap is searched again.

    Raises:
        ValueError: no sizes, a size below 1, or a margin outside of (0, 1].
    """

    name = "paper"

    def __init__(
        self, sizes: Sequence[int], *, cap_margin: float = 0.8, epoch_batches: int = 10, drift: float = 0.05
    ) -> None:
        self._sizes = sorted(set(sizes))
        if not self._sizes or self._sizes[0] < 1:
            raise ValueError(f"batch sizes must be whole numbers from 1 up, not {list(sizes)}")
        if not 0 < cap_margin <= 1:
            raise ValueError(f"cap_margin must lie in (0, 1], not {cap_margin}")
        if epoch_batches < 1:
            raise ValueError(f"epoch_batches must be at least 1, not {epoch_batches}")
        self._margin = cap_margin
        self._epoch = epoch_batches
        self._drift = drift
        self._current = 0
        self._top = len(self._sizes) - 1
        self._cap_w: float | None = None
        self._gap_w = 0.0
        self._peak_w = 0.0
        self._count = 0
        self._decision = Decision(self._sizes[0], "searching", "start at the smallest batch size")
        self._restore()

    @property
    def decision(self) -> Decision:
        return self._decision

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        if cap_w != self._cap_w:
            if self._cap_w is not None:
                self._reopen(f"the cap changed from {self._cap_w:g} W to {cap_w:g} W")
            self._cap_w = cap_w
        self._limit(telemetry.largest)
        size = self._sizes[self._current]
        partly = telemetry.batch < size and telemetry.power_w > cap_w
        if telemetry.batch == size or partly:
            self._peak_w = max(self._peak_w, telemetry.power_w)
            self._count += telemetry.batches
            if self._count >= self._epoch:
                peak_w, self._peak_w, self._count = self._peak_w, 0.0, 0
                self._decide(peak_w, cap_w)
        return self._decision

    def _restore(self) -> None:
        """Full bounds."""
        self._below, self._above = -1, self._top + 1

    def _reopen(self, reason: str) -> None:
        self._restore()
        self._decision = Decision(self._sizes[self._current], "searching", reason)

    def _limit(self, largest: int | None) -> None:
        """Keep to the largest size that is allowed."""
        top = len(self._sizes) - 1
        if largest is not None:
            top = max(bisect.bisect_right(self._sizes, largest) - 1, 0)
        if top == self._top:
            return
        self._top = top
        self._reopen(f"sizes up to {self._sizes[top]} are allowed now")
        if self._current > top:
            self._move(top, f"sizes above {self._sizes[top]} are not allowed now")

    def _decide(self, peak_w: float, cap_w: float) -> None:
        floor_w = self._margin * cap_w
        drawn = f"batch size {self._sizes[self._current]} draws {peak_w:.4g} W"
        if floor_w <= peak_w <= cap_w:
            self._stay("settled", f"{drawn}, within {floor_w:.4g} to {cap_w:.4g} W")
            return
        if self._decision.state == "settled":
            self._restore()
        if peak_w > cap_w:
            self._lower(f"{drawn}, above the cap of {cap_w:.4g} W")
        else:
            self._raise(peak_w, cap_w, f"{drawn}, below {floor_w:.4g} W")

    def _lower(self, drawn: str) -> None:
        current = self._current
        if self._below >= current:  # it was known to draw too little: the load has changed
            self._restore()
        self._above = current
        if current == 0:
            self._stay("smallest", f"{drawn}; it is the smallest, so the cap cannot be met by batch size")
            return
        self._move(math.floor((max(self._below, 0) + current) / 2), drawn)

    def _raise(self, peak_w: float, cap_w: float, drawn: str) -> None:
        current = self._current
        fallen = self._decision.state == "gap" and peak_w < self._gap_w - self._drift * cap_w
        if self._above <= current or fallen:  # it, or the next, was known to draw too much: the load has changed
            self._restore()
        self._below = current
        if current == self._top:
            self._stay("largest", f"{drawn}; it is the largest, so throughput cannot rise by batch size")
            return
        if self._above == current + 1:
            if self._decision.state != "gap":
                self._gap_w = peak_w
            self._stay("gap", f"{drawn}; the next size, {self._sizes[self._above]}, exceeds the cap")
            return
        self._move(math.ceil((current + min(self._above, self._top)) / 2), drawn)

    def _move(self, index: int, reason: str) -> None:
        self._current = index
        self._peak_w, self._count = 0.0, 0
        self._decision = Decision(self._sizes[index], "searching", reason)

    def _stay(self, state: State, reason: str) -> None:
        self._decision = Decision(self._sizes[self._current], state, reason)


POLICIES: Mapping[str, Callable[[Sequence[int], float], Policy]] = {
    "paper": lambda sizes, cap_margin: PaperPolicy(sizes, cap_margin=cap_margin),
}
"""Policies by name; each is made from the batch sizes and the cap margin."""


def make_policy(policy: str | Policy, sizes: Sequence[int], cap_margin: float) -> Policy:
    """A policy by name, or the one given.

    Raises:
        ValueError: the name is unknown, or the sizes or the margin are out of range.
    """
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}; there are {', '.join(POLICIES)}")
    return POLICIES[policy](sizes, cap_margin)
