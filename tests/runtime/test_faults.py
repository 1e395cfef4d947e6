"""Faults at run time: the smallest batch, one warning, recovery when the fault ends, and never a hang."""

from __future__ import annotations

import math
from concurrent.futures import wait
from dataclasses import replace

import numpy as np
import pytest

from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import MeterError, Reading
from joulec.runtime import ScriptedMeter, Session
from joulec.runtime.faults import FailedSizes, SensorHealth

WATTS = {1: 40.0, 2: 50.0, 4: 65.0, 8: 95.0, 16: 140.0}
SIZES = sorted(WATTS)


class Sensor(ScriptedMeter):
    """A sensor with some noise that can be given a fault."""

    source = "nvml"

    def __init__(self, clock) -> None:
        super().__init__(WATTS, idle_w=10.0, clock=clock)
        self.fault = None
        self.count = 0

    def end(self, work: Work = NO_WORK) -> Reading:
        reading = super().end(work)
        self.count += 1
        noisy = replace(reading, joules=reading.joules * (1 + 1e-4 * (self.count % 7)))
        return noisy if self.fault is None else self.fault(noisy)


def raising(reading: Reading) -> Reading:
    raise MeterError("the sensor is gone")


def reading_of(power_w: float):
    return lambda reading: replace(reading, joules=power_w * reading.seconds)


class Device:
    """An executor on a fake clock that fails for some batches while it is told to."""

    def __init__(self, clock) -> None:
        self.clock = clock
        self.fails = lambda x: False
        self.sizes: list[int] = []

    def __call__(self, x):
        if self.fails(x):
            raise RuntimeError("kernel launch failed")
        self.sizes.append(len(x))
        self.clock.sleep(1e-3 * (1 + 0.1 * len(x)))
        return 2 * x


def open_session(clock, device=None, meter=None, **options) -> Session:
    options = {"batch_sizes": SIZES, "power_cap_w": 100.0, "policy": "paper", "max_wait_s": 0.0, **options}
    return Session(device or Device(clock), meter=meter or Sensor(clock), clock=clock, sleep=clock.sleep, **options)


def feed(session: Session, batches: int = 60, rows: int = 16) -> None:
    futures = [session.submit(np.ones((rows, 2))) for _ in range(batches)]
    assert not wait(futures, timeout=30).not_done


@pytest.mark.parametrize(
    "fault", [raising, reading_of(math.nan), reading_of(math.inf), reading_of(-3.0), reading_of(0.0)]
)
def test_a_sensor_that_fails_and_recovers(clock, fault):
    sensor = Sensor(clock)
    with open_session(clock, meter=sensor) as session:
        feed(session)
        assert session.batch_size == 8
        sensor.fault = fault
        feed(session)
        assert session.batch_size == 1
        assert len(session.notices) == 1
        assert "the smallest batch size is kept" in session.notices[0]
        sensor.fault = None
        clock.sleep(20.0)
        feed(session)
        assert session.batch_size == 8
        assert session.decision.state == "settled"
        assert len(session.notices) == 1
        assert session.timeline[-10].power_w == pytest.approx(WATTS[8], rel=1e-3)
    assert all(s.power_w is None or math.isfinite(s.power_w) for s in session.timeline)


def test_a_sensor_that_stands_still(clock):
    sensor = Sensor(clock)
    with open_session(clock, meter=sensor) as session:
        feed(session)
        sensor.fault = reading_of(WATTS[8])
        feed(session)
        session.power_cap_w = 50.0
        feed(session)
        assert session.batch_size == 1
        assert len(session.notices) == 1
        assert "stuck at 95 W" in session.notices[0]
        sensor.fault = None
        clock.sleep(20.0)
        session.power_cap_w = 100.0
        feed(session)
        assert session.batch_size == 8
        assert len(session.notices) == 1


def test_equal_readings_at_different_sizes_are_not_believed(clock):
    health = SensorHealth(clock)
    for size in (1, 1, 1, 1, 1):
        assert health.judge(Reading(1.0, 50.0, "nvml"), size, measured=True) is None
    assert "while the batch size changed" in (health.judge(Reading(1.0, 50.0, "nvml"), 2, measured=True) or "")
    assert health.judge(Reading(1.0, 50.1, "nvml"), 2, measured=True) is None
    for size in (1, 2, 4, 8, 16):  # a script may say the same of all sizes
        assert health.judge(Reading(1.0, 50.0, "simulated"), size, measured=False) is None


def test_now_and_then_a_good_reading_does_not_make_a_sensor_well(clock):
    health = SensorHealth(clock)
    for _ in range(10):
        health.fail()
        assert not health.due
        clock.sleep(10.0)
        assert health.due
        for watts in (50.0, 51.0):
            assert health.judge(Reading(1.0, watts, "nvml"), 1, measured=True) is None
        assert not health.well
    assert health.judge(Reading(1.0, 52.0, "nvml"), 1, measured=True) is None
    assert health.well


@pytest.mark.parametrize("cap_w", [0.0, 8.0])
def test_a_cap_that_nothing_can_keep(clock, cap_w):
    caps = [100.0]
    with open_session(clock, power_cap_w=lambda: caps[0]) as session:
        feed(session)
        caps[0] = cap_w
        feed(session)
        assert session.batch_size == 1
        assert session.power_cap_w == cap_w
        notices = session.notices
        assert sum("even the smallest batch size" in notice for notice in notices) == 1
        assert sum("idle power" in notice for notice in notices) == 1
        feed(session, 20)
        assert session.notices == notices
        caps[0] = 100.0
        feed(session)
        assert session.batch_size == 8


def test_a_set_of_one_batch(clock):
    with open_session(clock, batch_sizes=[8]) as session:
        feed(session)
        assert session.batch_size == 8
        session.power_cap_w = 60.0
        feed(session, 100)
        assert session.batch_size == 8
        assert len(session.notices) == 1
        late = session.timeline[-100:]
    assert sum(s.power_w * s.seconds for s in late) / sum(s.seconds for s in late) <= 60.0 * 1.001


def test_a_size_that_fails_is_left_out_until_it_works_again(clock):
    device = Device(clock)
    with open_session(clock, device) as session:
        feed(session)
        assert session.batch_size == 8
        device.fails = lambda x: len(x) >= 4
        feed(session)  # every request is answered all the same
        assert session.batch_size < 4
        (eight, four) = session.notices
        assert "batch size 8 fails (kernel launch failed)" in eight
        assert "batch size 4 fails" in four
        device.fails = lambda x: False
        clock.sleep(100.0)
        feed(session, 100)
        assert session.batch_size == 8
        assert len(session.notices) == 2


def test_a_kernel_that_always_fails_fails_requests_and_no_more(clock):
    device = Device(clock)
    device.fails = lambda x: True
    with open_session(clock, device, batch_sizes=[1, 2, 4]) as session:
        futures = [session.submit(np.ones((4, 2))) for _ in range(5)]
        assert not wait(futures, timeout=30).not_done
        assert all(isinstance(future.exception(), RuntimeError) for future in futures)
        device.fails = lambda x: False
        np.testing.assert_array_equal(session.submit(np.ones((4, 2))).result(timeout=30), np.full((4, 2), 2.0))


def test_sizes_are_tried_again_after_longer_and_longer(clock):
    failed = FailedSizes([1, 2, 4], clock)
    assert failed.add(4)
    assert failed.largest == 2
    clock.sleep(1.01)
    assert failed.largest == 4
    assert not failed.add(4)  # no news
    clock.sleep(1.01)
    assert failed.largest == 2
    failed.ran(4)
    assert failed.largest == 4
    assert not failed.add(1)
    assert failed.largest == 4
