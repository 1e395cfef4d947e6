"""Energy under the protocols on scripted GPUs, whose true energy the test knows and joulec does not. Virtual time."""

from __future__ import annotations

import pytest
from racing import quiet
from scripted_kernels import ROWS, SENSORS, Kernel, cost_of, decided, tried

from joulec.profiler.candidate import NO_WORK
from joulec.profiler.meters.nvml import NvmlMeter
from joulec.profiler.power import MeanPower, idle_power_w
from joulec.profiler.protocol import Adaptive, Paper
from joulec.profiler.stand import Gauge, LocalStand


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize("seed", range(20))
def test_the_error_is_at_most_three_percent(gpu, seed, sensor):
    """`tests/benchmarks/bench_energy_accuracy.py` does so for hundreds of seeds."""
    found = tried(gpu, seed, sensor)
    assert abs(found.error) <= 0.03, found
    assert found.spent_s <= 9


def test_without_shifts_periodic_work_would_alias(gpu):
    """The reason for them: a call of 50 ms whose first half draws more, seen 25 ms of every 100 ms."""
    gpu.script("like a100")
    kernel = Kernel(gpu, 0.05, 400, 100, 0.5, 60)
    meter = NvmlMeter(0, gpu.time.clock, sensor="power", every=gpu.time.every)
    meter.begin()
    kernel.run(40)
    kernel.rest()
    assert abs(meter.end().power_w / 250 - 1) > 0.2
    cost = cost_of(gpu, Adaptive(), kernel, "power")
    assert cost.energy_j == pytest.approx(kernel.energy_j, rel=0.03)


def test_a_throttled_window_is_measured_again(gpu):
    gpu.script("like a100", "load 60")
    kernel = Kernel(gpu, 1e-3, 200, 200, 0.5, 60)
    gpu.add("throttle 32")
    gpu.add("throttle 0", at_s=gpu.time.now_s + 1.2)
    meter = NvmlMeter(0, gpu.time.clock, every=gpu.time.every)
    stand = LocalStand(kernel, meter, NO_WORK, gpu.time.clock, quiet, kernel.sleep)
    power = MeanPower(Gauge.of(meter), precision=0.02, budget_s=6)
    power.measure(stand, 1e-3)
    assert power.mean_w == pytest.approx(200, rel=0.02)
    assert gpu.time.slept_s == 1.0
    gpu.add("throttle 32")
    power.measure(stand, 1e-3)
    assert power.mean_w == pytest.approx(200, rel=0.02)
    assert gpu.time.slept_s == 4.0


def test_idle_power_is_measured_beside(gpu):
    gpu.script("like a100", "load 72")
    meter = NvmlMeter(0, gpu.time.clock, every=gpu.time.every)
    assert idle_power_w(meter, gpu.time.sleep) == pytest.approx(72, rel=0.02)


@pytest.mark.skipif(not ROWS.exists(), reason="the first paper's measurements are not at hand")
@pytest.mark.parametrize("sensor", ["counter", "power"])
def test_a_tenth_of_the_papers_time_for_the_same_decisions(gpu, sensor):
    """Idle power is measured anew for each layer, which is more than joulec does."""
    paper, adaptive = decided(gpu, Paper(), sensor), decided(gpu, Adaptive(), sensor)
    assert adaptive.layers == paper.layers
    assert len(paper.layers) >= 15
    assert paper.spent_s >= 10 * adaptive.spent_s, (paper.spent_s, adaptive.spent_s)
