"""The stand of a candidate in the worker process, built again there where another candidate has ended the worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from joulec.costdb.cost import Cost
from joulec.profiler.candidate import Candidate, Work
from joulec.profiler.meter import Reading
from joulec.profiler.process import WorkerProcess
from joulec.profiler.stand import CandidateFailed, Sample
from joulec.profiler.wire import Call, Whole

_WARM_AGAIN_S = 0.02


class RemoteStand:
    """See `joulec.profiler.stand.Stand`.

    Args:
        candidate: what stands on it.
        number: tells it from the others of its worker.
        ready: the worker, a fresh one where the last has ended.
        end: ends the worker.
    """

    def __init__(
        self, candidate: Candidate, number: int, ready: Callable[[], WorkerProcess], end: Callable[[], None]
    ) -> None:
        self.candidate = candidate
        self.overhead_s = 0.0
        self.number = number
        self._ready, self._end = ready, end
        self._worker: WorkerProcess | None = None
        self._spent_s = 0.0

    @property
    def work(self) -> Work:
        """What one call does."""
        return self.candidate.work

    def build(self) -> None:
        """Build it in the present worker; see `begin_build` and `finish_build`."""
        self.begin_build()
        self.finish_build()

    def begin_build(self) -> None:
        """Have it built in the present worker, which may be asked nothing else before `finish_build`.

        Raises:
            HarnessError: the worker cannot start, or the payload cannot be sent.
        """
        self._worker = self._ready()
        self._worker.begin_build(self.number, self.candidate)

    def finish_build(self) -> None:
        """Wait until it is built.

        Raises:
            CandidateFailed: it cannot be built.
            HarnessError: the builder or its payload cannot be loaded.
        """
        assert self._worker is not None
        try:
            self.overhead_s = self._worker.built(self.candidate)
        except CandidateFailed as failed:
            self._worker = None
            if failed.failure.kind != "build":
                self._end()
            raise

    @property
    def building(self) -> WorkerProcess:
        """The worker that is building it."""
        assert self._worker is not None
        return self._worker

    def warm_up(self, seconds: float) -> float:
        """See `joulec.profiler.stand.Stand.warm_up`."""
        return float(self._call("warm_up", seconds))

    def sample(self, calls: int, count: int, settle: bool) -> tuple[Sample, ...]:
        """See `joulec.profiler.stand.Stand.sample`."""
        found: tuple[Sample, ...] = self._call("sample", calls, count, settle)
        return found

    def window(self, call_s: float, length_s: float, phase_s: float | None) -> Reading:
        """See `joulec.profiler.stand.Stand.window`."""
        found: Reading = self._call("window", call_s, length_s, phase_s)
        return found

    def whole(self) -> Cost:
        """The candidate's cost by a protocol that measures one after another."""
        found: Cost = self._run(Whole(self.number))
        return found

    def _call(self, method: Literal["warm_up", "sample", "window"], *arguments: object) -> Any:
        if self._ready() is not self._worker:  # another candidate has taken the last one down
            self.build()
            self._run(Call(self.number, "warm_up", (_WARM_AGAIN_S,)))
        return self._run(Call(self.number, method, arguments))

    def _run(self, order: Call | Whole) -> Any:
        assert self._worker is not None
        begun_s = time.monotonic()
        try:
            return self._worker.call(order, self._spent_s)
        except CandidateFailed:
            self._end()  # what failed while running may have left the device in any state
            raise
        finally:
            self._spent_s += time.monotonic() - begun_s
