"""A closed loop of requests that keeps a session busy for a while, and what came of it."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.runtime.metrics import serve_metrics
from joulec.runtime.model import Model
from joulec.runtime.policies import State
from joulec.runtime.session import Session
from joulec.runtime.telemetry import BatchChange, Sample

_Array = npt.NDArray[Any]

_POOL = 64
_KEPT_LATENCIES = 100_000


@dataclass(frozen=True)
class RunResult:
    """What a closed-loop run gave.

    Attributes:
        duration_s: how long it ran.
        items: rows computed.
        requests: requests computed; a request is one row, or one whole input of a model that is not batched.
        throughput: items per second.
        latency_p50_s: median time from a request's submission to its answer, waiting in the full queue included.
        latency_p95_s: 95th percentile of the same.
        latency_p99_s: 99th percentile of the same.
        batches: batches run.
        policy: the policy that chose, by its name; None where there was no cap.
        batch: the batch size at the end.
        variant: the variant of the graph at the end; None where there is one only.
        state: where the policy stood at the end.
        reason: why.
        power_w: mean power over the time in which it was known; None where it never was.
        energy_j: joules in that time.
        energy_per_item_j: mean power by throughput.
        power_source: where power comes from.
        power_cap_w: the cap at the end.
        above_cap_s: seconds of readings above the cap.
        violations: unbroken stretches of such readings.
        batch_changes: when the batch size or the variant changed, and why.
        notices: what the user was warned of.
        timeline: samples over time.
    """

    duration_s: float
    items: int
    requests: int
    throughput: float
    latency_p50_s: float | None
    latency_p95_s: float | None
    latency_p99_s: float | None
    batches: int
    policy: str | None
    batch: int
    variant: str | None
    state: State
    reason: str
    power_w: float | None
    energy_j: float | None
    energy_per_item_j: float | None
    power_source: str | None
    power_cap_w: float | None
    above_cap_s: float
    violations: int
    batch_changes: list[BatchChange]
    notices: list[str]
    timeline: list[Sample]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able mapping."""
        data = dict(self.__dict__)
        data["batch_changes"] = [dict(change.__dict__) for change in self.batch_changes]
        data["timeline"] = [sample.to_json() for sample in self.timeline]
        return data


class _Latencies:
    """Latencies of requests; beyond a number of them, a fair sample."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kept: list[float] = []
        self.count = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        if len(self._kept) < _KEPT_LATENCIES:
            self._kept.append(seconds)
            return
        index = self._random.randrange(self.count)
        if index < _KEPT_LATENCIES:
            self._kept[index] = seconds

    def percentile(self, share: float) -> float | None:
        return float(np.percentile(self._kept, share)) if self._kept else None


def drive(
    model: Model | Callable[..., Any],
    *,
    duration_s: float,
    inputs: Sequence[_Array] | None = None,
    seed: int = 0,
    each: Callable[[Session], None] | None = None,
    metrics_port: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    **options: Any,
) -> RunResult:
    """Keep a session's queue full for a while.

    Args:
        model: a joulec model, or a callable (which needs ``inputs``).
        duration_s: how long; what is queued then is still computed, but not counted.
        inputs: arrays whose rows are the requests, over and over; seeded random ones when None. Of a model that is not
            batched: its inputs, which make one request.
        seed: of the random inputs.
        each: called before each submission, e.g. to change the cap.
        metrics_port: where the session's Prometheus metrics are offered meanwhile; None for nowhere.
        clock: monotonic seconds; the session's too.
        **options: the `Session`'s.

    Raises:
        ValueError: the duration is not above zero, or a callable came without inputs.
        MetricsError: the port cannot be had.
        Exception: what the first request that failed raised.
    """
    if not duration_s > 0:
        raise ValueError(f"duration_s must be above 0, not {duration_s}")
    requests = _requests(model, inputs, seed)
    latencies, lock = _Latencies(seed), threading.Lock()
    with Session(model, clock=clock, **options) as session, _metrics(session, metrics_port):
        free = threading.Semaphore(2 * max(session.batch_sizes))
        pending: deque[Future[Any]] = deque()
        start_s = clock()
        end_s = start_s + duration_s
        number = 0
        while clock() < end_s:
            if each is not None:
                each(session)
            if not free.acquire(timeout=0.05):
                continue
            submitted_s = clock()
            future = session.submit(*requests[number % len(requests)])

            def answered(done: Future[Any], since_s: float = submitted_s) -> None:
                with lock:
                    latencies.add(clock() - since_s)
                free.release()

            future.add_done_callback(answered)
            pending.append(future)
            number += 1
            while pending and pending[0].done():
                pending.popleft().result()  # the first failure ends the run
        elapsed_s = clock() - start_s
        result = _result(session, elapsed_s, latencies, lock)
        session.close(drain=False)
    return result


def _metrics(session: Session, port: int | None) -> AbstractContextManager[object]:
    return nullcontext() if port is None else serve_metrics(session, port)


def _requests(model: Model | Callable[..., Any], inputs: Sequence[_Array] | None, seed: int) -> list[list[_Array]]:
    """The requests to repeat: one row each, or one whole input of a model that is not batched."""
    if not isinstance(model, Model):
        if not inputs:
            raise ValueError("driving a plain callable needs inputs")
        return [[array[row : row + 1] for array in inputs] for row in range(len(inputs[0]))]
    smallest = model.batch_sizes[0]
    if not model.batched:
        return [model.random_inputs(smallest, seed) if inputs is None else list(inputs)]
    if inputs is None:
        calls = [model.random_inputs(smallest, seed + index) for index in range(-(-_POOL // smallest))]
        inputs = [np.concatenate(arrays) for arrays in zip(*calls, strict=True)]
    for entry in model.manifest.entries:  # the first call of an entry allocates memory; that is no part of a run
        model.run_batch(entry.batch, model.random_inputs(entry.batch, seed), entry.variant)
    return [[array[row : row + 1] for array in inputs] for row in range(len(inputs[0]))]


def _result(session: Session, elapsed_s: float, latencies: _Latencies, lock: threading.Lock) -> RunResult:
    totals, timeline, decision = session.totals, session.timeline, session.decision
    power_w = totals.energy_j / totals.metered_s if totals.metered_s else None
    throughput = totals.items / elapsed_s
    with lock:
        count = latencies.count
        percentiles = [latencies.percentile(share) for share in (50, 95, 99)]
    return RunResult(
        duration_s=elapsed_s,
        items=totals.items,
        requests=count,
        throughput=throughput,
        latency_p50_s=percentiles[0],
        latency_p95_s=percentiles[1],
        latency_p99_s=percentiles[2],
        batches=totals.batches,
        policy=session.policy,
        batch=decision.batch,
        variant=session.variant,
        state=decision.state,
        reason=decision.reason,
        power_w=power_w,
        energy_j=totals.energy_j if totals.metered_s else None,
        energy_per_item_j=power_w / throughput if power_w is not None and throughput else None,
        power_source=next((sample.power_source for sample in reversed(timeline) if sample.power_source), None),
        power_cap_w=session.power_cap_w,
        above_cap_s=totals.above_cap_s,
        violations=totals.violations,
        batch_changes=session.batch_changes,
        notices=session.notices,
        timeline=timeline,
    )
