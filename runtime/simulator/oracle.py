"""The best that could be reached: every configuration's truth, the cap trace and the load known in advance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from joulec.runtime.policies.protocol import Configuration
from joulec.runtime.simulator.device import Device
from joulec.runtime.simulator.traces import Trace

_GRID_S = 0.25
_QUEUE_BATCHES = 8


def oracle_throughput(
    device: Device,
    cap_w: Trace,
    duration_s: float,
    *,
    arrivals: Trace | None = None,
    configurations: Sequence[Configuration] | None = None,
    latency_slo_s: float | None = None,
) -> float:
    """Rows per second with, at every moment, the fastest configuration whose power over a sensor window fits the cap.

    Its own temperature counts. Where nothing fits, the configuration of least power runs in turn with pauses.

    Args:
        device: the device.
        cap_w: the cap over time.
        duration_s: how long.
        arrivals: rows per second; None where rows always wait.
        configurations: what to choose from; all knobs when None.
        latency_slo_s: the longest that a batch may take.
    """
    chosen = list(configurations or device.space)
    if latency_slo_s is not None:
        chosen = [item for item in chosen if device.batch_s(item) <= latency_slo_s] or chosen[:1]
    rates = np.array([item.batch / device.batch_s(item) for item in chosen])
    order = np.argsort(-rates)
    rates = rates[order]
    windows = np.array([device.window_w(chosen[i]) for i in order])
    means = np.array([device.mean_w(chosen[i]) for i in order])
    frugal = int(np.argmin(windows))
    temperature, idle_w = device.temperature, device.power.idle_w
    kept = float(np.exp(-_GRID_S / temperature.time_constant_s))
    rise_k, rows, queued = 0.0, 0.0, 0.0
    for step in range(round(duration_s / _GRID_S)):
        t_s = step * _GRID_S
        cap = cap_w.at(t_s)
        leakage = 1 + temperature.leakage_per_k * rise_k
        fits = windows * leakage <= cap
        index = int(np.argmax(fits))
        rate, watts = float(rates[index]), float(means[index])
        if not fits[index]:
            share = max(0.0, (cap - idle_w * leakage) / ((means[frugal] - idle_w) * leakage))
            rate, watts = float(rates[frugal]) * min(share, 1.0), min(cap, float(means[frugal]))
        possible = rate * _GRID_S
        if arrivals is not None:
            arrived = queued + arrivals.at(t_s) * _GRID_S
            possible = min(possible, arrived)
            queued = min(arrived - possible, _QUEUE_BATCHES * device.batches[-1])
        rows += possible
        rise_k = rise_k * kept + temperature.kelvin_per_w * watts * leakage * (1 - kept)
    return rows / duration_s


def fixed_throughput(device: Device, cap_w: Trace, duration_s: float, *, arrivals: Trace | None = None) -> float:
    """Rows per second of the best fixed batch size (fast variant, full clock) that keeps to the cap all the time.

    Zero where none does. With ``arrivals``, no more than those bring.
    """
    lowest = min(value for t_s, value in zip(cap_w.times_s, cap_w.values, strict=True) if t_s < duration_s)
    fitting = []
    for item in device.space.at_full_clock():
        watts, temperature = device.mean_w(item), device.temperature
        rise = temperature.kelvin_per_w * watts * (1 - np.exp(-duration_s / temperature.time_constant_s))
        for _ in range(20):  # leakage warms, warmth leaks
            factor = 1 + temperature.leakage_per_k * rise
            rise = temperature.kelvin_per_w * watts * factor * (1 - np.exp(-duration_s / temperature.time_constant_s))
        if device.window_w(item) * (1 + temperature.leakage_per_k * rise) <= lowest:
            fitting.append(item)
    if arrivals is None:
        return max((item.batch / device.batch_s(item) for item in fitting), default=0.0)
    rates = [oracle_throughput(device, cap_w, duration_s, arrivals=arrivals, configurations=[item]) for item in fitting]
    return max(rates, default=0.0)
