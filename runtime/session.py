"""Sessions: requests in, batches of the size that the policy chooses, answers out."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, Self, get_args

from joulec.profiler.candidate import Work
from joulec.profiler.meter import Meter
from joulec.runtime.cap import CapSource, PowerCap
from joulec.runtime.clocks import ClockKnob
from joulec.runtime.governing import make_governor
from joulec.runtime.inputs import InputError
from joulec.runtime.instruments import Instruments
from joulec.runtime.latency import LatencyGuard
from joulec.runtime.metrics import LatencyHistogram
from joulec.runtime.model import Model
from joulec.runtime.policies import (
    Decision,
    Policy,
    Predictions,
)
from joulec.runtime.queue import Outcomes, QueueClosed, RequestQueue, WhenFull
from joulec.runtime.request import Part, Request, count_rows
from joulec.runtime.runner import CallableRunner, ModelRunner, Runner
from joulec.runtime.telemetry import BatchChange, Sample, Totals
from joulec.runtime.watch import BatchHangs, Watch

_log = logging.getLogger(__name__)


class SessionClosed(QueueClosed):
    """The session was closed before the request was computed."""


class Session:
    """Runs requests in batches on one worker thread, and keeps to a power cap by choosing the batch size.

    Requests are joined and split in order of arrival. A request that cannot be computed fails alone: where a batch
    fails, its requests are run one by one. Use it as a context manager: leaving it computes what is queued, leaving it
    by an error gives that up.

    Args:
        executor: a joulec model, or any callable that takes a batch (one array, or several by position) and returns one
            (an array, or several in a sequence); numpy or DLPack. It is called with batches of ``batch_sizes`` alone.
        power_cap_w: watts, a function that returns watts, the path of a file that holds a quantity (``150W``) and may
            change, or of a trace ``t_s,cap_w`` (``.csv``); None for no cap.
        meter: a meter; or ``auto``, ``nvml``, ``rapl``, ``estimate`` or ``scripted:FILE``; None for ``auto`` where
            there is a cap and for none otherwise. A meter given as an object stays the caller's to close.
        policy: a policy or its name; None for `frontier` where there are predictions, else `windowed`.
        predictions: what the policy `frontier` expects of each configuration; the model's own when None. Where clocks
            can be set and these name none, they hold at the highest, and are scaled to the others
            (`joulec.runtime.clock_scaling`).
        clocks: sets the device's clock, for policies that choose it too; or ``nvml`` for the GPU's through NVML, whose
            lack of the right to do so is said and the clock left alone; None leaves clocks alone. An object stays the
            caller's to close.
        cap_margin: the policy keeps power within [cap_margin x cap, cap] (the paper's alpha).
        latency_slo_s: batch sizes that take longer are not used.
        batch_sizes: sizes to choose from; the model's, or powers of two up to 64 for a callable, when None.
        variants: variants of the graph to choose from; all that the model has, or the one it was loaded for, when None.
            Without a cap, the one that is best under the model's objective runs.
        max_wait_s: how long the oldest request waits for others to fill a batch.
        queue_limit_rows: rows that may wait; None for any number. A larger request is taken once the queue is empty.
        when_full: what `submit` does where they do: ``wait`` for room, or ``reject`` (QueueFull).
        batch_timeout_s: a batch (or whatever else the worker is at: the cap's source, the device's clock) that takes
            longer hangs: its requests, and those that have waited as long, fail with BatchHangs, the session is not
            waited for at `close`, and where the batch comes back after all, the session goes on with smaller ones. None
            waits for ever. A sensor is given two seconds, whatever this says.
        work: for a callable and a meter that estimates: what a batch of a size does.
        clock: monotonic seconds.
        sleep: waits for seconds; by default until then or until the session is aborted.

    Raises:
        ValueError: a value is out of range, a batch size was not compiled, or a name is unknown.
        CapError: no cap can be had from the source (a ValueError).
        MeterError: the meter named is not there.
    """

    def __init__(
        self,
        executor: Model | Callable[..., Any],
        *,
        power_cap_w: CapSource | None = None,
        meter: Meter | str | None = None,
        policy: str | Policy | None = None,
        predictions: Predictions | None = None,
        clocks: ClockKnob | Literal["nvml"] | None = None,
        cap_margin: float = 0.8,
        latency_slo_s: float | None = None,
        batch_sizes: Sequence[int] | None = None,
        variants: Sequence[str] | None = None,
        max_wait_s: float = 0.002,
        queue_limit_rows: int | None = None,
        when_full: WhenFull = "wait",
        batch_timeout_s: float | None = 60.0,
        work: Callable[[int], Work] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        if not max_wait_s >= 0:
            raise ValueError(f"max_wait_s must be at least 0, not {max_wait_s}")
        if queue_limit_rows is not None and queue_limit_rows < 1:
            raise ValueError(f"queue_limit_rows must be at least 1, not {queue_limit_rows}")
        if batch_timeout_s is not None and not batch_timeout_s > 0:
            raise ValueError(f"batch_timeout_s must be above 0, not {batch_timeout_s}")
        if when_full not in get_args(WhenFull):
            raise ValueError(f"when_full must be wait or reject, not {when_full!r}")
        self._runner: Runner
        if isinstance(executor, Model):
            self._runner = ModelRunner(executor, batch_sizes, variants)
        elif variants is not None:
            raise ValueError("variants are chosen of a joulec model that was compiled with several")
        else:
            self._runner = CallableRunner(executor, batch_sizes, work)
        self._sizes = self._runner.sizes
        self._notices: list[str] = []
        self._running: Sequence[Part] = ()
        self._hung: BatchHangs | None = None
        self._watch: Watch | None = None
        self._clock = clock
        self._stop = threading.Event()
        self._max_wait_s = max_wait_s
        variants_there = self._runner.variants
        self._guard = None if latency_slo_s is None else LatencyGuard(self._sizes, latency_slo_s, variants_there)
        self._instruments = Instruments(self._runner, self._say)
        try:
            self._governor = make_governor(
                self._runner,
                self._instruments,
                power_cap_w=power_cap_w,
                meter=meter,
                policy=policy,
                predictions=predictions,
                clocks=clocks,
                cap_margin=cap_margin,
                latency_slo_s=latency_slo_s,
                guard=self._guard,
                clock=clock,
                sleep=sleep or self._sleep,
                say=self._say,
                doing=self._doing,
            )
        except BaseException:
            self._instruments.close()
            raise
        self._has_meter = meter is not None or power_cap_w is not None
        self.latencies = LatencyHistogram()
        self._queue = RequestQueue(queue_limit_rows, when_full, clock=clock, on_answer=self.latencies.add)
        if batch_timeout_s is not None:
            self._watch = Watch(batch_timeout_s, clock, self._hangs)
        self._thread = threading.Thread(target=self._work, name="joulec-session", daemon=True)
        self._thread.start()

    def submit(self, /, *inputs: object, deadline_s: float | None = None, **named: object) -> Future[Any]:
        """Queue a request.

        Args:
            *inputs: arrays in the executor's order, of any number of rows (at least one; the same in all). Where a
                model is not batched: exactly the compiled shapes. They must not change until the request is computed.
            deadline_s: seconds from now in which its first row must have begun; None for no deadline.
            **named: the same by name, for a joulec model.

        Returns:
            A future of the output, or of a tuple of several. It may be cancelled until its first row begins. It raises
            InputError where the inputs are wrong, DeadlineExceeded where the deadline has passed, and SessionClosed
            where the session was closed without being drained.

        Raises:
            QueueClosed: the session is closed.
            QueueFull: the queue is full and the session rejects.
            ValueError: the deadline is no number.
        """
        try:
            arrays, rows, signature = self._runner.accept(inputs, named)
        except InputError as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed
        if deadline_s is not None and math.isnan(deadline_s):
            raise ValueError("deadline_s must be a number of seconds, not NaN")
        due_s = None if deadline_s is None else self._clock() + deadline_s
        return self._queue.put(Request(arrays, rows, self._runner.finish, deadline_s=due_s, signature=signature))

    @property
    def batch_size(self) -> int:
        """The batch size in force."""
        return self._governor.size

    @property
    def variant(self) -> str | None:
        """The variant of the graph in force; None where there is one only."""
        variant = self._governor.decision.configuration.variant
        return variant if isinstance(variant, str) else None

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes to choose from."""
        return self._sizes

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants to choose from; empty where there is one only."""
        return tuple(name for name in self._runner.variants if isinstance(name, str))

    @property
    def policy(self) -> str | None:
        """The policy that chooses beneath the cap, by its name; None where there is no cap."""
        return self._governor.policy

    @property
    def decision(self) -> Decision:
        """The configuration in force, where the policy stands, and why."""
        return self._governor.decision

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queue.rows

    @property
    def outcomes(self) -> Outcomes:
        """How requests ended so far."""
        return self._queue.outcomes

    @property
    def latest(self) -> Sample | None:
        """The last stretch of the timeline; None before the first."""
        return self._governor.recorder.latest

    @property
    def timeline(self) -> list[Sample]:
        """What was seen, as a bounded list: over long runs neighbouring samples are joined."""
        return self._governor.recorder.samples

    @property
    def batch_changes(self) -> list[BatchChange]:
        """Changes of batch size and variant with their reasons (the first thousand)."""
        return self._governor.recorder.changes

    @property
    def totals(self) -> Totals:
        """Sums over the session."""
        return self._governor.recorder.totals

    @property
    def notices(self) -> list[str]:
        """What the user was warned of, in order."""
        return list(self._notices)

    @property
    def power_cap_w(self) -> float | None:
        """The cap in force, in watts; None for none. Assigning replaces the source from the next batch on."""
        cap = self._cap
        return None if cap is None else cap.watts

    @power_cap_w.setter
    def power_cap_w(self, watts: float | None) -> None:
        cap = self._cap
        if watts is not None and cap is not None:
            cap.set(watts)
            return
        fresh = None if watts is None else PowerCap(watts, warn=self._say)
        meter = None if self._has_meter or fresh is None else self._instruments.meter(None)
        self._has_meter = self._has_meter or meter is not None
        self._governor.change_cap(fresh, meter)

    @property
    def _cap(self) -> PowerCap | None:
        return self._governor.coming_cap

    def _work(self) -> None:
        try:
            while True:
                size = self._governor.size
                wait_s, lead_s = self._max_wait_s, 0.0
                if self._guard is not None:
                    wait_s = min(wait_s, self._guard.slack_s(size))
                    lead_s = self._guard.expected_s(size)
                parts = self._queue.take(size, self._sizes, wait_s, self._governor.idle, lead_s)
                if not parts:
                    return
                self._run(parts)
                self._governor.rest()
        except BaseException as error:  # nobody may wait for ever on a future
            self._queue.close(error)
            raise
        finally:
            self._governor.abandon()

    def _run(self, parts: Sequence[Part]) -> None:
        """One batch; where it fails, its requests one by one."""
        rows = count_rows(parts)
        self._running = parts
        size = next(size for size in self._sizes if size >= rows)
        try:
            answers = self._governor.run(size, rows, lambda variant: self._runner.run(size, parts, variant))
        except Exception as error:  # noqa: BLE001 - an executor may raise anything; it goes to the request's future
            self._doing("")
            self._hung = None
            smaller = self._sizes[0] < size
            if len(parts) == 1 and not smaller:
                parts[0].request.fail(error)
                return
            computed = [self._run_alone(part) for part in parts]
            if all(computed) and smaller:
                self._governor.blame(size, error)
            return
        except BaseException as error:
            for part in parts:
                part.request.fail(error)
            raise
        hung, self._hung = self._hung, None
        if hung is not None:
            self._governor.blame(size, hung)
        for group, outputs in answers:
            start = 0
            for part in group:
                part.request.deliver(tuple(output[start : start + part.count] for output in outputs), part.count)
                start += part.count

    def _run_alone(self, part: Part) -> bool:
        """One request's rows of a batch that failed, in batches of the smallest size; whether they were computed."""
        least, end = self._sizes[0], part.start + part.count
        for start in range(part.start, end, least):
            self._run([Part(part.request, start, min(least, end - start))])
            self._governor.rest()
            if part.request.future.done() and part.request.future.exception() is not None:
                return False
        return True

    def _doing(self, what: str) -> None:
        if self._watch is None:
            return
        if what:
            self._watch.begin(what)
        else:
            self._watch.end()

    def _hangs(self, what: str, seconds: float) -> None:
        """The worker does not get on: nobody is to wait for it. Called by the watch, again and again."""
        assert self._watch is not None
        first, parts = self._hung is None, self._running
        rows = f" of {count_rows(parts)} rows" if what == "a batch" else ""
        error = BatchHangs(f"{what}{rows} has not come back for {seconds:.3g} s")
        self._hung = self._hung or error
        for part in parts:
            part.request.fail(error)
        self._queue.fail_waiting(self._watch.limit_s, error)
        if first:
            self._say(f"{error}; requests fail until it does")

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _say(self, message: str) -> None:
        if len(self._notices) < 100:
            self._notices.append(message)
        _log.warning("%s", message)

    def close(self, *, drain: bool = True) -> None:
        """Take no more requests and stop.

        Args:
            drain: compute what is queued; otherwise its futures raise SessionClosed. Idempotent.
        """
        if not drain:
            self._stop.set()
        self._queue.close(None if drain else SessionClosed("the session was closed before the request was computed"))
        self._join()
        self._instruments.close()

    def _join(self) -> None:
        """Wait for the worker, unless it hangs."""
        watch = self._watch
        if watch is None:
            self._thread.join()
            return
        while self._thread.is_alive() and not watch.hanging:
            self._thread.join(0.1)
        if self._thread.is_alive():
            error = SessionClosed("the session was closed while a batch before the request did not come back")
            self._queue.close(error)
            for part in self._running:
                part.request.fail(error)
        watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=error is None)
