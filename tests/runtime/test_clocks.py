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

from joulec.runtime import Configuration, Decision, Prediction, Predictions, ScriptedMeter, Session
from joulec.runtime.clock_records import restore_left
from joulec.runtime.clock_scaling import at_clocks
from joulec.runtime.clocks import ClockError, NvmlClocks, spread


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Records of locked clocks go there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "joulec" / "clocks"


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
        encoding="utf-8",
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


def test_what_a_run_and_its_guard_left_is_freed_by_the_next_start(device, state):
    device.script("clocks 1410 210")
    process = start(device)
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "locked\n"
    (guard,) = children(process.pid)
    os.kill(guard, signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdin.close()
    process.stdout.close()
    assert len(list(state.glob("*.json"))) == 1
    assert statements(device)[-1].endswith("lock 210 210")
    command = [sys.executable, "-c", "from joulec.runtime.clock_records import restore_left; restore_left(print)"]
    environment = {**os.environ, **device.environment}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert "left locked by a run that was killed together with its guard, are free again" in done.stdout
    assert statements(device)[-1].endswith("unlock")
    assert not list(state.glob("*.json"))
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert done.stdout == ""


def test_a_run_that_lives_keeps_its_clocks(device, state):
    device.script("clocks 1410 210")
    process = start(device)
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "locked\n"
    restore_left(lambda message: pytest.fail(message))
    assert statements(device)[-1].endswith("lock 210 210")
    process.communicate("\n", timeout=60)
    assert not list(state.glob("*.json"))


def children(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, encoding="utf-8", check=False
    ).stdout
    return [int(word) for word in found.split()]


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


def test_predictions_at_other_clocks():
    plain = Predictions({Configuration(4): Prediction(0.010, 100.0)})
    assert at_clocks(plain, (None,)) is plain
    scaled = at_clocks(plain, (1e9, 0.5e9)).entries
    full = scaled[Configuration(4, clock_hz=1e9)]
    assert (full.time_s, full.power_w) == (pytest.approx(0.010), pytest.approx(100.0))
    half = scaled[Configuration(4, clock_hz=0.5e9)]
    assert half.time_s == pytest.approx(0.010 * 1.9)
    assert half.power_w == pytest.approx(100.0 * (0.3 + 0.7 / 4))
    told = {Configuration(4, clock_hz=0.5e9): Prediction(0.015, 40.0), **plain.entries}
    assert at_clocks(Predictions(told), (1e9, 0.5e9)).entries[Configuration(4, clock_hz=0.5e9)].power_w == 40.0


def test_the_frontier_sets_clocks_of_which_it_knows_by_a_rule_alone(clock):
    """A cap between what batch size 1 draws at half clock and at full: only a lower clock keeps to it."""
    knob = Knob()
    knob.levels_hz = (0.5e9, 0.75e9, 1e9)

    def ratio() -> float:
        return (knob.set_hz[-1] if knob.set_hz else 1e9) / 1e9

    class Sensor(ScriptedMeter):
        def power_w(self, size, variant=0):
            return super().power_w(size) if not size else 20 + (super().power_w(size) - 20) * ratio() ** 2.4

    def run(x):
        clock.sleep(0.01 * (1 + 0.5 * len(x)) * (0.8 / ratio() + 0.2))
        return x

    knob.close = lambda: None
    expected = Predictions({Configuration(n): Prediction(0.01 * (1 + 0.5 * n), 70.0 + 20 * n) for n in (1, 2, 4)})
    meter = Sensor({1: 100.0, 2: 125.0, 4: 160.0}, idle_w=20.0, clock=clock)
    options = {"batch_sizes": [1, 2, 4], "max_wait_s": 0.0, "clock": clock, "sleep": clock.sleep}
    with Session(run, meter=meter, power_cap_w=80.0, clocks=knob, predictions=expected, **options) as session:
        assert session.decision.configuration.clock_hz is not None
        for _ in range(40):
            futures = [session.submit(np.ones((4, 1))) for _ in range(10)]
            assert all(future.result(timeout=30) is not None for future in futures)
        late = session.timeline[-50:]
        chosen = session.decision.configuration
    assert chosen.clock_hz < 1e9
    assert all(sample.power_w <= 80.0 for sample in late)
    assert {sample.clock_hz for sample in late} == {chosen.clock_hz}
    assert chosen == Configuration(2, clock_hz=0.75e9)  # 73 W, 79 rows/s; batch 4 fits at half the clock: 74


def test_a_session_that_cannot_begin_leaves_no_lock(shared_gpu, state):
    with pytest.raises(ValueError, match="unknown policy"):
        Session(lambda x: x, clocks="nvml", policy="green", batch_sizes=[1])
    assert statements(shared_gpu)[-1].endswith("unlock")
    assert not list(state.glob("*.json"))
