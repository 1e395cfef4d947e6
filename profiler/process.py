"""The harness's handle on its worker process."""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import IO, Any

from joulec.costdb.cost import Failure
from joulec.profiler.candidate import Candidate
from joulec.profiler.meter import Meter, MeterError
from joulec.profiler.protocol import MeasurementProtocol
from joulec.profiler.stand import CandidateFailed, Gauge
from joulec.profiler.wire import (
    Broken,
    Build,
    Built,
    Call,
    Channel,
    Drop,
    Failed,
    Look,
    Order,
    Ready,
    Returned,
    Setup,
    Whole,
)

_SLICE_S = 0.25
"""How often is looked whether a worker that is silent still lives."""
_TAIL_BYTES = 4000
_TAIL_LINES = 30


class HarnessError(RuntimeError):
    """Nothing can be measured: the worker does not start, or the caller's builder, payload or key does not fit."""


@dataclass(frozen=True)
class Limits:
    """What a candidate may take before it counts as failed.

    Attributes:
        build_s: seconds for building one.
        run_s: seconds for timing one, warm-up and energy windows included.
        start_s: seconds for the worker process to start and open its meter.
        memory_bytes: address space of the worker; unlimited when None. (A process that has loaded TVM and LLVM maps
            1 to 2 GB before it does anything.)
    """

    build_s: float = 120.0
    run_s: float = 60.0
    start_s: float = 60.0
    memory_bytes: int | None = None


class _Tail:
    """The last that the worker wrote to its standard output and error, kept reading so that it never blocks."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._drain, name="joulec-worker-output", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with self._stream:
            while chunk := os.read(self._stream.fileno(), 65536):
                self._kept = (self._kept + chunk)[-_TAIL_BYTES:]

    def forget(self) -> None:
        self._kept = b""

    def text(self) -> str:
        """The last lines; call after the worker has ended."""
        self._thread.join(timeout=1.0)
        text = self._kept.decode("utf-8", "replace").replace("\0", "?")
        return "\n".join(text.strip().splitlines()[-_TAIL_LINES:])


class WorkerProcess:
    """A started worker. One thread uses it: on Linux it dies with the thread that started it.

    Attributes:
        gauge: its meter.
    """

    def __init__(
        self,
        meter_factory: Callable[[], Meter],
        protocol: MeasurementProtocol,
        limits: Limits,
        environment: Mapping[str, str],
        paths: Sequence[str],
    ) -> None:
        """Start it and wait until it is ready.

        Raises:
            HarnessError: it does not start, or the factory or the protocol cannot be carried over.
            MeterError: its meter cannot be opened.
        """
        self.gauge: Gauge
        self._limits = limits
        self._until_s = math.inf
        self._thread = threading.current_thread()
        tools = _pickled((meter_factory, protocol), "the meter factory or the protocol")
        self._start(environment, paths)
        try:
            self._channel.send(Setup(tools, limits.memory_bytes))
            answer = self._channel.receive(limits.start_s, self._alive)
        except TimeoutError:
            raise self._unusable(f"the measuring worker was not ready after {limits.start_s:g} s") from None
        except (EOFError, BrokenPipeError):
            raise self._unusable("the measuring worker ended while it started") from None
        except BaseException:
            self.kill()
            raise
        if not isinstance(answer, Ready):
            self.kill()
            self._raise_if_broken(answer)
            raise HarnessError(f"the measuring worker answered {answer!r}")
        self.gauge = answer.gauge

    def _start(self, environment: Mapping[str, str], paths: Sequence[str]) -> None:
        if not sys.executable:
            raise HarnessError("sys.executable is empty: candidates are measured in a process of the same Python")
        # The worker finds modules where this process does, except that an interactive session's '' is spelled out.
        search = [*paths, *(path or os.getcwd() for path in sys.path)]
        theirs_read, ours_write = os.pipe()
        ours_read, theirs_write = os.pipe()
        command = [sys.executable, "-P", "-X", "faulthandler", "-m", "joulec.profiler.worker"]
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs_read), str(theirs_write), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs_read, theirs_write),
                env={**environment, "PYTHONPATH": os.pathsep.join(search)},
                start_new_session=True,  # an interrupt from the terminal is the harness's to handle
            )
        except OSError as error:
            os.close(ours_read)
            os.close(ours_write)
            raise HarnessError(f"the measuring worker cannot be started: {error}") from error
        finally:
            os.close(theirs_read)
            os.close(theirs_write)
        self._channel = Channel(ours_read, ours_write)
        assert self._process.stdout is not None
        self._tail = _Tail(self._process.stdout)

    def usable(self) -> bool:
        """Whether it lives, and will not be taken away by the end of another thread."""
        return self._thread is threading.current_thread() and self._alive()

    def fileno(self) -> int:
        """What can be read from once it has answered, or has gone."""
        return self._channel.fileno()

    def overdue(self) -> bool:
        """Whether there is no use in waiting for it any longer: it has died, or builds for too long."""
        return not self._alive() or time.monotonic() >= self._until_s

    def _alive(self) -> bool:
        return self._process.poll() is None

    def build(self, stand: int, candidate: Candidate) -> float:
        """Build a candidate and put it on a stand; see `begin_build` and `built`."""
        self.begin_build(stand, candidate)
        return self.built(candidate)

    def begin_build(self, stand: int, candidate: Candidate) -> None:
        """Have a candidate built; nothing else may be asked of this worker before `built`.

        Raises:
            HarnessError: the payload cannot be sent.
        """
        self._until_s = time.monotonic() + self._limits.build_s
        payload = _pickled(candidate.payload, f"the payload of {candidate.label}")
        self._tail.forget()
        with suppress(BrokenPipeError):  # `built` finds out what became of the worker
            self._channel.send(Build(stand, candidate.builder, payload, candidate.work))

    def built(self, candidate: Candidate) -> float:
        """Wait until it is built; returns the seconds per call of the loop around it.

        Raises:
            CandidateFailed: it cannot be built.
            HarnessError: the builder or its payload cannot be loaded.
        """
        left_s = max(self._until_s - time.monotonic(), 0.0)
        answer = self._answer("building", left_s, self._limits.build_s)
        if not isinstance(answer, Built):
            raise HarnessError(f"{candidate.label}: the measuring worker answered {answer!r}")
        return answer.overhead_s

    def call(self, order: Call | Whole, spent_s: float = 0.0) -> Any:
        """What the method of a stand returns, or the whole measurement of its candidate.

        Args:
            order: which.
            spent_s: seconds that the candidate has run before; they count against its limit.

        Raises:
            CandidateFailed: the candidate did.
            MeterError: the meter cannot be read.
        """
        limit_s = self._limits.run_s
        return self._returned(self._ask(order, "running", max(limit_s - spent_s, 0.0), limit_s))

    def circumstances(self) -> Mapping[str, str]:
        """Host, date, clocks, temperature and what else the worker sees.

        Raises:
            CandidateFailed: the worker has died.
        """
        found: Mapping[str, str] = self._returned(self._ask(Look(), "idle", self._limits.run_s, self._limits.run_s))
        return found

    def drop(self) -> None:
        """Let go of all candidates; a worker that died meanwhile is found out at the next order."""
        with suppress(BrokenPipeError):
            self._channel.send(Drop())

    @staticmethod
    def _returned(answer: object) -> Any:
        if not isinstance(answer, Returned):
            raise HarnessError(f"the measuring worker answered {answer!r}")
        return answer.value

    def _ask(self, order: Order, doing: str, limit_s: float, said_s: float) -> object:
        with suppress(BrokenPipeError):
            self._channel.send(order)
        return self._answer(doing, limit_s, said_s)

    def _answer(self, doing: str, limit_s: float, said_s: float) -> object:
        """The worker's answer; what its silence means is raised, and so is a failure that it tells."""
        try:
            answer = self._channel.receive(limit_s, self._alive)
        except TimeoutError:
            self.kill()
            reason = _joined(f"{doing} took longer than {said_s:g} s", self._tail.text())
            raise CandidateFailed(Failure("timeout", reason)) from None
        except EOFError:
            raise CandidateFailed(self._crash(doing)) from None
        self._raise_if_broken(answer)
        if isinstance(answer, Failed):
            raise CandidateFailed(Failure(answer.kind, answer.reason))
        return answer

    def _crash(self, doing: str) -> Failure:
        code = self._wait()
        tail = self._tail.text()
        self.kill()
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if code == -signal.SIGKILL:
            return Failure("memory", f"the worker was killed while {doing} (SIGKILL): most likely out of memory")
        if "bad_alloc" in tail or "MemoryError" in tail:
            return Failure("memory", _joined(f"the worker ended while {doing} ({how})", tail))
        return Failure("crash", _joined(f"the worker ended while {doing} ({how})", tail))

    def _wait(self) -> int | None:
        """The exit code of a worker that has closed its pipe; None if it lives on all the same."""
        deadline_s = time.monotonic() + 2.0
        while self._process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.005)
        return self._process.poll()

    def _unusable(self, what: str) -> HarnessError:
        code = self._wait()
        self.kill()
        return HarnessError(_joined(what if code is None else f"{what} (exit code {code})", self._tail.text()))

    @staticmethod
    def _raise_if_broken(answer: object) -> None:
        if isinstance(answer, Broken):
            raise MeterError(answer.reason) if answer.meter else HarnessError(answer.reason)

    def kill(self) -> None:
        """End it and all that it started, at once; a second call does nothing."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self._process.kill()
            self._process.wait()
        self._channel.close()


def first_answer(building: Mapping[int, WorkerProcess]) -> int:
    """Wait until one of some workers that are building has answered, or never will; returns its key."""
    while True:
        ready = wait([worker.fileno() for worker in building.values()], _SLICE_S)
        for key, worker in building.items():
            if worker.fileno() in ready or worker.overdue():
                return key


def _pickled(thing: object, what: str) -> bytes:
    try:
        return pickle.dumps(thing, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise HarnessError(
            f"{what} cannot be sent to the measuring worker: {error}. Use functions and classes that stand at the top "
            "of an importable module"
        ) from error


def _joined(what: str, tail: str) -> str:
    return f"{what}; it wrote:\n{tail}" if tail else what
