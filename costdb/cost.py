"""Costs, failures, and the key under which they are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

TimeSource = Literal["measured", "replay", "simulated", "estimated"]
EnergySource = Literal["nvml", "rapl", "zeus", "replay", "simulated", "estimated"]
FailureKind = Literal["build", "run", "crash", "timeout", "memory"]


@lru_cache(maxsize=1 << 16)
def _digest(length: int, *texts: str) -> str:
    """The first hexadecimal digits of SHA-256 over texts that are joined by NUL, which none of them may hold."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:length]


@dataclass(frozen=True)
class CostKey:
    """All that decides what one operator costs under one algorithm on one device.

    Every field but the mappings is plain text, so that two machines write the same key for the same thing.

    Attributes:
        operator: e.g. ``conv2d``.
        attributes: the operator's attributes, as text.
        epilogue: the fused steps, as text.
        shapes: operand and result types, constants marked, as text.
        layouts: layout of each operand and result.
        placement: where operands are read from and results written to (``own`` where each has its own buffer).
        algorithm: the algorithm's name.
        parameters: its parameters, as text.
        digest: digest of what the algorithm lowers to, so that an edited kernel never meets a stale row.
        device: the device's fingerprint.
        compiler: the compiler with its version, e.g. ``tvm-0.27.0``.
        energy_source: where joules come from.
        protocol: the measurement protocol with its version.
    """

    operator: str
    attributes: str
    epilogue: str
    shapes: str
    layouts: str
    placement: str
    algorithm: str
    parameters: str
    digest: str
    device: str
    compiler: str
    energy_source: EnergySource
    protocol: str

    @cached_property
    def id(self) -> str:
        """The row's primary key: 64 hexadecimal digits, of which keys that are asked for together share the first.

        16 are of where and how it was measured, 24 of what is computed, 24 of the way in which it is. So what one
        search looks up, all algorithms of many operators on one device, lies together in an index.
        """
        context = _digest(16, self.device, self.compiler, self.energy_source, self.protocol)
        subject = _digest(24, self.operator, self.attributes, self.epilogue, self.shapes)
        way = _digest(24, self.layouts, self.placement, self.algorithm, self.parameters, self.digest)
        return context + subject + way

    def __hash__(self) -> int:
        """By the id, which is found once, and not by thirteen texts each time."""
        return hash(self.id)


@dataclass(frozen=True)
class Cost:
    """What one execution costs.

    Attributes:
        time_s: mean seconds.
        energy_j: mean joules, None where no energy source was at hand.
        time_source: where the seconds come from.
        energy_source: where the joules come from.
        spread: half width of the 95% confidence interval of the mean time, relative to it.
        samples: how many timed samples the mean rests on.
    """

    time_s: float
    energy_j: float | None
    time_source: TimeSource
    energy_source: EnergySource | None
    spread: float = 0.0
    samples: int = 1

    @property
    def power_w(self) -> float | None:
        """Mean power, None where no energy is known."""
        return None if self.energy_j is None else self.energy_j / self.time_s


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no cost: it did not build, failed, crashed, ran too long or took too much memory."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True)
class Measurement:
    """One row: a key, its outcome, and where and how it was found (no part of the key).

    Attributes:
        provenance: host, date (ISO 8601, UTC), observed clocks and temperature, as far as known.
    """

    key: CostKey
    outcome: Cost | Failure
    provenance: Mapping[str, str] = field(default_factory=dict)
