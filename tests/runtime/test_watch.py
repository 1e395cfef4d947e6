"""What hangs does not hang the session: a kernel, a meter, the source of the cap; and readings that come too late."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest

from joulec.profiler.candidate import NO_WORK
from joulec.profiler.meter import MeterError, Reading
from joulec.runtime import Configuration, Decision, Model, Session, SessionClosed
from joulec.runtime.thread import CallHangs, CallThread
from joulec.runtime.watch import BatchHangs, WatchedMeter

X = np.ones((2, 3))


class Gate:
    """An executor, or a source, that hangs while it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, x=None):
        self.entered.set()
        assert self.open.wait(60)
        if x is not None:
            self.sizes.append(len(x))
        return x


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def test_a_kernel_that_hangs_fails_its_requests_and_comes_back(gate):
    with Session(gate, batch_sizes=[1, 2], batch_timeout_s=0.2, max_wait_s=0.0) as session:
        gate.open.clear()
        running, waiting = session.submit(X), session.submit(X)
        for future in (running, waiting):
            with pytest.raises(BatchHangs, match="a batch of 2 rows has not come back for 0"):
                future.result(timeout=30)
        assert len(session.notices) == 1
        assert "requests fail until it does" in session.notices[0]
        gate.open.set()
        np.testing.assert_array_equal(session.submit(X).result(timeout=30), X)
        assert "batch size 2 fails" in session.notices[1]
        assert session.batch_size == 1
        assert gate.sizes == [2, 1, 1]
        assert session.outcomes.failed == 2


def test_closing_does_not_wait_for_a_kernel_that_hangs(gate):
    session = Session(gate, batch_sizes=[2], batch_timeout_s=0.3, max_wait_s=0.0)
    gate.open.clear()
    running = session.submit(X)
    assert gate.entered.wait(30)
    time.sleep(0.05)
    late = session.submit(X)
    session.close()
    assert isinstance(running.exception(timeout=0), (BatchHangs, SessionClosed))
    assert isinstance(late.exception(timeout=0), (BatchHangs, SessionClosed))
    session.close()


def test_the_source_of_a_cap_that_hangs(gate):
    """It is asked by the worker: without it no batch runs, and nobody waits for ever."""

    def cap() -> float:
        gate()
        return 100.0

    options = {"batch_sizes": [1, 2], "batch_timeout_s": 0.2, "max_wait_s": 0.0, "meter": Sensor(), "policy": "paper"}
    with Session(lambda x: x, power_cap_w=cap, **options) as session:
        session.submit(X).result(timeout=30)
        gate.open.clear()
        with pytest.raises(BatchHangs, match="the power cap's source has not come back"):
            session.submit(X).result(timeout=30)
        gate.open.set()
        session.submit(X).result(timeout=30)


class Sensor:
    """A sensor that can be told to hang, or to answer late."""

    name, source, window_s = "nvml", "nvml", 0.0

    def __init__(self, gate: Gate | None = None) -> None:
        self.gate = gate or Gate()
        self.count = 0
        self.age_s = 0.0
        self.closed = False

    def begin(self) -> None:
        self.start_s = time.monotonic()

    def end(self, work=NO_WORK) -> Reading:
        self.gate()
        self.count += 1
        seconds = time.monotonic() - self.start_s
        return Reading(seconds, (50.0 + 0.1 * (self.count % 7)) * seconds, "nvml", age_s=self.age_s)

    def close(self) -> None:
        self.closed = True


def test_a_meter_that_hangs_leaves_the_smallest_batch_and_one_warning(gate, monkeypatch):
    monkeypatch.setattr(WatchedMeter.__init__, "__defaults__", (0.2,))
    sensor = Sensor(gate)
    options = {"batch_sizes": [1, 2, 4], "max_wait_s": 0.0, "policy": "paper", "power_cap_w": 100.0}
    with Session(lambda x: x, meter=sensor, **options) as session:
        until(session, lambda: session.batch_size == 4)
        gate.open.clear()
        until(session, lambda: session.batch_size == 1)
        assert len(session.notices) == 1
        assert "the meter nvml does not answer" in session.notices[0]
        gate.open.set()
        until(session, lambda: session.batch_size == 4)
        assert len(session.notices) == 1
        gate.open.clear()
        session.submit(X).result(timeout=30)
    assert not sensor.closed  # it is the caller's


def until(session, reached, seconds: float = 30.0) -> None:
    end_s = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end_s, session.decision
        assert not wait([session.submit(np.ones((4, 1))) for _ in range(12)], timeout=30).not_done


def test_a_reading_that_is_too_old_is_a_fault(clock):
    """Of a constant load; one warning, the safest configuration, and recovery."""

    class Aged(Sensor):
        def begin(self) -> None:
            self.start_s = clock()

        def end(self, work=NO_WORK) -> Reading:
            self.count += 1
            seconds = clock() - self.start_s
            return Reading(seconds, (50.0 + 0.1 * (self.count % 7)) * seconds, "nvml", age_s=self.age_s)

    def run(x):
        clock.sleep(0.01)
        return x

    sensor = Aged()
    options = {"batch_sizes": [1, 2, 4], "max_wait_s": 0.0, "policy": "paper", "clock": clock, "sleep": clock.sleep}
    with Session(run, meter=sensor, power_cap_w=100.0, **options) as session:
        until(session, lambda: session.batch_size == 4)
        sensor.age_s = 5.0
        until(session, lambda: session.batch_size == 1)
        assert len(session.notices) == 1
        assert "the newest power reading is 5 s old" in session.notices[0]
        sensor.age_s = 0.0
        until(session, lambda: session.batch_size == 4)
        assert len(session.notices) == 1


def test_a_meter_that_answers_late_makes_its_reading_old(clock):
    """Its own clock stopped at the window's end; the answer came three seconds later."""

    class Slow(Sensor):
        def begin(self) -> None:
            self.start_s = clock()

        def end(self, work=NO_WORK) -> Reading:
            seconds = clock() - self.start_s
            clock.sleep(3.0)
            return Reading(seconds, 50.0 * seconds, "nvml")

    class Noting:
        name = "noting"
        decision = Decision(Configuration(1), "searching")

        def __init__(self) -> None:
            self.ages: list[float] = []

        def step(self, telemetry, cap_w):
            self.ages.append(telemetry.age_s)
            return self.decision

    policy = Noting()
    options = {"batch_sizes": [1], "max_wait_s": 0.0, "clock": clock, "sleep": clock.sleep}

    def run(x):
        clock.sleep(0.01)
        return x

    with Session(run, meter=Slow(), policy=policy, power_cap_w=100.0, **options) as session:
        session.submit(np.ones((1, 1))).result(timeout=30)
        assert "reading is 3 s old" in session.notices[0]
    assert policy.ages == []  # the guard keeps it from the policy


def test_calls_on_another_thread():
    thread, gate = CallThread("test"), threading.Event()
    assert thread.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0)
    with pytest.raises(CallHangs, match=r"no answer for 0\.05 s"):
        thread.call(gate.wait, 0.05)
    gate.set()
    assert thread.call(lambda: 3) == 3
    assert thread.stop()
    with pytest.raises(RuntimeError, match="was stopped"):
        thread.call(lambda: 3)


def test_a_meter_that_was_closed_says_so():
    sensor = Sensor()
    meter = WatchedMeter(sensor)
    meter.begin()
    assert meter.end().power_w == pytest.approx(50.0, rel=0.02)
    meter.close()
    meter.close()
    assert sensor.closed
    with pytest.raises(MeterError, match="the meter nvml is closed"):
        meter.begin()


HANGING = """
import threading, time
import numpy as np
from joulec.runtime import Session
session = Session(lambda x: threading.Event().wait(), batch_sizes=[1], batch_timeout_s=0.2)
future = session.submit(np.ones((1, 1)))
print(type(future.exception()).__name__)
"""


def test_a_process_ends_although_a_kernel_hangs():
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "BatchHangs\n"), done.stderr


def test_a_model_may_be_closed_while_a_call_hangs(plain, monkeypatch, gate):
    monkeypatch.setattr("joulec.runtime.executor._PATIENCE_S", 0.1)
    model = Model(*plain.parts)
    gate.open.clear()
    caller = threading.Thread(target=lambda: model._executor._on_thread(gate), daemon=True)
    caller.start()
    assert gate.entered.wait(30)
    model.close()
    gate.open.set()
    caller.join(30)
    assert not caller.is_alive()
