"""Energy under the protocols on scripted GPUs, whose true energy the test knows and joulec does not. Virtual time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from racing import measure, quiet

from joulec.profiler.candidate import NO_WORK
from joulec.profiler.meters.nvml import NvmlMeter
from joulec.profiler.power import MeanPower, idle_power_w
from joulec.profiler.protocol import Adaptive, Paper
from joulec.profiler.stand import Gauge, LocalStand

ROWS = Path(__file__).parents[3] / "shared/data/mlsys20_costs.txt"


class Kernel:
    """Draws ``high`` watts for ``duty`` of each call and ``low`` for the rest of it; idle watts between runs."""

    def __init__(self, gpu, call_s, high_w, low_w, duty, idle_w):
        self.gpu, self.call_s, self.idle_w = gpu, call_s, idle_w
        self.high_w, self.low_w, self.duty = high_w, low_w, duty
        self.energy_j = call_s * (duty * high_w + (1 - duty) * low_w)

        self.until_s = None

    def run(self, calls):
        now_s = self.gpu.time.now_s
        if self.until_s != now_s:
            self.gpu.add(f"load {self.high_w} {self.low_w} {self.call_s!r} {self.duty}")
        self.gpu.time.advance(calls * self.call_s)
        self.until_s = self.gpu.time.now_s

    def rest(self):
        """The GPU is idle from now on."""
        self.gpu.add(f"load {self.idle_w}")
        self.until_s = None

    def sleep(self, seconds):
        self.rest()
        self.gpu.time.sleep(seconds)

    def overhead_s(self):
        return 0.0


def _measure(gpu, protocol, kernel, sensor):
    meter = NvmlMeter(0, gpu.time.clock, sensor=sensor, every=gpu.time.every)
    try:
        return measure(protocol, kernel, meter, NO_WORK, gpu.time.clock, contention=quiet, sleep=kernel.sleep)
    finally:
        kernel.rest()
        meter.close()


def _drawn(seed):
    """A device file and a kernel, from a generator: when the sensor steps, how slow a call is, how the kernel draws."""
    rng = random.Random(seed)
    idle_w = rng.uniform(40, 90)
    call_s = 5e-6 * (1e4 ** rng.random())
    if seed % 3 == 0:
        call_s = rng.choice([0.05, 0.025, 0.02, 0.0125, 0.01, 0.005])  # those divide the sensor's period
    script = [
        f"like {rng.choice(['a100', 'h100'])}",
        f"idle {idle_w}",
        f"load {idle_w}",
        f"power 100 25 {rng.uniform(0, 100)}",
        f"instant 100 25 {rng.uniform(0, 100)}",
        f"energy {rng.choice([10, 20, 50, 100])} {rng.uniform(0, 10)}",
        f"call_ms {rng.choice([0, 0.5, 5, 20])}",
        f"power_noise {rng.uniform(0, 2)}",
    ]
    low_w = rng.uniform(80, 200)
    return script, (call_s, low_w + rng.uniform(0, 200), low_w, rng.uniform(0.2, 0.8), idle_w)


@pytest.mark.parametrize("sensor", ["power", "instant", "counter"])
@pytest.mark.parametrize("seed", range(20))
def test_the_error_is_at_most_three_percent(gpu, seed, sensor):
    script, form = _drawn(seed)
    gpu.script(*script)
    gpu.time.advance(random.Random(seed).random())
    kernel = Kernel(gpu, *form)
    begun_s = gpu.time.now_s
    cost = _measure(gpu, Adaptive(), kernel, sensor)
    assert cost.time_s == pytest.approx(kernel.call_s)
    assert cost.energy_j == pytest.approx(kernel.energy_j, rel=0.03), (form, gpu.time.now_s - begun_s)
    assert gpu.time.now_s - begun_s <= 9


def test_without_shifts_periodic_work_would_alias(gpu):
    """The reason for them: a call of 50 ms whose first half draws more, seen 25 ms of every 100 ms."""
    gpu.script("like a100")
    kernel = Kernel(gpu, 0.05, 400, 100, 0.5, 60)
    meter = NvmlMeter(0, gpu.time.clock, sensor="power", every=gpu.time.every)
    meter.begin()
    kernel.run(40)
    kernel.rest()
    assert abs(meter.end().power_w / 250 - 1) > 0.2
    cost = _measure(gpu, Adaptive(), kernel, "power")
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


def _squeezenet():
    """Algorithms of each convolution of the paper's SqueezeNet: {layer: {algorithm: (seconds, watts)}}."""
    import json

    graph = json.loads((ROWS.parent / "graph_squeezenet.json").read_text())
    layers = {}
    for node in graph["nodes"]:
        if node["op"] == "conv":
            costs = {name: (c["time_ms"] * 1e-3, c["power_w"]) for name, c in node["cost"].items()}
            layers[node["db_key_prefix"]] = costs
    return layers


@pytest.mark.skipif(not ROWS.exists(), reason="the first paper's measurements are not at hand")
@pytest.mark.parametrize("sensor", ["counter", "power"])
def test_a_tenth_of_the_papers_time_for_the_same_decisions(gpu, sensor):
    spent_s, decisions = {}, {}
    for protocol in (Paper(), Adaptive()):
        gpu.script("like a100", "load 50", "idle 50", "call_ms 1")
        begun_s = gpu.time.now_s
        found = {}
        for layer, algorithms in _squeezenet().items():
            for name, (seconds, watts) in algorithms.items():
                cost = _measure(gpu, protocol, Kernel(gpu, seconds, watts, watts, 0.5, 50), sensor)
                found[layer, name] = cost
            times, joules = (
                {name: getattr(found[layer, name], field) for name in algorithms} for field in ("time_s", "energy_j")
            )
            decisions.setdefault(layer, []).append((min(times, key=times.get), min(joules, key=joules.get)))
        spent_s[type(protocol).__name__] = gpu.time.now_s - begun_s
    assert all(first == second for first, second in decisions.values()), decisions
    assert len(decisions) >= 15
    assert spent_s["Paper"] >= 10 * spent_s["Adaptive"], spent_s
