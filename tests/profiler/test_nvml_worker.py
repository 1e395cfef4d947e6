"""The worker beside a scripted GPU, in real time: what befalls the sensor while candidates are measured."""

from __future__ import annotations

import os
import time
from functools import partial

import pytest
from nvml_device import Device, build_library

from joulec.profiler.meter import MeterError
from joulec.profiler.meters.nvml import NvmlMeter


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def measured(tmp_path, library, make_harness, make_candidate, store):
    """Measures a candidate in a worker whose GPU is scripted; returns its outcome and provenance."""
    device = Device(tmp_path, library, virtual=False)

    def measure(*script, sensor="counter", at_s=None):
        device.script("like a100", "load 120")
        if at_s is None:
            device.script("like a100", "load 120", *script)
        else:
            device.add(*script, at_s=time.monotonic() + at_s)
        paths = [str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")]
        environment = {**device.environment, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}
        harness = make_harness(partial(NvmlMeter, 0, sensor=sensor), environment=environment)
        (measurement,) = harness.measure([make_candidate("busy", 1e-4, source="nvml")])
        return measurement

    measure.store = store
    return measure


@pytest.mark.parametrize("sensor", ["counter", "power"])
@pytest.mark.parametrize("call_ms", [0, 20])
def test_energy_comes_from_the_gpu(measured, sensor, call_ms):
    found = measured(f"call_ms {call_ms} power", f"call_ms {call_ms} energy", sensor=sensor)
    assert found.outcome.energy_source == "nvml"
    assert found.outcome.power_w == pytest.approx(120, rel=0.03)
    assert float(found.provenance["idle_w"]) == pytest.approx(120, rel=0.03)
    assert found.provenance["device_celsius"] == "45"


MISFORTUNES = {
    "the GPU falls off the bus": ("error all lost", "fallen off the bus: reboot the machine"),
    "the counter stands still": ("stuck energy", "stood still"),
    "the counter goes backwards": ("energy_back 5000", "went backwards .* measure again"),
    "no permission any more": ("error energy permission", "check the permissions"),
}


@pytest.mark.parametrize(("misfortune", "message"), MISFORTUNES.values(), ids=MISFORTUNES.keys())
def test_what_befalls_the_sensor_ends_the_run_and_is_nobodys_failure(measured, misfortune, message):
    """In the middle of idle power or of a window; the script's moment lies some time after the worker's start."""

    def until_it_happens():
        for _ in range(8):
            measured(misfortune, at_s=0.6)

    with pytest.raises(MeterError, match=message):
        until_it_happens()
    assert measured.store.info().failures == 0
