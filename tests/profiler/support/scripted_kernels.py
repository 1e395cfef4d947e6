"""Kernels on scripted GPUs whose true energy is known here and not to joulec, and what protocols make of them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from racing import by_both, measure, quiet, race

from joulec.profiler.candidate import NO_WORK
from joulec.profiler.meters.nvml import NvmlMeter
from joulec.profiler.power import idle_power_w
from joulec.profiler.protocol import Adaptive, Paper

ROWS = Path(__file__).parents[4] / "shared/data/mlsys20_costs.txt"
SENSORS = ("power", "instant", "counter")


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


def cost_of(gpu, protocol, kernel, sensor):
    """The kernel's cost by a protocol and a sensor."""
    meter = NvmlMeter(0, gpu.time.clock, sensor=sensor, every=gpu.time.every)
    try:
        return measure(protocol, kernel, meter, NO_WORK, gpu.time.clock, contention=quiet, sleep=kernel.sleep)
    finally:
        kernel.rest()
        meter.close()


def drawn(seed):
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


@dataclass(frozen=True)
class Tried:
    """A drawn kernel measured: relative error of its energy, seconds of a call, seconds of measuring."""

    error: float
    call_s: float
    spent_s: float


def tried(gpu, seed, sensor):
    """Measure the kernel of a seed adaptively."""
    script, form = drawn(seed)
    gpu.script(*script)
    gpu.time.advance(random.Random(seed).random())
    kernel = Kernel(gpu, *form)
    begun_s = gpu.time.now_s
    cost = cost_of(gpu, Adaptive(), kernel, sensor)
    assert abs(cost.time_s / kernel.call_s - 1) < 1e-6
    return Tried(cost.energy_j / kernel.energy_j - 1, kernel.call_s, gpu.time.now_s - begun_s)


def squeezenet():
    """Algorithms of each convolution of the paper's SqueezeNet: {layer: {algorithm: (seconds, watts)}}."""
    graph = json.loads((ROWS.parent / "graph_squeezenet.json").read_text())
    layers = {}
    for node in graph["nodes"]:
        if node["op"] == "conv":
            costs = {name: (c["time_ms"] * 1e-3, c["power_w"]) for name, c in node["cost"].items()}
            layers[node["db_key_prefix"]] = costs
    return layers


@dataclass(frozen=True)
class Decided:
    """Seconds of measuring, and by layer the algorithms that take the least time and the least energy."""

    spent_s: float
    layers: dict[str, tuple[str, str]]


def decided(gpu, protocol, sensor):
    """Measure all layers: one candidate after another by `Paper`, each layer's in turns by `Adaptive`."""
    gpu.script("like a100", "load 50", "idle 50", "call_ms 1")
    begun_s = gpu.time.now_s
    layers = {}
    for layer, algorithms in squeezenet().items():
        kernels = {name: Kernel(gpu, seconds, watts, watts, 0.5, 50) for name, (seconds, watts) in algorithms.items()}
        costs = (
            _in_turns(gpu, protocol, kernels, sensor)
            if isinstance(protocol, Adaptive)
            else {name: cost_of(gpu, protocol, kernel, sensor) for name, kernel in kernels.items()}
        )
        joules = {name: cost.energy_j for name, cost in costs.items() if cost.energy_j is not None}
        layers[layer] = (min(costs, key=lambda name: costs[name].time_s), min(joules, key=joules.get))
    return Decided(gpu.time.now_s - begun_s, layers)


def _in_turns(gpu, protocol, kernels, sensor):
    meter = NvmlMeter(0, gpu.time.clock, sensor=sensor, every=gpu.time.every)
    some = next(iter(kernels.values()))
    some.rest()
    try:
        entrants = race(
            protocol, list(kernels.values()), meter, NO_WORK, gpu.time.clock,
            contention=quiet, sleep=some.sleep, judge=by_both, idle_w=idle_power_w(meter, gpu.time.sleep),
        )  # fmt: skip
    finally:
        some.rest()
        meter.close()
    return {name: entrant.cost() for name, entrant in zip(kernels, entrants, strict=True)}


PROTOCOLS = (Paper(), Adaptive())
