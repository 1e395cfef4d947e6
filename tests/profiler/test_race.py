"""Candidates measured in turns, on devices that drift; virtual time."""

from __future__ import annotations

import itertools
import math
import threading

import pytest
from racing import by_both, by_time, measure, quiet, race

from joulec.costdb.cost import Failure
from joulec.profiler.candidate import NO_WORK
from joulec.profiler.meter import MeterError, Reading
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter
from joulec.profiler.meters.nvml import NvmlMeter
from joulec.profiler.protocol import Adaptive
from joulec.profiler.stand import CandidateFailed

ESTIMATE = EstimateMeter(EnergyConstants("test", 10.0, 0.0, 0.0, 0.0, 0.0))


class Machine:
    """Whatever runs on it takes ``slowness(seconds since it was switched on)`` times as long, and is noted."""

    def __init__(self, slowness=lambda s: 1.0):
        self.now_s, self.slowness, self.ran = 0.0, slowness, []

    def clock(self):
        return self.now_s

    def workload(self, name, call_s, watts=50.0):
        return Workload(self, name, call_s, watts)


class Workload:
    def __init__(self, machine, name, call_s, watts):
        self.machine, self.name, self.call_s, self.watts = machine, name, call_s, watts
        self.calls = 0

    def run(self, calls):
        self.machine.ran.append(self.name)
        for _ in range(calls):
            self.machine.now_s += self.call_s * self.machine.slowness(self.machine.now_s)
        self.calls += calls

    def overhead_s(self):
        return 0.0

    contention = staticmethod(quiet)


class Sensor:
    """Reads the power of whatever ran last, exactly."""

    name = source = "rapl"
    window_s = 0.1

    def __init__(self, machine, workloads):
        self.machine, self.watts = machine, {one.name: one.watts for one in workloads}
        self.windows = []

    def begin(self):
        self.start_s = self.machine.now_s

    def end(self, work=NO_WORK):
        name = self.machine.ran[-1]
        self.windows.append(name)
        seconds = self.machine.now_s - self.start_s
        return Reading(seconds, seconds * self.watts[name], "rapl", spread=0.005)


def _times(machine, workloads, **options):
    return [one.time_s for one in race(Adaptive(), workloads, ESTIMATE, NO_WORK, machine.clock, **options)]


def _one_after_another(machine, workloads):
    return [measure(Adaptive(), one, ESTIMATE, NO_WORK, machine.clock).time_s for one in workloads]


DRIFTS = {
    "a step": lambda s: 1.0 if s < 0.1 else 1.3,
    "a ramp": lambda s: 1.0 + 0.5 * s,
    "a ramp down": lambda s: 1.0 / (1.0 + 0.5 * s),
    "a wave": lambda s: 1.2 + 0.2 * math.sin(12.0 * s),
}


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=DRIFTS.keys())
@pytest.mark.parametrize("better", [0, 1, 2])
def test_drift_hits_all_alike(drift, better):
    """Three candidates, of which one is 4% faster, on a device that drifts by more than that."""

    def workloads(machine):
        return [machine.workload(n, 0.96e-3 if n == better else 1e-3) for n in range(3)]

    machine = Machine(drift)
    times = _times(machine, workloads(machine))
    assert times.index(min(times)) == better
    assert min(times) == pytest.approx(0.96 * sorted(times)[1], rel=0.05)


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=DRIFTS.keys())
def test_one_after_another_the_same_drift_decides(drift):
    """What taking turns is for: on the same devices, the first or the last looks best, whichever is."""
    wrong = 0
    for better in range(3):
        machine = Machine(drift)
        times = _one_after_another(machine, [machine.workload(n, 0.96e-3 if n == better else 1e-3) for n in range(3)])
        wrong += times.index(min(times)) != better
    assert wrong >= 1


def test_turns_go_forth_and_back():
    machine = Machine()
    _times(machine, [machine.workload(name, 1e-3) for name in "abc"])
    rounds = "".join(name for name, _ in itertools.groupby(machine.ran))
    assert rounds.startswith("abc" + "abcbabc")


def test_a_candidate_certainly_behind_is_left_early():
    machine = Machine()
    workloads = [machine.workload("a", 1e-3), machine.workload("b", 1.2e-3), machine.workload("c", 9e-3)]
    a, b, c = race(Adaptive(), workloads, ESTIMATE, NO_WORK, machine.clock, judge=by_time)
    assert a.complete
    assert (a.stopped, b.stopped.certain, c.stopped.certain) == (None, True, False)
    assert workloads[1].calls < workloads[0].calls / 2
    assert workloads[2].calls <= 4
    assert b.cost().spread < math.inf
    assert c.cost().spread == math.inf
    assert "more than 3 times the intervals" in str(b.stopped)


def test_nobody_is_left_where_nobody_judges():
    machine = Machine()
    entrants = race(
        Adaptive(), [machine.workload("a", 1e-3), machine.workload("b", 9e-3)], ESTIMATE, NO_WORK, machine.clock
    )
    assert all(entrant.complete for entrant in entrants)


def _with_sensor(form, judge, idle_w):
    machine = Machine()
    workloads = [machine.workload(name, *rest) for name, *rest in form]
    sensor = Sensor(machine, workloads)
    entrants = race(Adaptive(), workloads, sensor, NO_WORK, machine.clock, judge=judge, idle_w=idle_w)
    return dict(zip([name for name, *_ in form], entrants, strict=True)), sensor


def test_idle_power_bounds_the_energy_of_a_slow_candidate():
    """At 40 W idle, 2.5 ms take 90 mJ at least: more than 1 ms at 60 W."""
    form = [("quick", 1e-3, 60.0), ("slow", 2.5e-3, 45.0), ("middling", 1.3e-3, 45.0)]
    found, sensor = _with_sensor(form, by_both, 40.0)
    assert "slow" not in sensor.windows
    assert found["slow"].stopped.by_energy
    assert (found["slow"].cost().energy_j, found["slow"].cost().energy_source) == (None, "rapl")
    assert found["quick"].cost().energy_j == pytest.approx(0.06)
    assert found["middling"].cost().energy_j == pytest.approx(1.3 * 0.045)


def test_without_idle_power_a_slow_candidate_is_measured():
    form = [("quick", 1e-3, 60.0), ("slow", 2.5e-3, 20.0)]
    found, sensor = _with_sensor(form, by_both, None)
    assert found["slow"].cost().energy_j == pytest.approx(0.05)
    assert set(sensor.windows) == {"quick", "slow"}


def test_a_reading_below_idle_power_lowers_the_bound():
    """Idle was read at 60 W beside a neighbour; once 22 W were seen, 1.12 ms may well take less than 60 mJ."""
    form = [("quick", 1e-3, 60.0), ("frugal", 1.05e-3, 22.0), ("slow", 1.12e-3, 20.0)]
    found, _ = _with_sensor(form, by_both, 60.0)
    assert [one.cost().energy_j for one in found.values()] == pytest.approx([0.06, 1.05 * 0.022, 1.12 * 0.02])


def test_time_alone_needs_no_window_of_the_slow():
    found, sensor = _with_sensor([("quick", 1e-3, 60.0), ("slow", 1.2e-3, 20.0)], by_time, 40.0)
    assert "slow" not in sensor.windows
    assert (found["slow"].cost().energy_j, found["slow"].cost().energy_source) == (None, None)


def test_energies_near_each_other_get_a_second_window_in_the_other_order():
    _, sensor = _with_sensor([("a", 1e-3, 50.0), ("b", 1.1e-3, 46.0), ("c", 1e-3, 80.0)], None, None)
    assert sensor.windows == ["a", "c", "b", "b", "a"]


class Failing(Workload):
    def run(self, calls):
        super().run(calls)
        if self.calls > 30:
            raise CandidateFailed(Failure("crash", "SIGSEGV"))


def test_one_that_fails_leaves_the_others_running():
    machine = Machine()
    a, b, c = (machine.workload("a", 1e-3), Failing(machine, "b", 1e-3, 1.0), machine.workload("c", 2e-3))
    entrants = race(Adaptive(), [a, b, c], ESTIMATE, NO_WORK, machine.clock)
    assert [entrant.failure is not None for entrant in entrants] == [False, True, False]
    assert [entrants[0].time_s, entrants[2].time_s] == pytest.approx([1e-3, 2e-3])


class Kernel:
    """On a scripted GPU that gets warm: leakage adds to its power with every second."""

    def __init__(self, gpu, call_s, watts, per_s):
        self.gpu, self.call_s, self.watts, self.per_s = gpu, call_s, watts, per_s
        self.begun_s = gpu.time.now_s

    def run(self, calls):
        watts = self.watts * (1 + self.per_s * (self.gpu.time.now_s - self.begun_s))
        self.gpu.add(f"load {watts:.3f}")
        self.gpu.time.advance(calls * self.call_s)

    def overhead_s(self):
        return 0.0


@pytest.mark.parametrize("sensor", ["counter", "power"])
def test_a_gpu_that_gets_warm_does_not_change_the_decision(gpu, sensor):
    """The second of two kernels takes 1.5% less energy; power rises by 4% a second."""
    gpu.script("like a100", "load 50")

    def energies(together):
        meter = NvmlMeter(0, gpu.time.clock, sensor=sensor, every=gpu.time.every)
        options = {"contention": quiet, "sleep": gpu.time.sleep}
        kernels = [Kernel(gpu, 1e-3, 200, 0.04), Kernel(gpu, 1e-3, 197, 0.04)]
        try:
            if together:
                entrants = race(Adaptive(), kernels, meter, NO_WORK, gpu.time.clock, **options)
                return [entrant.cost().energy_j for entrant in entrants]
            return [measure(Adaptive(), one, meter, NO_WORK, gpu.time.clock, **options).energy_j for one in kernels]
        finally:
            meter.close()

    first, second = energies(together=True)
    assert second / first == pytest.approx(0.985, abs=0.008)
    first, second = energies(together=False)
    assert second > first, "one after another the drift decides"


class Silent(Sensor):
    def end(self, work=NO_WORK):
        threading.Event().wait(5)
        raise AssertionError("nobody waits so long")


def test_a_sensor_that_never_answers_is_the_sensors_fault(monkeypatch):
    monkeypatch.setattr("joulec.profiler.patience.LIMIT_S", 0.1)
    machine = Machine()
    workload = machine.workload("a", 1e-3)
    with pytest.raises(MeterError, match=r"has not answered for 0\.1 s.*--meter estimate"):
        race(Adaptive(), [workload], Silent(machine, [workload]), NO_WORK, machine.clock)
