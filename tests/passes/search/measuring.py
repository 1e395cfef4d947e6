"""Algorithms, a back end and a profiler out of tables, for tests of what is looked up and measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from joulec.costdb.cost import Cost, CostKey, Measurement
from joulec.costdb.memory import MemoryStore
from joulec.profiler.candidate import Candidate, Work


@dataclass(frozen=True)
class Fake:
    """An algorithm with a roofline of its own."""

    name: str
    bound_s: float = 0.0
    flops: float = 0.0

    def work(self, spec):
        return Work(self.flops, 0.0)

    def lower_bound_s(self, spec):
        return self.bound_s


@dataclass
class FakeBackEnd:
    """Algorithms by operator."""

    table: dict
    name: str = "fake"

    def fuses(self, spec, step):
        return False

    def algorithms(self, spec):
        return self.table.get(str(spec.op), ())

    def key(self, spec, algorithm):
        text = dict.fromkeys(CostKey.__dataclass_fields__, "")
        return CostKey(**{**text, "operator": str(spec), "algorithm": algorithm.name, "energy_source": "estimated"})

    def candidate(self, spec, algorithm):
        label = f"{spec} by {algorithm.name}"
        return Candidate(self.key(spec, algorithm), "module:build", None, algorithm.work(spec), label)


class CountingStore(MemoryStore):
    """Remembers what was looked up."""

    def __init__(self):
        super().__init__()
        self.looked_up = []

    def get_many(self, keys):
        keys = list(keys)
        self.looked_up.append(keys)
        return super().get_many(keys)


@dataclass
class FakeProfiler:
    """Measures out of a table, in order, stores, and remembers."""

    store: CountingStore
    outcomes: dict
    asked: list = field(default_factory=list)
    measured: list = field(default_factory=list)
    rivals: dict = field(default_factory=dict)
    judge: object = None
    enough: int | None = None

    def __call__(self, candidates, keep_going, learn, rivalry):
        for candidate in candidates:
            name = candidate.key.algorithm
            self.asked.append(name)
            if self.enough is not None and len(self.measured) >= self.enough:
                continue
            if not keep_going(candidate):
                continue
            self.rivals[name] = [rival.time_s for rival in rivalry.known(candidate)]
            self.judge = rivalry.prefers if rivalry.judges else None
            outcome = self.outcomes[name]
            if isinstance(outcome, tuple):
                outcome = Cost(*outcome, "measured", "estimated")
            self.store.put_many([Measurement(candidate.key, outcome)])
            self.measured.append(name)
            learn(candidate.key, outcome)


def watts(power, per_flop=0.0):
    """Joules of (work, seconds) at constant power and so many joules per operation."""
    return lambda work, seconds: power * seconds + per_flop * work.flops
