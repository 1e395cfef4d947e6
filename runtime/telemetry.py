"""What a session saw: a bounded timeline and running totals."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from joulec.costdb.cost import EnergySource

_SLACK = 1 + 1e-6  # relative; a mean that a pause brought to the cap is not above it
_MOST_CHANGES = 1000


@dataclass(frozen=True)
class Sample:
    """A stretch of a session's time.

    Attributes:
        t_s: its start, in seconds since the session's.
        seconds: its length.
        batch: the batch size that ran.
        batches: how many batches ran.
        items: rows of requests computed (padding not counted).
        power_w: mean power, None where unknown.
        peak_w: highest reading in it.
        cap_w: the cap in force, None where there is none.
        power_source: where the power comes from.
        variant: which variant of the graph ran; None where there is one only.
        clock_hz: the device clock that was asked for; None where the driver chooses.
    """

    t_s: float
    seconds: float
    batch: int
    batches: int
    items: int
    power_w: float | None = None
    peak_w: float | None = None
    cap_w: float | None = None
    power_source: EnergySource | None = None
    variant: str | None = None
    clock_hz: float | None = None

    @property
    def setting(self) -> tuple[object, ...]:
        """What must agree for two samples to be told as one."""
        return self.batch, self.variant, self.clock_hz, self.cap_w, self.power_source

    @property
    def throughput(self) -> float:
        """Items per second."""
        return self.items / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, float | int | str | None]:
        """A JSON-able mapping."""
        return {**self.__dict__, "throughput": self.throughput}

    def joined(self, later: Sample) -> Sample:
        """One sample over both; the setting is that of the longer."""
        seconds = later.t_s + later.seconds - self.t_s
        longer = self if self.seconds >= later.seconds else later
        power_w = self.power_w if later.power_w is None else later.power_w
        if self.power_w is not None and later.power_w is not None and self.seconds + later.seconds > 0:
            joules = self.power_w * self.seconds + later.power_w * later.seconds
            power_w = joules / (self.seconds + later.seconds)
        peak_w = self.peak_w if later.peak_w is None else later.peak_w
        if self.peak_w is not None and later.peak_w is not None:
            peak_w = max(self.peak_w, later.peak_w)
        return Sample(
            self.t_s,
            seconds,
            longer.batch,
            self.batches + later.batches,
            self.items + later.items,
            power_w,
            peak_w,
            longer.cap_w,
            longer.power_source,
            longer.variant,
            longer.clock_hz,
        )


@dataclass(frozen=True)
class BatchChange:
    """The session went from one batch size to another, or to another variant of the graph.

    Attributes:
        t_s: when, in seconds since the session's start.
        before: the batch size before.
        after: the batch size after.
        reason: why.
        variant: the variant after; None where there is one only.
    """

    t_s: float
    before: int
    after: int
    reason: str
    variant: str | None = None


@dataclass(frozen=True)
class Totals:
    """Sums over a session.

    Attributes:
        batches: batches that ran.
        items: rows of requests computed.
        seconds: seconds covered by samples.
        metered_s: seconds of them in which power was known.
        energy_j: joules in those.
        above_cap_s: seconds of samples whose mean power exceeded the cap.
        violations: unbroken stretches of such samples.
        batch_changes: changes of batch size.
        variant_changes: changes of variant.
    """

    batches: int = 0
    items: int = 0
    seconds: float = 0.0
    metered_s: float = 0.0
    energy_j: float = 0.0
    above_cap_s: float = 0.0
    violations: int = 0
    batch_changes: int = 0
    variant_changes: int = 0


@dataclass(slots=True)
class _Tail:
    """A stretch of unknown power that still grows."""

    t_s: float
    end_s: float
    batches: int
    items: int
    setting: tuple[int, float | None, str | None, float | None]

    def sample(self) -> Sample:
        batch, cap_w, variant, clock_hz = self.setting
        return Sample(
            self.t_s,
            self.end_s - self.t_s,
            batch,
            self.batches,
            self.items,
            cap_w=cap_w,
            variant=variant,
            clock_hz=clock_hz,
        )


class Recorder:
    """Keeps a session's samples, at most ``limit`` of them: when full, neighbours are joined and the resolution halves.

    Joining prefers neighbours with equal settings (batch size, variant, clock, cap), so that changes stay visible.
    Written by one thread, read by any.
    """

    def __init__(self, limit: int = 2000) -> None:
        self._limit = max(limit, 8)
        self._lock = threading.Lock()
        self._samples: list[Sample] = []
        self._changes: list[BatchChange] = []
        self._batches = self._items = self._violations = self._batch_changes = self._variant_changes = 0
        self._seconds = self._metered_s = self._energy_j = self._above_cap_s = 0.0
        self._latest: Sample | None = None
        self._tail: _Tail | None = None
        self._resolution_s = 0.0
        self._above = False

    @property
    def samples(self) -> list[Sample]:
        """A copy of the timeline."""
        with self._lock:
            return [*self._samples, *([] if self._tail is None else [self._tail.sample()])]

    @property
    def latest(self) -> Sample | None:
        """The last sample as it was added, or the last stretch of unknown power; None before the first."""
        with self._lock:
            return self._latest if self._tail is None else self._tail.sample()

    @property
    def changes(self) -> list[BatchChange]:
        """The first thousand changes of batch size or variant."""
        with self._lock:
            return list(self._changes)

    @property
    def totals(self) -> Totals:
        """The sums so far."""
        with self._lock:
            return Totals(
                self._batches,
                self._items,
                self._seconds,
                self._metered_s,
                self._energy_j,
                self._above_cap_s,
                self._violations,
                self._batch_changes,
                self._variant_changes,
            )

    def add(self, sample: Sample) -> None:
        """Append a sample."""
        above = sample.power_w is not None and sample.cap_w is not None and sample.power_w > sample.cap_w * _SLACK
        with self._lock:
            self._flush()
            self._latest = sample
            self._batches += sample.batches
            self._items += sample.items
            self._seconds += sample.seconds
            if sample.power_w is not None:
                self._metered_s += sample.seconds
                self._energy_j += sample.power_w * sample.seconds
            if above:
                self._above_cap_s += sample.seconds
                self._violations += not self._above
            self._above = above
            self._append(sample)

    def count(
        self,
        t_s: float,
        seconds: float,
        items: int,
        setting: tuple[int, float | None, str | None, float | None],
    ) -> None:
        """One batch of unknown power: what `add` would make of it, in less time.

        Args:
            t_s: its start, in seconds since the session's.
            seconds: its length.
            items: rows in it that are not padding.
            setting: batch size, cap, variant and clock.
        """
        with self._lock:
            self._batches += 1
            self._items += items
            self._seconds += seconds
            self._above = False
            tail, end_s = self._tail, t_s + seconds
            if tail is not None and tail.setting == setting and end_s - tail.t_s <= self._resolution_s:
                tail.end_s = end_s
                tail.batches += 1
                tail.items += items
                return
            self._flush()
            self._tail = _Tail(t_s, end_s, 1, items, setting)

    def _flush(self) -> None:
        """The stretch of unknown power is over."""
        tail, self._tail = self._tail, None
        if tail is not None:
            self._latest = tail.sample()
            self._append(self._latest)

    def _append(self, sample: Sample) -> None:
        if self._samples and self._joins(self._samples[-1], sample):
            self._samples[-1] = self._samples[-1].joined(sample)
        else:
            self._samples.append(sample)
        if len(self._samples) > self._limit:
            self._compress()

    def change(self, change: BatchChange, *, of_variant: bool = False) -> None:
        """Note a change of batch size, or of the variant, or of both."""
        with self._lock:
            self._batch_changes += change.before != change.after
            self._variant_changes += of_variant
            if len(self._changes) < _MOST_CHANGES:
                self._changes.append(change)

    def _joins(self, earlier: Sample, later: Sample) -> bool:
        return earlier.setting == later.setting and later.t_s + later.seconds - earlier.t_s <= self._resolution_s

    def _compress(self) -> None:
        first, last = self._samples[0], self._samples[-1]
        span = last.t_s + last.seconds - first.t_s
        self._resolution_s = max(2 * self._resolution_s, 4 * span / self._limit)
        joined: list[Sample] = []
        for sample in self._samples:
            if joined and self._joins(joined[-1], sample):
                joined[-1] = joined[-1].joined(sample)
            else:
                joined.append(sample)
        if len(joined) > 3 * self._limit // 4:  # the size or the cap changes too often to keep every change
            pairs = zip(joined[::2], joined[1::2], strict=False)
            joined = [a.joined(b) for a, b in pairs] + joined[len(joined) // 2 * 2 :]
        self._samples = joined
