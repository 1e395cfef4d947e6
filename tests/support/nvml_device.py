"""Scripted GPUs for tests: the stand-in for NVML's library (``nvml_stand_in.c``), its device file and virtual time.

The library is loaded into the test's own process under NVML's name, so that pynvml, unmodified, finds it. For another
process pass `Device.environment`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "nvml_stand_in.c"
NAME = "libnvidia-ml.so.1"


def build_library(folder: Path) -> Path:
    """Compile the stand-in; skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the stand-in for NVML needs a C compiler")
    library = folder / NAME
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{NAME}"]
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE), "-lm", "-lpthread"], check=True)
    return library


def load_library(folder: Path) -> ctypes.CDLL:
    """Compile it and load it into this process; skips where the driver's own library is loaded already."""
    path = build_library(folder)
    ctypes.CDLL(str(path))
    library = ctypes.CDLL(NAME)  # as pynvml asks for it
    if not hasattr(library, "standInSessions"):
        pytest.skip("NVIDIA's own library is loaded in this process")
    return library


class VirtualTime:
    """Seconds that pass when the test says so, in every process that maps the file.

    What was registered with `every` is called on the way, as a thread of its own would be: a call that takes long
    delays the next call, not the one that advances time.
    """

    def __init__(self, path: Path, start_s: float = 1000.0) -> None:
        path.write_bytes(struct.pack("d", start_s))
        with path.open("r+b") as file:
            self._shared = memoryview(mmap.mmap(file.fileno(), 8)).cast("d")
        self.path = path
        self.slept_s = 0.0
        self._ticks: dict[int, list[float]] = {}
        self._calls: dict[int, tuple[float, Callable[[], object]]] = {}
        self._number = 0

    @property
    def now_s(self) -> float:
        return self._shared[0]

    def clock(self) -> float:
        """For code that asks for a clock."""
        return self._shared[0]

    def sleep(self, seconds: float) -> None:
        """For code that asks for a sleep."""
        self.slept_s += seconds
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        end_s = self.now_s + seconds
        while self._calls:
            number = min(self._ticks, key=lambda n: self._ticks[n])
            due_s = self._ticks[number][0]
            if due_s > end_s:
                break
            self._shared[0] = max(due_s, self.now_s)
            period_s, call = self._calls[number]
            call()
            if number in self._ticks:
                self._ticks[number][0] = max(due_s + period_s, self.now_s)
        self._shared[0] = end_s

    def every(self, period_s: float, call: Callable[[], object]) -> Callable[[], None]:
        """Call something again and again; returns what ends that."""
        number, self._number = self._number, self._number + 1
        self._ticks[number] = [self.now_s + period_s]
        self._calls[number] = (period_s, call)

        def stop() -> None:
            self._ticks.pop(number, None)
            self._calls.pop(number, None)

        return stop


class Device:
    """The device file, and the environment that leads to it.

    Args:
        folder: where its files go.
        virtual: whether time is virtual (`time`); else it is ``time.monotonic``.
    """

    def __init__(self, folder: Path, library: Path | None = None, virtual: bool = True) -> None:
        self.file = folder / "gpu.device"
        self.time = VirtualTime(folder / "gpu.clock") if virtual else None
        self.environment = {"NVML_STAND_IN": str(self.file)}
        if self.time is not None:
            self.environment["NVML_STAND_IN_CLOCK"] = str(self.time.path)
        if library is not None:
            self.environment["LD_LIBRARY_PATH"] = str(library.parent)
        self.script()

    def now_s(self) -> float:
        return time.monotonic() if self.time is None else self.time.now_s

    def script(self, *statements: str) -> None:
        """Replace the script."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in statements))
        fresh.replace(self.file)

    def add(self, *statements: str, at_s: float | None = None) -> None:
        """Add statements that hold from now on, or from another moment."""
        moment = self.now_s() if at_s is None else at_s
        with self.file.open("a") as file:
            file.write("".join(f"@{moment!r} {line}\n" for line in statements))

    def lines(self, word: str) -> list[str]:
        """Statements of one kind in the file, without their time and GPU: what was set through NVML, for one."""
        found = []
        for line in self.file.read_text().splitlines():
            words = line.split()
            while words and (words[0].startswith("@") or words[0] == "gpu"):
                words = words[1:] if words[0].startswith("@") else words[2:]
            if words and words[0] == word:
                found.append(" ".join(words))
        return found


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The stand-in, loaded into this process."""
    return load_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def gpu(nvml_library: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU in virtual time, for code in this process."""
    device = Device(tmp_path)
    for name, value in device.environment.items():
        monkeypatch.setenv(name, value)
    assert os.environ["NVML_STAND_IN"] == str(device.file)
    return device
