"""Which GPUs' clocks are locked, on disk: where a run and its guard both died, the next start frees what they left.

A record is a file that its run keeps locked (``flock``), so that one whose lock can be had is of a run that is gone.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

_log = logging.getLogger(__name__)


def records_folder() -> Path:
    """Where the records are."""
    return Path(platformdirs.user_state_dir("joulec", appauthor=False)) / "clocks"


class ClockRecord:
    """Says that this process locks the clocks of a GPU, for as long as it lives. Where nothing can be written, a log
    says so, and the guard process alone stands in.

    Attributes:
        path: the file; None where it could not be written.

    Args:
        uuid: NVML's name of the GPU.
        folder: where records are; the user's own state folder when None.
    """

    def __init__(self, uuid: str, folder: Path | None = None) -> None:
        self.path: Path | None = None
        self._descriptor: int | None = None
        path = (folder or records_folder()) / f"{uuid}.{os.getpid()}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            os.write(self._descriptor, json.dumps({"gpu": uuid, "pid": os.getpid()}).encode())
            self.path = path
        except OSError as error:
            _log.warning("no record of locked clocks can be kept at %s: %s", path, error.strerror or error)
            self.remove()

    def remove(self) -> None:
        """The clocks are free. Idempotent."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def restore_left(say: Callable[[str], None], folder: Path | None = None) -> None:
    """Free the clocks that runs which are gone have left locked, and say so.

    Args:
        say: receives a message for each GPU.
        folder: where records are; the user's own state folder when None.
    """
    try:
        paths = sorted((folder or records_folder()).glob("*.json"))
    except OSError:
        return
    for path in paths:
        with _taken(path) as uuid:
            if uuid is not None and _free(uuid, say):
                path.unlink(missing_ok=True)


@contextmanager
def _taken(path: Path) -> Iterator[str | None]:
    """The GPU of a record whose run is gone; None while that lives, or where the file says nothing."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:  # another's, or just removed
        yield None
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield str(json.loads(os.read(descriptor, 4096))["gpu"])
    except (BlockingIOError, ValueError, KeyError, TypeError):
        yield None
    finally:
        os.close(descriptor)


def _free(uuid: str, say: Callable[[str], None]) -> bool:
    """Whether the clocks are free, or there is nothing to free any more."""
    import pynvml  # costs 0.1 s: only where something was left

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        say(f"clocks of the GPU {uuid} were left locked by a run that was killed, and NVML cannot start: {error}")
        return False
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        handle = next((handle for handle in handles if pynvml.nvmlDeviceGetUUID(handle) == uuid), None)
        if handle is None:
            return True
        pynvml.nvmlDeviceResetGpuLockedClocks(handle)
    except pynvml.NVMLError as error:
        say(
            f"clocks of the GPU {uuid} were left locked by a run that was killed, and cannot be freed: {error}; "
            "run `nvidia-smi --reset-gpu-clocks` as root"
        )
        return False
    finally:
        pynvml.nvmlShutdown()
    say(f"clocks of the GPU {uuid}, left locked by a run that was killed together with its guard, are free again")
    return True
