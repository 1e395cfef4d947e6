"""What a policy is told and what it answers.

A policy knows neither clock nor device and does no input or output: the same sequence of telemetry and caps gives the
same decisions. Time comes to it in the telemetry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

State = Literal["searching", "settled", "gap", "largest", "smallest", "held"]
"""Where a policy stands.

``searching``: still adjusting; ``settled``: the choice stands; ``gap``: it draws less than the band and the next one up
exceeds the cap; ``largest``: below the band and nothing further up, ``smallest``: above the cap and nothing further
down, so that only pauses between batches keep to it; ``held``: not decided by power (no cap, or power unknown).
"""


@dataclass(frozen=True, order=True)
class Configuration:
    """What the runtime can choose.

    Attributes:
        batch: the batch size, in rows.
        variant: which compiled variant of the graph; 0 is the only one, or the fastest.
        clock_hz: the device clock asked for, in hertz; None leaves it to the driver.
    """

    batch: int
    variant: str | int = 0
    clock_hz: float | None = None

    def __str__(self) -> str:
        clock = "" if self.clock_hz is None else f" at {self.clock_hz / 1e6:.0f} MHz"
        variant = "" if self.variant == 0 else f" of variant {self.variant}"
        return f"batch size {self.batch}{variant}{clock}"


@dataclass(frozen=True)
class Space:
    """The configurations to choose from: every batch size with every variant and every clock.

    Args:
        batches: batch sizes, in rows.
        variants: variants of the graph, from fast to frugal.
        clocks_hz: clocks that can be set, in hertz; ``(None,)`` where clocks cannot be set.

    Raises:
        ValueError: one of them is empty, or a batch size is below 1.
    """

    batches: Sequence[int]
    variants: Sequence[str | int] = (0,)
    clocks_hz: Sequence[float | None] = (None,)

    def __post_init__(self) -> None:
        batches = tuple(sorted(set(self.batches)))
        if not batches or batches[0] < 1:
            raise ValueError(f"batch sizes must be whole numbers from 1 up, not {list(self.batches)}")
        if not self.variants or not self.clocks_hz:
            raise ValueError("there must be at least one variant and one clock (None where it cannot be set)")
        object.__setattr__(self, "batches", batches)
        object.__setattr__(self, "variants", tuple(self.variants))
        clocks = tuple(sorted(set(self.clocks_hz), key=lambda clock: float("inf") if clock is None else clock))
        object.__setattr__(self, "clocks_hz", clocks)

    def __iter__(self) -> Iterator[Configuration]:
        for variant in self.variants:
            for batch in self.batches:
                for clock_hz in self.clocks_hz:
                    yield Configuration(batch, variant, clock_hz)

    def __len__(self) -> int:
        return len(self.batches) * len(self.variants) * len(self.clocks_hz)

    @property
    def safest(self) -> Configuration:
        """Least batch and clock, most frugal variant: where to be when nothing is known of power."""
        return Configuration(self.batches[0], self.variants[-1], self.clocks_hz[0])

    def at_full_clock(self) -> list[Configuration]:
        """The fast variant's batch sizes, ascending, at the highest clock (or the driver's): the paper's knob."""
        return [Configuration(batch, self.variants[0], self.clocks_hz[-1]) for batch in self.batches]


@dataclass(frozen=True)
class Telemetry:
    """What was seen since the last step.

    Attributes:
        configuration: what ran, the smallest batch size where several did; None where nothing can be said of one
            configuration (idle, mixed).
        power_w: mean of the valid power readings in the window, in watts; None where there was none.
        peak_w: the highest of them; None to take ``power_w``.
        t_s: the window's end, in seconds since the start.
        seconds: its length.
        batches: batches that ran in it.
        batch_s: mean seconds of a batch; None where unknown.
        latency_s: tail latency of a batch, in seconds: the longest in the window; None where unknown.
        items: rows computed, padding not counted.
        readings: valid power readings in the window. None of them says nothing against the sensor (``valid`` does):
            it may only be slower than the batches.
        age_s: the age of the newest reading, at ``t_s``.
        sensor_window_s: over how long a reading averages, in seconds.
        whole: whether each reading averages over whole batches instead, so that all mean the same.
        valid: whether power is known at all: False where the meter failed or what it reads makes no sense.
        queued: rows that wait.
        largest: the largest batch size that is allowed now for other reasons (latency, failures), None for all.
        failed: the configuration could not be run (its kernel raised an error).
    """

    configuration: Configuration | None
    power_w: float | None
    peak_w: float | None = None
    t_s: float = 0.0
    seconds: float = 0.0
    batches: int = 1
    batch_s: float | None = None
    latency_s: float | None = None
    items: int = 0
    readings: int = 1
    age_s: float = 0.0
    sensor_window_s: float = 0.0
    whole: bool = False
    valid: bool = True
    queued: int = 0
    largest: int | None = None
    failed: bool = False

    @property
    def highest_w(self) -> float | None:
        """The highest reading, which spikes determine (second paper, Section 4.2); None without a reading."""
        if self.peak_w is None or self.power_w is None:
            return self.power_w
        return max(self.power_w, self.peak_w)


@dataclass(frozen=True)
class Decision:
    """What to do next.

    Attributes:
        configuration: what to run.
        state: where the policy stands.
        reason: for people.
        fault: what is wrong with the sensor, the cap or a kernel, for one warning while it lasts; None while all is
            well.
    """

    configuration: Configuration
    state: State
    reason: str = ""
    fault: str | None = None

    @property
    def batch(self) -> int:
        """The batch size to run."""
        return self.configuration.batch


@dataclass(frozen=True)
class Prediction:
    """What the optimizer expects of a configuration: seconds per batch, and mean watts while it runs."""

    time_s: float
    power_w: float


@dataclass(frozen=True)
class Predictions:
    """The prior of a model-predictive policy.

    Attributes:
        entries: what is expected of each configuration. Those without one are not chosen.
        error: how far an entry may be off, as a share of it (0.2: by up to 20%).
    """

    entries: Mapping[Configuration, Prediction] = field(default_factory=dict)
    error: float = 0.2


class Policy(Protocol):
    """Chooses configurations. Deterministic; holds its own state; does no input or output."""

    @property
    def name(self) -> str:
        """How the user names it."""

    @property
    def decision(self) -> Decision:
        """The latest decision; before any reading, where to start."""

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        """Take what was seen and the cap now in force, in watts, and decide.

        Called after a batch, at the latest when a new power reading is there, and at once when the cap has changed
        (with or without a reading).
        """
