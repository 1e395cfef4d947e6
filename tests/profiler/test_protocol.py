"""The protocols in virtual time: the clock moves only when the workload or the meter says so."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from racing import by_time, measure, quiet

from joulec.costdb.cost import Cost
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.contention import Contention, own_contention
from joulec.profiler.meter import Reading
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter, estimate_energy_j
from joulec.profiler.protocol import PROTOCOLS, Adaptive, Paper
from joulec.profiler.statistics import Summary, summarise

WORK = Work(flops=1e6, dram_bytes=1e3, cache_bytes=1e2, register_bytes=10)
CONSTANTS = EnergyConstants("test", 10.0, 1e-9, 1e-10, 1e-11, 1e-12)


class VirtualWorkload:
    """``call_s(n)`` says what the n-th call takes; every run adds nothing else."""

    def __init__(self, call_s, overhead_s=0.0):
        self.now_s = 100.0
        self.calls = 0
        self.runs = []
        self._call_s = call_s
        self._overhead_s = overhead_s

    def run(self, calls):
        self.runs.append(calls)
        for _ in range(calls):
            self.calls += 1
            self.now_s += self._call_s(self.calls)

    def overhead_s(self):
        return self._overhead_s

    def clock(self):
        return self.now_s

    def contention(self):
        return quiet()


class Neighbour(VirtualWorkload):
    """A neighbour takes a processor away when ``present(now_s)`` says so: calls take 1.8 times as long."""

    def __init__(self, call_s, present):
        super().__init__(lambda n: call_s * (1.8 if present(self.now_s) else 1.0))
        self.preemptions, self.waited_s, self._present = 0, 0.0, present

    def run(self, calls):
        begun_s, present = self.now_s, self._present(self.now_s)
        super().run(calls)
        self.preemptions += present
        self.waited_s += 0.8 * (self.now_s - begun_s) * present

    def contention(self):
        return Contention(self.preemptions, self.waited_s)


class VirtualSensor:
    """A sensor that reads a constant power."""

    name = "rapl"
    source = "rapl"

    def __init__(self, workload, power_w, window_s):
        self.workload, self.power_w, self.window_s = workload, power_w, window_s
        self.windows = []

    def begin(self):
        self.start = (self.workload.now_s, self.workload.calls)

    def end(self, work=NO_WORK):
        seconds = self.workload.now_s - self.start[0]
        self.windows.append((seconds, self.workload.calls - self.start[1], work))
        return Reading(seconds, seconds * self.power_w, "rapl")


def _measure(protocol, workload, meter=None):
    return measure(protocol, workload, meter or EstimateMeter(CONSTANTS), WORK, workload.clock)


def _against(workload, rival_s):
    """With a rival of a known time, under the objective time."""
    known = [Cost(rival_s, None, "measured", None)]
    meter = EstimateMeter(CONSTANTS)
    return measure(Adaptive(), workload, meter, WORK, workload.clock, known=known, judge=by_time)


def test_work_adds_up():
    assert WORK.scaled(3) == WORK + WORK + WORK == sum([WORK] * 3, NO_WORK)
    assert WORK.scaled(2) == Work(2e6, 2e3, 2e2, 20)


def test_a_steady_kernel_costs_its_time_and_ends_quickly():
    workload = VirtualWorkload(lambda n: 100e-6)
    cost = _measure(Adaptive(), workload)
    assert cost.time_s == pytest.approx(100e-6)
    assert cost.spread == pytest.approx(0, abs=1e-9)
    assert (cost.time_source, cost.energy_source) == ("measured", "estimated")
    assert cost.energy_j == pytest.approx(estimate_energy_j(WORK, 100e-6, CONSTANTS))
    assert 0.05 <= workload.now_s - 100 <= 0.2


def test_overhead_is_subtracted_per_call():
    assert _measure(Adaptive(), VirtualWorkload(lambda n: 12e-6, 2e-6)).time_s == pytest.approx(10e-6)


def test_a_kernel_as_short_as_the_loop_around_it_is_not_free():
    cost = _measure(Adaptive(), VirtualWorkload(lambda n: 1e-6, 2e-6))
    assert cost.time_s == 1e-9
    assert cost.energy_j > 0


def test_samples_last_long_enough_for_the_clock():
    workload = VirtualWorkload(lambda n: 1e-6)
    _measure(Adaptive(), workload)
    assert min(workload.runs[-20:]) >= 1000


def test_the_first_call_plans_nothing():
    """A first call of half a second (page faults, lazy initialisation) leaves the samples as long as they should be."""
    workload = VirtualWorkload(lambda n: 0.5 if n == 1 else 100e-6)
    cost = _measure(Adaptive(), workload)
    assert cost.time_s == pytest.approx(100e-6)
    assert workload.runs[-1] == 10


def test_noise_is_sampled_until_the_interval_is_narrow():
    steady, noisy = (VirtualWorkload(_noise(sigma)) for sigma in (0.01, 0.3))
    first, second = _measure(Adaptive(sample_s=1e-4), steady), _measure(Adaptive(sample_s=1e-4), noisy)
    assert first.spread <= 0.02
    assert second.spread <= 0.02
    assert noisy.now_s >= steady.now_s
    assert second.time_s == pytest.approx(1e-4, rel=0.1)


def _noise(sigma):
    generator = random.Random(7)
    return lambda n: 1e-4 * max(0.1, generator.gauss(1, sigma))


def test_hopeless_noise_ends_with_the_budget():
    generator = random.Random(3)
    workload = VirtualWorkload(lambda n: generator.uniform(0.005, 0.05))
    cost = _measure(Adaptive(), workload)
    assert cost.spread > 0.02
    assert 2.0 <= workload.now_s - 100 <= 2.3


def test_a_slow_kernel_is_sampled_five_times_beyond_the_budget():
    workload = VirtualWorkload(lambda n: 3.0)
    cost = _measure(Adaptive(), workload)
    assert cost.time_s == pytest.approx(3.0)
    assert cost.samples == 5
    assert workload.calls == 7


def test_disturbed_samples_are_dropped():
    """Another process takes the core for 20 ms in every 100 calls."""
    workload = VirtualWorkload(lambda n: 100e-6 + (0.02 if n % 100 == 0 else 0.0))
    cost = _measure(Adaptive(), workload)
    assert cost.time_s == pytest.approx(100e-6, rel=1e-6)


@pytest.mark.parametrize("sample_s", [1e-3, 1e-4])
def test_a_stretch_with_a_neighbour_does_not_count(sample_s):
    """The first 0.3 s, warm-up included, are disturbed all through, so that no statistic could tell."""
    workload = Neighbour(100e-6, lambda now_s: now_s < 100.3)
    cost = _measure(Adaptive(sample_s=sample_s), workload)
    assert cost.time_s == pytest.approx(100e-6)
    assert 0.35 <= workload.now_s - 100 <= 0.5


def test_with_a_neighbour_all_the_time_patience_ends_it():
    workload = Neighbour(100e-6, lambda now_s: True)
    cost = _measure(Adaptive(), workload)
    assert cost.time_s == pytest.approx(180e-6)
    assert 0.5 <= workload.now_s - 100 <= 0.6


def test_with_a_neighbour_most_of_the_time_the_budget_ends_it():
    workload = Neighbour(100e-6, lambda now_s: now_s % 0.4 > 0.01)
    cost = _measure(Adaptive(), workload)
    assert cost.time_s == pytest.approx(100e-6, rel=0.05)
    assert 2.0 <= workload.now_s - 100 <= 2.1


def test_a_disturbed_start_is_no_reason_to_give_up():
    """The warm-up and a slice are slower than the limit of 150 µs, but not so slow that they could not be disturbed."""
    workload = Neighbour(100e-6, lambda now_s: now_s < 100.0235)
    cost = _against(workload, 99e-6)
    assert cost.time_s == pytest.approx(100e-6)
    assert cost.samples >= 5


def test_a_slowdown_that_the_kernel_does_not_see_leaves_the_fastest_mode():
    """Three calls in five find the cache or a core's other thread in use."""
    workload = VirtualWorkload(lambda n: 1e-3 if n % 5 < 2 else 1.8e-3)
    cost = _measure(Adaptive(sample_s=1e-4), workload)
    assert cost.time_s == pytest.approx(1e-3)
    assert cost.samples * cost.time_s >= 0.05
    assert workload.now_s - 100 <= 0.3


def test_a_workload_far_behind_is_left_at_a_look():
    slow, near = VirtualWorkload(lambda n: 0.1), VirtualWorkload(lambda n: 1e-3)
    cost = _against(slow, 0.03)
    assert (cost.time_s, cost.samples, cost.spread) == (pytest.approx(0.1), 1, math.inf)
    assert slow.calls == 2
    assert cost.energy_j == pytest.approx(estimate_energy_j(WORK, 0.1, CONSTANTS))
    assert _against(near, 0.03).samples >= 5


def test_summary_is_of_the_fastest_mode_and_drops_only_above():
    assert summarise([1.0, 1.0, 1.0, 1.0, 9.0]).mean_s == 1.0
    assert summarise([1.0, 1.0, 1.0, 1.0, 0.5]).mean_s == pytest.approx(0.9)
    half = summarise([1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0])
    assert (half.kept, half.mean_s) == (5, 1.0)
    generator = random.Random(5)
    modes = [generator.gauss(1.0 if n % 10 < 3 else 1.8, 0.02) for n in range(400)]
    assert summarise(modes).mean_s == pytest.approx(1.0, abs=0.005)
    assert summarise([2.0]) == Summary(2.0, math.inf, 1)


def test_summary_of_normal_noise_is_its_mean():
    """Few samples may by chance have a narrow mode at the lower end: a third of σ is what that costs."""
    generator = random.Random(11)
    for count, off in ((5, 0.25), (10, 0.4), (50, 0.1), (200, 0.05)):
        means = [summarise([generator.gauss(10, 1) for _ in range(count)]).mean_s for _ in range(400)]
        assert 10 - off <= statistics.fmean(means) <= 10.05


def test_the_kernels_account_of_this_process(tmp_path):
    quiet = Contention(3, 1.0)
    assert not quiet.disturbed(Contention(3, 1.9), 1.0)  # threads were woken, nobody was preempted
    assert not quiet.disturbed(Contention(4, 1.01), 1.0)  # the kernel's own short work
    assert quiet.disturbed(Contention(4, 1.3), 1.0)
    assert quiet.disturbed(Contention(4, None), 1.0)
    for name, waited in (("1", 2_000_000), ("2", 500_000_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(f"123456 {waited} 7\n")
    assert own_contention(tmp_path).waited_s == pytest.approx(0.502)
    (tmp_path / "3").mkdir()
    assert own_contention(tmp_path).waited_s is None
    assert own_contention(tmp_path / "none").waited_s is None
    first = own_contention()
    assert own_contention().preemptions >= first.preemptions >= 0


def test_summary_is_the_students_interval():
    summary = summarise([9.0, 10.0, 11.0])
    assert summary.kept == 3
    assert summary.spread == pytest.approx(4.303 * 1.0 / math.sqrt(3) / 10)
    many = [9.5 + n / 99 for n in range(100)]
    assert summarise(many).kept == 100
    assert summarise(many).spread == pytest.approx(1.96 * statistics.stdev(many) / 10 / 10)


def test_the_energy_window_is_the_sensors_own():
    workload = VirtualWorkload(lambda n: 100e-6)
    sensor = VirtualSensor(workload, 50.0, window_s=0.5)
    cost = _measure(Adaptive(), workload, sensor)
    assert len(sensor.windows) == 3  # it says nothing of its spread
    for seconds, calls, work in sensor.windows:
        assert 0.5 <= seconds <= 0.6
        assert work == WORK.scaled(calls)
    assert cost.energy_source == "rapl"
    assert cost.energy_j == pytest.approx(50.0 * 100e-6)


def test_the_loops_share_of_the_energy_is_taken_off():
    workload = VirtualWorkload(lambda n: 12e-6, 2e-6)
    cost = _measure(Adaptive(), workload, VirtualSensor(workload, 50.0, 0.1))
    assert cost.energy_j == pytest.approx(50.0 * 10e-6)


def test_the_papers_protocol_warms_up_and_measures_for_four_seconds_each():
    workload = VirtualWorkload(lambda n: 1e-3)
    sensor = VirtualSensor(workload, 50.0, window_s=2.0)
    cost = _measure(Paper(), workload, sensor)
    ((seconds, _, _),) = sensor.windows
    assert 4.0 <= seconds <= 4.2
    assert 8.0 <= workload.now_s - 100 <= 8.8
    assert cost.time_s == pytest.approx(1e-3)
    assert cost.energy_j == pytest.approx(0.05)
    assert _measure(Paper(), VirtualWorkload(lambda n: 1e-3)).energy_j == pytest.approx(
        estimate_energy_j(WORK, 1e-3, CONSTANTS)
    )


def test_the_version_tells_every_option_that_was_changed():
    assert {name: protocol.version for name, protocol in PROTOCOLS.items()} == {
        "adaptive": "adaptive-4",
        "paper": "paper-1",
    }
    assert Adaptive(precision=0.01, budget_s=5).version == "adaptive-4(precision=0.01,budget_s=5)"
    assert Paper(window_s=1).version == "paper-1(window_s=1)"
