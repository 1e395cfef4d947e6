"""Measuring candidates in worker processes that may crash, hang or run out of memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from joulec.costdb.cost import Failure, Measurement
from joulec.costdb.store import CostStore, CostStoreError
from joulec.profiler.candidate import Candidate
from joulec.profiler.cpu import default_threads
from joulec.profiler.entrant import Floor
from joulec.profiler.meter import Meter
from joulec.profiler.outcomes import Outcomes, here, measurements
from joulec.profiler.process import HarnessError, Limits, WorkerProcess, first_answer
from joulec.profiler.protocol import Adaptive, MeasurementProtocol
from joulec.profiler.remote import RemoteStand
from joulec.profiler.rivalry import Rivalry
from joulec.profiler.stand import CandidateFailed

__all__ = ["Harness", "HarnessError", "Limits"]

SPIN_COUNT = "100"
"""How long TVM's idle threads spin: without a limit they burn 170 ms of every core after each call."""
MOST_LIVE = 16
"""Candidates that are built at once; more take turns in several races."""


class Harness:
    """Builds and times candidates in worker processes, and keeps each outcome the moment it is known.

    Workers stay between calls of `measure`, so that they load the compiler once. The candidates of one call are all
    built, by several workers at a time where that is allowed, and then timed in turns: nothing ever runs beside a
    timing. A worker that crashed, hung or ran out of memory, or whose candidate failed while running, is replaced, and
    its candidates that are left are built again in the new one; what was seen of them is here and not lost. Use as a
    context manager, from one thread.
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
        builders: int = 1,
    ) -> None:
        """Prepare; a worker starts when the first candidate comes.

        Args:
            store: where outcomes go, one by one.
            meter_factory: opens the meter in the worker; picklable (`joulec.profiler.meters.ChosenMeter.factory`).
            protocol: how to time; `Adaptive` when omitted.
            threads: threads of each candidate; all that this process may use when omitted.
            limits: when a candidate counts as failed.
            paths: folders in which the worker looks for modules before all others.
            environment: variables of the worker that take precedence over this process's and over those that set the
                number of threads.
            builders: workers that build at the same time. A sensor is opened by one process, so with one it is one.
        """
        self._store = store
        self._meter_factory = meter_factory
        self._protocol = protocol or Adaptive()
        self._threads = threads or default_threads()
        self._limits = limits or Limits()
        self._paths = tuple(paths)
        self._environment = dict(environment or {})
        self._workers: list[WorkerProcess | None] = [None] * max(builders, 1)
        self._floor: Floor | None = None

    def measure(
        self,
        candidates: Sequence[Candidate],
        on_result: Callable[[Measurement], None] | None = None,
        keep_going: Callable[[Candidate], bool] | None = None,
        rivalry: Rivalry | None = None,
    ) -> list[Measurement]:
        """Measure candidates, in turns where the protocol does so; those of equal key are measured once.

        Args:
            candidates: what to measure, rivals of each other, whatever the store already holds
                (`joulec.profiler.profiling` looks there first).
            on_result: called with each outcome after it is stored.
            keep_going: asked right before a candidate is built; False skips it.
            rivalry: leaves a candidate that cannot win before it is measured to the full; its cost is stored with what
                was seen, an infinite spread, and the reason under ``stopped``. None leaves none.

        Returns:
            The outcomes in the order in which they were found, failures included; nothing for those skipped.

        Raises:
            MeterError: the meter cannot be opened or read.
            HarnessError: the worker cannot start, or a builder, payload or key does not fit this harness.
            CostStoreError: an outcome cannot be stored.
        """
        wanted = {candidate.key: candidate for candidate in candidates}
        for candidate in wanted.values():
            if candidate.key.protocol != self._protocol.version:
                raise HarnessError(
                    f"{candidate.label}: its key is for the protocol {candidate.key.protocol}, "
                    f"this harness measures by {self._protocol.version}"
                )
        told = on_result or (lambda measurement: None)
        size = MOST_LIVE if isinstance(self._protocol, Adaptive) else 1
        found: list[Measurement] = []
        try:
            every = list(wanted.values())
            for begin in range(0, len(every), size):
                live = every[begin : begin + size]
                race = Outcomes(self._store, told)
                again = self._measure(live, race, keep_going, rivalry)
                found += race.found
                for candidate in again:
                    self.close()
                    race = Outcomes(self._store, told)
                    self._measure([candidate], race, None, rivalry)
                    found += race.found
        except BaseException:  # an interrupt too: what was measured is stored, the worker must not outlive the call
            self.close()
            raise
        return found

    def _measure(
        self,
        candidates: Sequence[Candidate],
        outcomes: Outcomes,
        keep_going: Callable[[Candidate], bool] | None,
        rivalry: Rivalry | None,
    ) -> list[Candidate]:
        """Measure candidates beside each other; returns those that ran out of memory and may do with it alone."""
        again: list[Candidate] = []

        def failed(candidate: Candidate, failure: Failure) -> None:
            if failure.kind == "memory" and len(candidates) > 1:
                again.append(candidate)
            else:
                outcomes.keep([Measurement(candidate.key, failure, here())])

        stands = self._build(candidates, keep_going or (lambda candidate: True), failed)
        if isinstance(self._protocol, Adaptive):
            self._race(self._protocol, stands, outcomes, failed, rivalry)
        else:
            for stand in stands:
                self._whole(stand, outcomes, failed)
        for worker in filter(None, self._workers):
            worker.drop()
        return again

    def _slots(self, count: int) -> int:
        """How many workers build so many candidates.

        All that have started; another one is started for two candidates, or loading the compiler would not pay.
        """
        if self._ready_worker(0).gauge.constants is None:
            return 1
        started = sum(worker is not None and worker.usable() for worker in self._workers)
        return max(1, min(len(self._workers), max(min(started, count), count // 2)))

    def _build(
        self,
        candidates: Sequence[Candidate],
        keep_going: Callable[[Candidate], bool],
        failed: Callable[[Candidate, Failure], None],
    ) -> list[RemoteStand]:
        """The candidates that could be built, in their order; each worker begins another when it has built one."""
        waiting = iter(enumerate(candidates))
        building: dict[int, RemoteStand] = {}
        built: dict[int, RemoteStand] = {}
        slots = self._slots(len(candidates))
        while True:
            for slot in range(slots):
                following = None if slot in building else next((one for one in waiting if keep_going(one[1])), None)
                if following is not None:
                    building[slot] = self._begun(slot, *following)
            if not building:
                return [built[number] for number in sorted(built)]
            slot = first_answer({slot: stand.building for slot, stand in building.items()})
            stand = building.pop(slot)
            try:
                stand.finish_build()
            except CandidateFailed as error:
                failed(stand.candidate, error.failure)
            else:
                built[stand.number] = stand

    def _begun(self, slot: int, number: int, candidate: Candidate) -> RemoteStand:
        self._check_source(candidate)
        stand = RemoteStand(candidate, number, partial(self._ready_worker, slot), partial(self._end, slot))
        stand.begin_build()
        return stand

    def _check_source(self, candidate: Candidate) -> None:
        source = self._ready_worker(0).gauge.source
        if candidate.key.energy_source != source:
            raise HarnessError(
                f"{candidate.label}: its key is for energy from {candidate.key.energy_source}, "
                f"this harness's meter gives {source}"
            )

    def _race(
        self,
        protocol: Adaptive,
        stands: Sequence[RemoteStand],
        outcomes: Outcomes,
        failed: Callable[[Candidate, Failure], None],
        rivalry: Rivalry | None,
    ) -> None:
        if not stands:
            return
        gauge = self._ready_worker(0).gauge
        floor = self._floor = self._floor or Floor(gauge.idle_w)
        known = {stand.candidate.key: () if rivalry is None else rivalry.known(stand.candidate) for stand in stands}
        entrants = {
            stand.candidate: protocol.entrant(stand, gauge, floor, known[stand.candidate.key]) for stand in stands
        }
        judge = rivalry.prefers if rivalry is not None and rivalry.judges else None
        lost: set[Candidate] = set()

        def tell_failures() -> None:
            for candidate, entrant in entrants.items():
                if entrant.failure is not None and candidate not in lost:
                    lost.add(candidate)
                    failed(candidate, entrant.failure)

        def between_rounds() -> None:
            tell_failures()
            outcomes.secure(measurements(entrants, here()))

        try:
            protocol.race(list(entrants.values()), judge, between_rounds)
        except CostStoreError:
            raise
        except BaseException:
            outcomes.secure(measurements(entrants, here()))
            raise
        tell_failures()
        outcomes.keep(measurements(entrants, self._circumstances(), stopped_too=True))

    def _whole(self, stand: RemoteStand, outcomes: Outcomes, failed: Callable[[Candidate, Failure], None]) -> None:
        try:
            cost = stand.whole()
        except CandidateFailed as error:
            failed(stand.candidate, error.failure)
        else:
            outcomes.keep([Measurement(stand.candidate.key, cost, self._circumstances())])

    def _circumstances(self) -> Mapping[str, str]:
        worker = self._workers[0]
        if worker is None:
            return here()
        try:
            return worker.circumstances()
        except CandidateFailed:  # it died idle: nothing that was measured is any the worse for it
            self._end(0)
            return here()

    def _ready_worker(self, slot: int) -> WorkerProcess:
        worker = self._workers[slot]
        if worker is not None and worker.usable():
            return worker
        self._end(slot)
        started = WorkerProcess(
            self._meter_factory, self._protocol, self._limits, self._worker_environment(), self._paths
        )
        self._workers[slot] = started
        return started

    def _end(self, slot: int) -> None:
        """End a worker; whoever needs it next starts another."""
        worker, self._workers[slot] = self._workers[slot], None
        if worker is not None:
            worker.kill()

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
        """End the workers; the next `measure` starts others."""
        for slot in range(len(self._workers)):
            self._end(slot)

    def __enter__(self) -> Self:
        """Return the harness; leaving the context ends its workers."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers."""
        self.close()
