"""Runs cases in worker processes: one that crashes or hangs costs its case, not the run."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MEMORY_BYTES = 8 << 30


class _Worker(Generic[T, R]):
    def __init__(self, call: Callable[[T], R], cases: Sequence[T]) -> None:
        context = multiprocessing.get_context("fork")  # cases are inherited; the parent has no threads
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, call, cases), daemon=True)
        self.process.start()
        theirs.close()
        self.index = -1
        self.deadline_s = 0.0

    def take(self, index: int, limit_s: float) -> None:
        self.index, self.deadline_s = index, time.monotonic() + limit_s
        self.pipe.send(index)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, call: Callable[[Any], Any], cases: Sequence[Any]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            return
        pipe.send(call(cases[index]))


def run_all(
    call: Callable[[T], R],
    cases: Sequence[T],
    *,
    workers: int,
    limit_s: float,
    crashed: Callable[[str], R],
    hung: Callable[[float], R],
) -> Iterator[tuple[int, R]]:
    """Outcomes of all cases with their indices, in the order in which they are found.

    Args:
        call: computes one case in a worker; must not raise.
        limit_s: after so many seconds a case counts as hung.
        crashed: outcome of a case whose worker ended, from how it ended.
        hung: outcome of a case that took too long, from the limit.
    """
    todo = deque(range(len(cases)))
    pool = [_Worker(call, cases) for _ in range(min(workers, len(cases)))]
    busy: list[_Worker[T, R]] = []
    while todo or busy:
        while todo and pool:
            worker = pool.pop()
            worker.take(todo.popleft(), limit_s)
            busy.append(worker)
        wait([worker.pipe for worker in busy], timeout=0.5)
        for worker in list(busy):
            late = time.monotonic() > worker.deadline_s
            if not worker.pipe.poll() and not late:
                continue
            busy.remove(worker)
            try:
                if not worker.pipe.poll():
                    raise TimeoutError
                result: R = worker.pipe.recv()
                pool.append(worker)
            except (EOFError, ConnectionResetError):
                worker.process.join()
                result = crashed(f"worker ended with exit code {worker.process.exitcode}")
                pool.append(_replaced(worker, call, cases))
            except TimeoutError:
                result = hung(limit_s)
                pool.append(_replaced(worker, call, cases))
            yield worker.index, result
    for worker in pool:
        worker.end()


def _replaced(worker: _Worker[T, R], call: Callable[[T], R], cases: Sequence[T]) -> _Worker[T, R]:
    worker.end()
    return _Worker(call, cases)
