"""Sweeps in virtual time."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest

from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import Occupied
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter
from joulec.profiler.meters.nvml import NvmlMeter
from joulec.runtime.scripted import ScriptedMeter
from joulec.runtime.sweep import CpuUtilization, sweep_size


class Device:
    def __init__(self):
        self.now_s = 5.0

    def call(self):
        self.now_s += 0.01

    def clock(self):
        return self.now_s


def test_a_size_is_run_in_slots_and_every_call_counts():
    device, shares = Device(), iter([None, 0.5, 1.0, *[0.75] * 50])
    meter = ScriptedMeter({1: 40.0, 8: 120.0}, clock=device.clock)
    result = sweep_size(
        device.call, 8, meter, duration_s=1.0, work=NO_WORK, utilization=lambda: next(shares), clock=device.clock
    )
    assert result.throughput == pytest.approx(800)
    assert (result.mean_power_w, result.max_power_w) == (pytest.approx(120), pytest.approx(120))
    assert result.energy_per_item_j == pytest.approx(0.15)
    assert result.latency_s == pytest.approx(0.01)
    assert [slot.utilization for slot in result.slots[:3]] == [0.5, 1.0, 0.75]
    starts_s = [slot.t_s for slot in result.slots]
    assert starts_s[0] == 0
    assert all(0.099 <= after - before <= 0.111 for before, after in pairwise(starts_s))
    assert result.calls == pytest.approx(100, abs=11)


def test_an_estimate_rests_on_the_work_of_all_calls():
    device = Device()
    meter = EstimateMeter(EnergyConstants("test", 10.0, 1e-9, 0.0, 0.0, 0.0), device.clock)
    result = sweep_size(
        device.call, 2, meter, duration_s=0.3, work=Work(1e9, 0.0), utilization=lambda: None, clock=device.clock
    )
    assert result.mean_power_w == pytest.approx(10 + 1 / 0.01)
    assert result.utilization is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux's account")
def test_utilisation_is_of_the_cpus_that_may_be_used(tmp_path):
    number = min(os.sched_getaffinity(0))
    stat = tmp_path / "stat"

    def write(user, idle):
        stat.write_text(
            f"cpu 1 1 1 1 1 1 1 1 0 0\ncpu{number} {user} 0 0 {idle} 0 0 0 0 0 0\ncpu9999 5 0 0 0 0 0 0 0\n"
        )

    write(100, 100)
    used = CpuUtilization(stat)
    write(130, 110)
    assert used() == pytest.approx(0.75)
    assert used() is None
    stat.unlink()
    assert used() is None


def test_a_sweep_asks_the_gpu_how_much_of_it_is_in_use(gpu):
    """Power and utilisation over time, as they change while a batch size runs (the second paper's Figure 2)."""
    gpu.script("like volta", "load 100", "utilization 30 10")
    gpu.add("load 250", "utilization 90 40", at_s=gpu.time.now_s + 1.0)
    meter = NvmlMeter(0, gpu.time.clock, sensor="power", every=gpu.time.every)
    assert isinstance(meter, Occupied)
    result = sweep_size(
        lambda: gpu.time.advance(0.01), 4, meter,
        duration_s=2.0, work=NO_WORK, utilization=meter.utilization, clock=gpu.time.clock,
    )  # fmt: skip
    early = [slot for slot in result.slots if slot.t_s < 0.85]
    late = [slot for slot in result.slots if slot.t_s > 1.05]
    assert {slot.utilization for slot in early} == {0.3}
    assert {slot.utilization for slot in late} == {0.9}
    assert [slot.power_w for slot in early] == pytest.approx([100] * len(early))
    assert [slot.power_w for slot in late] == pytest.approx([250] * len(late))
    assert result.max_power_w == pytest.approx(250)
    assert 0.3 < result.utilization < 0.9
    meter.close()
