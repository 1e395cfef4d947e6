"""The device clock as a knob. What was changed is undone at the end, also where the session's process was killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from joulec.runtime.clock_records import ClockRecord

_GUARD = Path(__file__).with_name("clock_guard.py")
_PATIENCE_S = 10.0
_LEVELS = 10
"""As many as the second paper's Section 5.1 has."""


class ClockError(RuntimeError):
    """Clocks that cannot be set. The message says what to do."""


class ClockKnob(Protocol):
    """Sets a device's clock."""

    @property
    def levels_hz(self) -> tuple[float, ...]:
        """Clocks to choose from, in hertz, ascending."""

    def set(self, clock_hz: float | None) -> None:
        """Lock the clock to a level, or with None free it.

        Raises:
            ClockError: that cannot be done.
        """

    def close(self) -> None:
        """Free the clock. Idempotent."""


def spread(levels: Sequence[int], count: int) -> list[int]:
    """At most so many of the levels, ascending, lowest and highest among them."""
    ordered = sorted(set(levels))
    if len(ordered) <= count or count < 2:
        return ordered
    return [ordered[round(index * (len(ordered) - 1) / (count - 1))] for index in range(count)]


class NvmlClocks:
    """Graphics clocks of one GPU, locked through NVML, which needs root's or an administrator's rights.

    Before the first lock a guard process is started, in a session of its own so that no signal to this one's group
    reaches it. It frees the clocks when this process is gone. Where the guard was killed too, a record on disk
    (`joulec.runtime.clock_records`) has the next start free them. NVML does not tell whether clocks were locked before,
    so that freeing undoes another's lock too.

    Args:
        index: which GPU, in NVML's order.
        count: levels to choose from, spread over those that the GPU supports.

    Raises:
        ClockError: there is no such GPU, it does not support it, or the right to do so is missing.
    """

    def __init__(self, index: int = 0, count: int = _LEVELS) -> None:
        import pynvml  # costs 0.1 s: only where a GPU's clocks are asked for

        self._nvml = pynvml
        self._index = index
        self._guard: subprocess.Popen[str] | None = None
        self._record: ClockRecord | None = None
        self._open = False
        try:
            pynvml.nvmlInit()
            self._open = True
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = max(pynvml.nvmlDeviceGetSupportedMemoryClocks(self._handle))
            found = pynvml.nvmlDeviceGetSupportedGraphicsClocks(self._handle, memory)
            self._mhz = spread(found, count)
            self._record = ClockRecord(pynvml.nvmlDeviceGetUUID(self._handle))
            self._start_guard()
            # the whole range restricts nothing: this only shows whether the right is there
            pynvml.nvmlDeviceSetGpuLockedClocks(self._handle, min(found), max(found))
            pynvml.nvmlDeviceResetGpuLockedClocks(self._handle)
        except pynvml.NVMLError as error:
            self._release()
            remedy = "run as root" if error.value == pynvml.NVML_ERROR_NO_PERMISSION else "check `nvidia-smi`"
            raise ClockError(f"the clocks of GPU {index} cannot be set: {error}; {remedy}") from error
        except ClockError:
            self._release()
            raise

    @property
    def levels_hz(self) -> tuple[float, ...]:
        return tuple(mhz * 1e6 for mhz in self._mhz)

    def set(self, clock_hz: float | None) -> None:
        try:
            if clock_hz is None:
                self._nvml.nvmlDeviceResetGpuLockedClocks(self._handle)
                return
            mhz = round(clock_hz / 1e6)
            self._nvml.nvmlDeviceSetGpuLockedClocks(self._handle, mhz, mhz)
        except self._nvml.NVMLError as error:
            raise ClockError(f"the clock of GPU {self._index} cannot be set: {error}") from error

    def _start_guard(self) -> None:
        record = self._record.path if self._record is not None else None
        command = [sys.executable, "-P", str(_GUARD), str(self._index), str(record or "")]
        try:
            self._guard = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        except OSError as error:
            raise ClockError(f"clocks stay as they are: no process can be started to guard them ({error})") from error
        assert self._guard.stdout is not None
        if self._guard.stdout.readline() != "ready\n":
            raise ClockError("clocks stay as they are: the process that guards them did not start")

    def close(self) -> None:
        if not self._open:
            return
        try:
            self.set(None)
        except ClockError:
            self._release(freed=False)  # the guard tries again
            raise
        self._release()

    def _release(self, *, freed: bool = True) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            assert guard.stdin is not None
            assert guard.stdout is not None
            try:
                if freed and guard.poll() is None:
                    guard.stdin.write("freed\n")
                guard.stdin.close()
                guard.wait(_PATIENCE_S)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                guard.kill()
                guard.wait()
            guard.stdout.close()
        if self._record is not None and freed:
            self._record.remove()
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()
