"""What is asked of NVML; run in a process whose library path leads to the stand-in: ``python nvml_cases.py CASE``.

Each case prints one JSON object. The unmodified pynvml binds the stand-in through the C ABI.
"""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import json
import os
import sys
import threading
import time
from pathlib import Path

from meter_contract import Rig, run_contract

from joulec.profiler.candidate import NO_WORK
from joulec.profiler.device import devices
from joulec.profiler.gpu import local_gpu
from joulec.profiler.meter import MeterError
from joulec.profiler.meters import choose_meter
from joulec.profiler.meters.nvml import NvmlMeter


def script(**answers):
    """Replace the script in one step: the library may be reading it at this moment."""
    path = Path(os.environ["NVML_SCRIPT"])
    new = path.with_suffix(".new")
    new.write_text("".join(f"{key} {value}\n" for key, value in answers.items()))
    new.replace(path)


def reading(reading):
    return {**dataclasses.asdict(reading), "power_w": reading.power_w}


def counter():
    script(energy=5_000_000_000_000)
    meter = NvmlMeter(0)
    meter.begin()
    script(energy=5_000_000_007_250)
    return {"counter": meter.counter, "window_s": meter.window_s, **reading(meter.end())}


def sampled():
    script(energy_code=3, power=200_000)
    meter = NvmlMeter(0)
    meter.begin()
    time.sleep(0.1)
    script(energy_code=3, power=300_000)
    time.sleep(0.1)
    return {"counter": meter.counter, "window_s": meter.window_s, **reading(meter.end())}


class CounterRig(Rig):
    """The energy counter moves when the rig says so."""

    def __init__(self):
        super().__init__()
        self.mj = 1_000_000
        script(energy=self.mj)

    def make(self):
        return NvmlMeter(0, self.clock)

    def spend(self, seconds, joules):
        self.now_s += seconds
        self.mj += round(joules * 1000)
        script(energy=self.mj)
        return NO_WORK


class SampledRig(Rig):
    """Power is sampled by real threads, in virtual time: time passes once every thread has seen the new power."""

    def __init__(self):
        super().__init__()
        self.meters = []
        self.reads = collections.Counter()

    def clock(self):
        self.reads[threading.get_ident()] += 1
        return self.now_s

    def make(self):
        script(energy_code=3, power=0)
        self.meters.append(NvmlMeter(0, self.clock))
        return self.meters[-1]

    def spend(self, seconds, joules):
        script(energy_code=3, power=round(joules / seconds * 1000) if seconds else 0)
        samplers = [meter._sampler._thread.ident for meter in self.meters if meter._sampler is not None]
        before = self.reads.copy()
        deadline = time.monotonic() + 30
        while any(self.reads[ident] < before[ident] + 2 for ident in samplers):
            assert time.monotonic() < deadline, "a sampling thread stands still"
            time.sleep(0.005)
        self.now_s += seconds
        return NO_WORK


def contract_counter():
    return run_contract(CounterRig)


def contract_sampled():
    return run_contract(SampledRig)


def sampling_fails():
    script(energy_code=3, power=200_000)
    meter = NvmlMeter(0)
    meter.begin()
    script(energy_code=3, power_code=15)
    time.sleep(0.1)
    return error_of(meter.end)


def error_of(action):
    try:
        action()
    except MeterError as error:
        return {"error": str(error)}
    return {"error": None}


def errors():
    found = {}
    for name, answers in {
        "driver": {"init": 9},
        "mismatch": {"init": 18},
        "permission": {"init": 4},
        "unknown": {"init": 999},
        "no_sensor": {"energy_code": 3, "power_code": 3},
        "lost": {"energy_code": 15},
    }.items():
        script(**answers)
        found[name] = error_of(NvmlMeter)["error"]
    script()
    found["index"] = error_of(lambda: NvmlMeter(7))["error"]
    found["pair"] = error_of(NvmlMeter().end)["error"]
    return found


def sessions():
    script()
    library = ctypes.CDLL("libnvidia-ml.so.1")
    for _ in range(3):
        meter = NvmlMeter()
        meter.begin()
        meter.close()
        meter.close()
        local_gpu()
    script(energy_code=15)
    error_of(NvmlMeter)
    return {"open": library.standInSessions()}


def listing():
    script(count=2)
    return {"devices": [dataclasses.asdict(device) for device in devices()]}


def identity():
    script()
    full = local_gpu()
    script(limit_code=3, clock_code=3)
    return {"full": full.fingerprint, "bare": local_gpu().fingerprint}


def chosen():
    script(energy=1000)
    auto = choose_meter("auto", device_kind="cuda")
    named = choose_meter("nvml", device_kind="cuda")
    script(init=9)
    fallback = choose_meter("auto", device_kind="cuda")
    return {
        "auto": [auto.meter.name, auto.why],
        "named": [named.meter.name, named.why],
        "fallback": [fallback.meter.name, fallback.why],
        "refused": error_of(lambda: choose_meter("nvml", device_kind="cuda"))["error"],
        "listed": [dataclasses.asdict(device) for device in devices()][1:],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(globals()[sys.argv[1]]()))
