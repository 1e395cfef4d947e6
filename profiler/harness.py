"""Measuring candidates, one after another, in a worker process that may crash, hang or run out of memory."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Self

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.store import CostStore
from joulec.profiler.candidate import Candidate
from joulec.profiler.cpu import default_threads
from joulec.profiler.meter import Meter
from joulec.profiler.process import HarnessError, Limits, WorkerProcess
from joulec.profiler.protocol import Adaptive, MeasurementProtocol
from joulec.profiler.sharing import POLL_S, claim, turn

__all__ = ["Harness", "HarnessError", "Limits", "ProfilingSummary", "profile"]

SPIN_COUNT = "100"
"""How long TVM's idle threads spin: without a limit they burn 170 ms of every core after each call."""


class Harness:
    """Builds and times candidates in one worker process, and keeps each outcome the moment it is known.

    The worker stays between calls of `measure`, so that it loads the compiler once. Each candidate is built and then
    timed, and only then the next one is built: nothing ever runs beside a timing. A worker that crashed, hung or
    ran out of memory, or whose candidate failed while running, is replaced. Use as a context manager, from one thread.
    """

    def __init__(
        self,
        store: CostStore,
        meter_factory: Callable[[], Meter],
        *,
        protocol: MeasurementProtocol | None = None,
        threads: int | None = None,
        limits: Limits | None = None,
        paths: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; the worker starts when the first candidate comes.

        Args:
            store: where outcomes go, one by one.
            meter_factory: opens the meter in the worker; picklable (`joulec.profiler.meters.ChosenMeter.factory`).
            protocol: how to time; `Adaptive` when omitted.
            threads: threads of each candidate; all that this process may use when omitted.
            limits: when a candidate counts as failed.
            paths: folders in which the worker looks for modules before all others.
            environment: variables of the worker that take precedence over this process's and over those that set the
                number of threads.
        """
        self._store = store
        self._meter_factory = meter_factory
        self._protocol = protocol or Adaptive()
        self._threads = threads or default_threads()
        self._limits = limits or Limits()
        self._paths = tuple(paths)
        self._environment = dict(environment or {})
        self._worker: WorkerProcess | None = None

    def measure(
        self,
        candidates: Sequence[Candidate],
        on_result: Callable[[Measurement], None] | None = None,
        keep_going: Callable[[Candidate], bool] | None = None,
        give_up_s: Callable[[Candidate], float | None] | None = None,
    ) -> list[Measurement]:
        """Measure candidates in their order; candidates of equal key are measured once.

        Args:
            candidates: what to measure, whatever the store already holds (`profile` looks there first).
            on_result: called with each outcome after it is stored.
            keep_going: asked right before a candidate is built and timed; False skips this one.
            give_up_s: asked right before a candidate is timed: seconds per call beyond which it is so far behind that
                a single sample of it will do (`Adaptive`; its cost is stored with that one sample); None for never.

        Returns:
            The outcomes in the order in which they were found, failures included; nothing for those skipped.

        Raises:
            MeterError: the meter cannot be opened or read.
            HarnessError: the worker cannot start, or a builder, payload or key does not fit this harness.
            CostStoreError: an outcome cannot be stored.
        """
        for candidate in candidates:
            if candidate.key.protocol != self._protocol.version:
                raise HarnessError(
                    f"{candidate.label}: its key is for the protocol {candidate.key.protocol}, "
                    f"this harness measures by {self._protocol.version}"
                )
        done: dict[CostKey, Measurement] = {}
        try:
            for candidate in candidates:
                if candidate.key in done or (keep_going is not None and not keep_going(candidate)):
                    continue
                measurement = self._measure(candidate, give_up_s)
                self._store.put_many([measurement])
                done[candidate.key] = measurement
                if on_result is not None:
                    on_result(measurement)
        except BaseException:  # an interrupt too: what was measured is stored, the worker must not outlive the call
            self.close()
            raise
        return list(done.values())

    def _measure(self, candidate: Candidate, give_up_s: Callable[[Candidate], float | None] | None) -> Measurement:
        worker = self._ready_worker()
        if candidate.key.energy_source != worker.source:
            raise HarnessError(
                f"{candidate.label}: its key is for energy from {candidate.key.energy_source}, "
                f"this harness's meter gives {worker.source}"
            )
        failure = worker.build(candidate)
        if failure is None:
            outcome, provenance = worker.time(candidate, None if give_up_s is None else give_up_s(candidate))
            if not isinstance(outcome, Failure):
                return Measurement(candidate.key, outcome, provenance)
            failure = outcome
            self.close()  # what failed while running may have left the device in any state
        elif failure.kind != "build":
            self.close()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Measurement(candidate.key, failure, {"host": platform.node(), "date": now})

    def _ready_worker(self) -> WorkerProcess:
        if self._worker is not None and not self._worker.usable():
            self.close()
        if self._worker is None:
            self._worker = WorkerProcess(
                self._meter_factory, self._protocol, self._limits, self._worker_environment(), self._paths
            )
        return self._worker

    def _worker_environment(self) -> Mapping[str, str]:
        threads = str(self._threads)
        return {
            "TVM_THREAD_POOL_SPIN_COUNT": SPIN_COUNT,
            **os.environ,
            "TVM_NUM_THREADS": threads,
            "TVM_BIND_THREADS": "0",
            "OMP_NUM_THREADS": threads,
            **self._environment,
        }

    def close(self) -> None:
        """End the worker; the next `measure` starts another."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def __enter__(self) -> Self:
        """Return the harness; leaving the context ends its worker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the worker."""
        self.close()


@dataclass(frozen=True)
class ProfilingSummary:
    """What came of a set of candidates, counted by distinct key.

    Attributes:
        measured: costs found now.
        reused: outcomes that the store already held; a failure known from before is not tried again.
        failed: failures found now.
        seconds: wall-clock seconds spent.
        unknown: skipped, so still without an outcome.
    """

    measured: int
    reused: int
    failed: int
    seconds: float
    unknown: int = 0


def profile(
    candidates: Sequence[Candidate],
    store: CostStore,
    harness: Harness,
    on_result: Callable[[Measurement], None] | None = None,
    keep_going: Callable[[Candidate], bool] | None = None,
    give_up_s: Callable[[Candidate], float | None] | None = None,
    on_known: Callable[[CostKey, Cost | Failure], None] | None = None,
) -> ProfilingSummary:
    """Measure the candidates that the store (the harness's own) does not know yet; one look-up for all.

    Others may do the same with the same database: each candidate is claimed before it is measured, and what another is
    measuring is left for later, when most often it is known. On one device all take turns.

    Args:
        on_known: called with each outcome that another process has found meanwhile.
        Others: see `Harness.measure`; ``keep_going`` is asked while waiting too.

    Raises:
        As `Harness.measure`.
    """
    begun_s = time.monotonic()
    wanted = {candidate.key: candidate for candidate in candidates}
    reused = len(known := store.get_many(wanted))
    waiting = [candidate for key, candidate in wanted.items() if key not in known]
    found: list[Measurement] = []
    while waiting:
        later: list[Candidate] = []
        for candidate in waiting:
            if keep_going is not None and not keep_going(candidate):
                continue
            with claim(store, candidate.key) as mine:
                if not mine:
                    later.append(candidate)
                    continue
                outcome = store.get_many([candidate.key]).get(candidate.key)
                if outcome is not None:
                    reused += 1
                    if on_known is not None:
                        on_known(candidate.key, outcome)
                    continue
                with turn(store, candidate.key, partial(_still, keep_going, candidate)) as ours:
                    found += harness.measure([candidate], on_result, None, give_up_s) if ours else []
        if len(later) == len(waiting):
            time.sleep(POLL_S)
        waiting = later
    failed = sum(isinstance(measurement.outcome, Failure) for measurement in found)
    return ProfilingSummary(
        measured=len(found) - failed,
        reused=reused,
        failed=failed,
        seconds=time.monotonic() - begun_s,
        unknown=len(wanted) - reused - len(found),
    )


def _still(keep_going: Callable[[Candidate], bool] | None, candidate: Candidate) -> bool:
    return keep_going is None or keep_going(candidate)
