"""Devices, caps and loads drawn from a seed: no two alike, none known to a policy beforehand."""

from __future__ import annotations

import math
import random

from joulec.runtime.simulator.device import (
    Curve,
    Device,
    Noise,
    Power,
    Sensor,
    Spikes,
    Temperature,
    Time,
    Variant,
)
from joulec.runtime.simulator.jobs import Job
from joulec.runtime.simulator.traces import Trace

CAP_SHAPES = ("steady", "steps", "ramp", "square")


def draw_device(seed: int) -> Device:
    """A device."""
    chance = random.Random(seed)
    idle_w = chance.uniform(10, 60)
    full_w = idle_w + chance.uniform(60, 300)
    top_hz = chance.uniform(1.0e9, 2.0e9)
    levels = chance.choice((1, 4, 8, 10, 12))
    batches = tuple(2**power for power in range(chance.choice((5, 6, 7, 8, 9))))
    half = math.exp(chance.uniform(math.log(0.5), math.log(12)))
    period_s = chance.choice((0.05, 0.1, 0.2))
    load = Curve(half_batch=half * chance.uniform(0.4, 1.5))
    if chance.random() < 0.25:  # power that does not grow with every doubling
        shares = [load.at(batch) * chance.uniform(0.9, 1.0) for batch in batches]
        load = Curve(points=tuple(zip(map(float, batches), shares, strict=True)))
    variants = [Variant()]
    for _ in range(chance.choice((0, 1, 2))):
        slower = chance.uniform(1.02, 1.2)
        variants.append(Variant(variants[-1].time * slower, variants[-1].power * chance.uniform(0.78, 0.95)))
    return Device(
        name=f"device {seed}",
        time=Time(
            work_s=math.exp(chance.uniform(math.log(2e-4), math.log(4e-3))),
            overhead_s=chance.uniform(0.0005, 0.006),
            preparation_s=chance.uniform(0.0, 3e-4),
            clock_share=chance.uniform(0.6, 1.0),
            efficiency=Curve(half_batch=half),
        ),
        power=Power(idle_w, full_w, full_w * chance.uniform(0.95, 1.2), idle_w * 1.2, chance.uniform(1.5, 2.8), load),
        batches=batches,
        clocks_hz=tuple(top_hz * (0.35 + 0.65 * (i + 1) / levels) for i in range(levels)),
        variants=tuple(variants),
        temperature=Temperature(chance.uniform(0.1, 0.3), chance.uniform(20, 120), chance.uniform(0.0, 0.001)),
        noise=Noise(chance.uniform(0.002, 0.02), chance.uniform(0.001, 0.006), chance.uniform(0.002, 0.012)),
        spikes=Spikes(chance.uniform(0.05, 0.3), chance.uniform(0.0, 0.15)),
        sensor=Sensor(period_s, period_s * chance.choice((1, 1, 2)), chance.choice((1.0, 1.0, 0.5))),
    )


def draw_job(seed: int, duration_s: float = 600.0) -> Job:
    """A device under a cap: steady, steps, a ramp or a square wave; in one of five under a load with bursts."""
    device = draw_device(seed)
    chance = random.Random(seed * 7919 + 1)
    windows_w = [device.window_w(item) * 1.02 for item in device.space]
    low_w, high_w = min(windows_w), max(device.window_w(item) for item in device.space.at_full_clock())
    low_w = low_w + 0.08 * (high_w - low_w)

    def level() -> float:
        return chance.uniform(low_w, high_w * 1.05)

    shape = CAP_SHAPES[seed % 4]
    if shape == "steady":
        cap = Trace.constant(level())
    elif shape == "steps":
        times = sorted(chance.uniform(20, duration_s - 20) for _ in range(chance.randint(3, 8)))
        cap = Trace([0.0, *times], [level() for _ in range(len(times) + 1)])
    elif shape == "ramp":
        ends = [level() for _ in range(4)]
        steps = round(duration_s / 2)
        values = [
            ends[int(3 * i / steps)] + (ends[int(3 * i / steps) + 1] - ends[int(3 * i / steps)]) * (3 * i / steps % 1)
            for i in range(steps)
        ]
        cap = Trace([2.0 * i for i in range(steps)], values)
    else:
        half_s, pair = chance.uniform(15, 60), (level(), level())
        count = math.ceil(duration_s / half_s)
        cap = Trace([i * half_s for i in range(count)], [pair[i % 2] for i in range(count)])
    arrivals = None
    if chance.random() < 0.2:
        fastest = max(item.batch / device.batch_s(item) for item in device.space)
        times = [20.0 * i for i in range(math.ceil(duration_s / 20))]
        arrivals = Trace(times, [fastest * (1.5 if chance.random() < 0.4 else chance.uniform(0.1, 0.5)) for _ in times])
    return Job(
        f"{seed} {shape}{'' if arrivals is None else ' bursts'}",
        device,
        cap,
        arrivals,
        shape == "steady" and arrivals is None,
    )
