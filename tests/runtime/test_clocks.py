"""GPU clocks through the unmodified pynvml, on a scripted GPU: set, freed at the end, and freed after a SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from nvml_device import Device, build_library

from joulec.runtime import Configuration, Decision, ScriptedMeter, Session
from joulec.runtime.clocks import ClockError, NvmlClocks, spread


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def device(tmp_path, library):
    return Device(tmp_path, library, virtual=False)


LOCK = """
import sys, time
from joulec.runtime.clocks import ClockError, NvmlClocks
try:
    clocks = NvmlClocks()
except ClockError as error:
    print(error)
    raise SystemExit
print(*clocks.levels_hz)
clocks.set(clocks.levels_hz[0])
print("locked", flush=True)
sys.stdin.readline()
clocks.close()
clocks.close()
"""


def start(device: Device) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOCK],
        env={**os.environ, **device.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def statements(device: Device) -> list[str]:
    """What was set, in order."""
    words = (line.split() for line in device.file.read_text().splitlines())
    return [" ".join(word for word in line if not word.startswith("@")) for line in words]


def test_clocks_are_set_and_freed(device):
    device.script("clocks 1410 1005 600 210")
    process = start(device)
    out, _ = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert out.splitlines() == ["210000000.0 600000000.0 1005000000.0 1410000000.0", "locked"]
    assert [line.removeprefix("gpu 0 ") for line in statements(device)[1:]] == [
        "lock 210 1410", "unlock", "lock 210 210", "unlock",
    ]  # fmt: skip


def test_clocks_are_freed_after_the_process_was_killed(device):
    device.script("clocks 1410 210")
    process = start(device)
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "locked\n"
    assert statements(device)[-1].endswith("lock 210 210")
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    end_s = time.monotonic() + 30
    while not statements(device)[-1].endswith("unlock"):
        assert time.monotonic() < end_s, "the guard did not free the clocks"
        time.sleep(0.02)
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_without_the_right_it_says_so(device):
    device.script("error lock permission")
    process = start(device)
    out, _ = process.communicate("\n", timeout=60)
    assert "the clocks of GPU 0 cannot be set" in out
    assert "run as root" in out
    assert not [line for line in statements(device) if "lock" in line and "error" not in line]


def test_levels_are_spread_over_those_supported():
    assert spread([210, 1410, 600], 10) == [210, 600, 1410]
    assert spread(range(100, 200), 3) == [100, 150, 199]
    assert len(spread(range(210, 1425, 15), 10)) == 10


def test_without_a_gpu_it_says_so(nvml_library, monkeypatch):
    monkeypatch.delenv("NVML_STAND_IN", raising=False)
    with pytest.raises(ClockError, match="cannot be set"):
        NvmlClocks()


class Knob:
    """Levels that are noted, or refused."""

    levels_hz = (1e9, 1.5e9)

    def __init__(self, refuses: bool = False) -> None:
        self.set_hz: list[float | None] = []
        self.refuses = refuses

    def set(self, clock_hz):
        if self.refuses:
            raise ClockError("the clock of GPU 0 cannot be set: not permitted")
        self.set_hz.append(clock_hz)

    def close(self):
        raise AssertionError("it is the caller's")


class Alternating:
    """A policy that asks for another clock after each reading."""

    name = "alternating"

    def __init__(self) -> None:
        self.decision = Decision(Configuration(2, clock_hz=1.5e9), "searching")
        self.saw: list[Configuration | None] = []

    def step(self, telemetry, cap_w):
        self.saw.append(telemetry.configuration)
        slower = self.decision.configuration.clock_hz == 1.5e9
        self.decision = Decision(Configuration(2, clock_hz=1e9 if slower else 1.5e9), "searching")
        return self.decision


@pytest.mark.parametrize("refuses", [False, True])
def test_a_session_sets_the_clock_that_the_policy_chose(clock, refuses):
    def run(x):
        clock.sleep(0.01)
        return x

    knob, policy = Knob(refuses), Alternating()
    meter = ScriptedMeter({2: 50.0}, clock=clock)
    options = {"batch_sizes": [1, 2], "power_cap_w": 100.0, "max_wait_s": 0.0, "clock": clock, "sleep": clock.sleep}
    with Session(run, meter=meter, policy=policy, clocks=knob, **options) as session:
        for _ in range(4):
            session.submit(np.ones((2, 1))).result(timeout=30)
    if refuses:
        assert policy.saw == [Configuration(2)] * 4
        assert len(session.notices) == 1
        assert "the batch size alone is chosen" in session.notices[0]
        return
    assert policy.saw == [Configuration(2, clock_hz=hz) for hz in (1.5e9, 1e9, 1.5e9, 1e9)]
    assert knob.set_hz == [1.5e9, 1e9, 1.5e9, 1e9]
    assert session.notices == []


@pytest.fixture
def shared_gpu(gpu, library, monkeypatch):
    """The GPU, for this process and for the guard that it starts."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    return gpu


def test_a_session_without_the_right_uses_the_other_knobs(shared_gpu):
    shared_gpu.script("error lock permission")
    with Session(lambda x: x, clocks="nvml", batch_sizes=[1, 2]) as session:
        session.submit(np.ones((1, 1))).result(timeout=30)
        assert len(session.notices) == 1
        assert "run as root; the clock stays as it is, the other knobs are used" in session.notices[0]


def test_a_session_frees_the_clocks_that_it_locked(shared_gpu):
    class Slow(Alternating):
        def step(self, telemetry, cap_w):
            return self.decision

    meter = ScriptedMeter({2: 50.0})
    options = {"power_cap_w": 100.0, "meter": meter, "policy": Slow(), "batch_sizes": [2]}
    with Session(lambda x: x, clocks="nvml", **options) as session:
        session.submit(np.ones((2, 1))).result(timeout=30)
        assert statements(shared_gpu)[-1].endswith("lock 1500 1500")
    assert statements(shared_gpu)[-1].endswith("unlock")
