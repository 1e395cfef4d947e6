"""What harness and worker say to each other: length-prefixed pickles over two pipes that nobody else writes to."""

from __future__ import annotations

import os
import pickle
import select
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from joulec.costdb.cost import Cost, EnergySource, FailureKind
from joulec.profiler.candidate import Work

_HEADER = struct.Struct("<Q")
_SLICE_S = 0.1


@dataclass(frozen=True)
class Setup:
    """First message to the worker: a pickled (meter factory, protocol), and the address space it may use."""

    tools: bytes
    memory_bytes: int | None


@dataclass(frozen=True)
class Build:
    """Build a candidate: ``module:function`` and the pickled payload."""

    builder: str
    payload: bytes


@dataclass(frozen=True)
class Time:
    """Time what was built last, and let go of it; a call that takes longer than ``give_up_s`` is not worth more."""

    work: Work
    give_up_s: float | None = None


@dataclass(frozen=True)
class Ready:
    """The worker stands, its meter is open."""

    source: EnergySource


@dataclass(frozen=True)
class Built:
    """The candidate is built."""


@dataclass(frozen=True)
class Timed:
    """The candidate's cost, and under what circumstances it was found."""

    cost: Cost
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class Failed:
    """The candidate failed; the worker lives."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True)
class Broken:
    """Nothing can be measured here, whichever the candidate: no fault of its own, so none is recorded."""

    reason: str
    meter: bool = False


class Channel:
    """Both ends of the conversation.

    Args:
        read_fd: pipe to read from; the channel owns it.
        write_fd: pipe to write to; the channel owns it.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._poll = select.poll()
        self._poll.register(read_fd, select.POLLIN)

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        rest = memoryview(_HEADER.pack(len(data)) + data)
        while rest:
            rest = rest[os.write(self._write_fd, rest) :]

    def receive(self, timeout_s: float | None = None, alive: Callable[[], bool] = lambda: True) -> object:
        """Wait for a message.

        Args:
            timeout_s: how long to wait at most; for ever when omitted.
            alive: asked now and then whether the other side still lives. (The pipe alone does not tell: a process
                that the other side forked may hold it open.)

        Raises:
            TimeoutError: the time is up.
            EOFError: the other side is gone.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _HEADER.unpack(self._read(_HEADER.size, deadline_s, alive))
        return pickle.loads(self._read(length, deadline_s, alive))

    def _read(self, length: int, deadline_s: float | None, alive: Callable[[], bool]) -> bytes:
        data = bytearray()
        while len(data) < length:
            left_s = _SLICE_S if deadline_s is None else min(_SLICE_S, deadline_s - time.monotonic())
            was_alive = alive()
            if self._poll.poll(max(left_s, 0) * 1000):
                chunk = os.read(self._read_fd, min(length - len(data), 1 << 20))
                if not chunk:
                    raise EOFError("the other side closed the pipe")
                data += chunk
            elif not was_alive:
                raise EOFError("the other side has ended")
            elif deadline_s is not None and time.monotonic() >= deadline_s:
                raise TimeoutError
        return bytes(data)

    def close(self) -> None:
        """Close both pipes; a second call does nothing."""
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1
