"""Timing in windows, in virtual time: the clock moves only when a call says so."""

from __future__ import annotations

import pytest

from joulec.profiler.candidate import Work
from joulec.profiler.contention import Contention
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter, estimate_energy_j
from joulec.runtime import ScriptedMeter
from joulec.runtime.timing import time_calls

WORK = Work(1e6, 1e3, 1e2, 10.0)


QUIET = Contention(0, 0.0)


def timed(clock, call_s, **options):
    """Calls that take ``call_s(seconds since the start)``; the kernel saw nobody else."""
    start_s = clock.now
    options = {"repeats": 20, "window_s": 0.3, "most_windows": 12, "contention": lambda: QUIET, **options}
    return time_calls(lambda: clock.sleep(call_s(clock.now - start_s)), clock=clock, **options)


class Neighbour:
    """Somebody who takes processors away for some seconds from now: calls take 1.8 ms for 1 ms."""

    def __init__(self, clock, seconds):
        self.clock, self.start_s, self.seconds = clock, clock.now, seconds

    def call_s(self, t):
        return 0.0018 if t < self.seconds else 0.001

    def account(self):
        present_s = min(self.clock.now - self.start_s, self.seconds)
        return Contention(int(present_s * 1000), present_s)


def test_a_quiet_machine_needs_three_windows(clock):
    timing = timed(clock, lambda t: 0.002)
    assert (timing.windows, timing.spread) == (3, pytest.approx(0, abs=1e-9))
    assert 450 <= timing.calls <= 453
    assert timing.budget.time_s == timing.mean_s == timing.median_s == timing.min_s == pytest.approx(0.002)


def test_the_first_second_with_a_neighbour_does_not_count(clock):
    """Three windows are slow alike; what tells is the kernel's account."""
    neighbour = Neighbour(clock, 1.0)
    timing = timed(clock, neighbour.call_s, contention=neighbour.account)
    assert timing.budget.time_s == pytest.approx(0.001)
    assert timing.windows == 7  # three and a part of the fourth are disturbed
    assert timing.mean_s > 0.00115


def test_with_a_neighbour_all_the_time_the_windows_run_out(clock):
    neighbour = Neighbour(clock, 100.0)
    timing = timed(clock, neighbour.call_s, contention=neighbour.account)
    assert (timing.budget.time_s, timing.windows) == (pytest.approx(0.0018), 12)


def test_a_neighbour_now_and_then_does_not_count(clock):
    timing = timed(clock, lambda t: 0.0018 if int(t / 0.4) % 2 == 0 else 0.001)
    assert timing.budget.time_s == pytest.approx(0.001)
    assert timing.spread <= 0.03


def test_windows_that_never_agree_end_it(clock):
    timing = timed(clock, lambda t: 0.001 * 1.2 ** (t / 0.3), most_windows=5)
    assert timing.windows == 5
    assert timing.spread > 0.03
    assert timing.min_s < timing.budget.time_s < timing.mean_s


def test_slow_calls_are_two_a_window_until_there_are_enough(clock):
    timing = timed(clock, lambda t: 0.5, repeats=9)
    assert (timing.calls, timing.windows) == (10, 5)


def test_energy_is_that_of_the_window_and_its_time(clock):
    meter = ScriptedMeter({1: 50.0}, idle_w=40.0, window_s=0.5, clock=clock)
    start_s = clock.now
    neighbour = Neighbour(clock, 1.0)
    timing = timed(clock, neighbour.call_s, contention=neighbour.account, meter=meter, work=WORK)
    assert clock.now - start_s >= 0.5 * timing.windows
    assert timing.budget.energy_j == pytest.approx(40.0 * 0.001)
    constants = EnergyConstants("test", 10.0, 1e-9, 1e-9, 1e-9, 1e-9)
    meter = EstimateMeter(constants, clock)
    neighbour = Neighbour(clock, 1.0)
    estimated = timed(clock, neighbour.call_s, contention=neighbour.account, meter=meter, work=WORK).budget
    assert estimated.energy_j == pytest.approx(estimate_energy_j(WORK, 0.001, constants))
    assert estimated.power_w == pytest.approx(estimated.energy_j / 0.001)
    assert timed(clock, lambda t: 0.001, meter=meter).budget.energy_j is None
