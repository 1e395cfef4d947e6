"""Which batch sizes keep to a latency objective."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

_RECENT = 5
_ENOUGH = 3
_FORGET_AFTER = 500


class LatencyGuard:
    """Learns how long a batch of each size takes and forbids the sizes that take longer than the objective.

    A size is judged by the median of its last five batches, from three on; what forbade a size is forgotten after 500
    batches, so that it is tried again. A request's own waiting in the queue comes on top and is not judged here.

    Args:
        sizes: the batch sizes, ascending. The smallest is never forbidden.
        slo_s: the objective in seconds.
        variants: of the graph; a size is forbidden where all of them take too long.

    Raises:
        ValueError: the objective is not above zero.
    """

    def __init__(self, sizes: Sequence[int], slo_s: float, variants: Sequence[str | int] = (0,)) -> None:
        if not slo_s > 0:
            raise ValueError(f"latency_slo_s must be above 0, not {slo_s}")
        self._sizes = list(sizes)
        self._slo_s = slo_s
        self._variants = tuple(variants)
        keys = [(size, variant) for size in sizes for variant in variants]
        self._recent: dict[tuple[int, str | int], deque[float]] = {key: deque(maxlen=_RECENT) for key in keys}
        self._seen = dict.fromkeys(keys, 0)
        self._batches = 0

    def observe(self, size: int, seconds: float, variant: str | int = 0) -> None:
        """Note how long a batch took."""
        self._batches += 1
        self._recent[size, variant].append(seconds)
        self._seen[size, variant] = self._batches
        for other, seen in self._seen.items():
            if self._batches - seen > _FORGET_AFTER:
                self._recent[other].clear()

    def meets(self, size: int, variant: str | int = 0) -> bool:
        """Whether the size in that variant keeps to the objective, as far as is known."""
        recent = self._recent[size, variant]
        return len(recent) < _ENOUGH or statistics.median(recent) <= self._slo_s

    def meeting(self, size: int, wanted: str | int = 0) -> str | int:
        """The variant wanted, or, where it takes too long at this size, the next that does not (from the first on)."""
        choices = (wanted, *self._variants)
        return next((variant for variant in choices if self.meets(size, variant)), wanted)

    @property
    def largest(self) -> int:
        """The largest size below which, and at which, all sizes meet the objective; the smallest at least."""
        allowed = self._sizes[0]
        for size in self._sizes[1:]:
            if not any(self.meets(size, variant) for variant in self._variants):
                break
            allowed = size
        return allowed

    def expected_s(self, size: int) -> float:
        """How long a batch of the size takes, as far as is known; otherwise 0."""
        known = [statistics.median(recent) for key, recent in self._recent.items() if key[0] == size and recent]
        return max(known, default=0.0)

    def slack_s(self, size: int) -> float:
        """How long a request may wait before a batch of the size must start."""
        return max(0.0, self._slo_s - self.expected_s(size))
