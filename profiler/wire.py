"""What harness and worker say to each other: length-prefixed pickles over two pipes that nobody else writes to."""

from __future__ import annotations

import os
import pickle
import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from joulec.costdb.cost import FailureKind
from joulec.profiler.candidate import Work
from joulec.profiler.stand import Gauge

_HEADER = struct.Struct("<Q")
_SLICE_S = 0.1


@dataclass(frozen=True)
class Setup:
    """First message to the worker: a pickled (meter factory, protocol), and the address space it may use."""

    tools: bytes
    memory_bytes: int | None


@dataclass(frozen=True)
class Build:
    """Build a candidate and put it on a stand: ``module:function``, the pickled payload, and what one call does."""

    stand: int
    builder: str
    payload: bytes
    work: Work


@dataclass(frozen=True)
class Call:
    """Call a method of a stand (`joulec.profiler.stand.Stand`)."""

    stand: int
    method: Literal["warm_up", "sample", "window"]
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Whole:
    """Measure the candidate of a stand by the protocol that the worker was set up with."""

    stand: int


@dataclass(frozen=True)
class Drop:
    """Let go of all candidates."""


@dataclass(frozen=True)
class Look:
    """Under what circumstances is measured now?"""


@dataclass(frozen=True)
class Ready:
    """The worker stands, its meter is open."""

    gauge: Gauge


@dataclass(frozen=True)
class Built:
    """The candidate is built."""

    overhead_s: float


@dataclass(frozen=True)
class Returned:
    """What the call returned."""

    value: object


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


Order = Build | Call | Whole | Drop | Look
"""What the harness asks for."""


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

    def fileno(self) -> int:
        """What is read from, to wait for several channels."""
        return self._read_fd

    def close(self) -> None:
        """Close both pipes; a second call does nothing."""
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1
