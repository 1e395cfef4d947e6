"""The meter and the identity of a real GPU: ``make test-gpu``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from joulec.costdb.cost import CostKey
from joulec.costdb.memory import MemoryStore
from joulec.profiler.candidate import Candidate, Work
from joulec.profiler.gpu import gpu_count, local_gpu
from joulec.profiler.harness import Harness
from joulec.profiler.meters import choose_meter
from joulec.profiler.meters.nvml import NvmlMeter
from joulec.profiler.meters.nvml_check import check_sensors
from joulec.profiler.protocol import Adaptive

SUPPORT = Path(__file__).parents[1] / "profiler/support"
sys.path.append(str(SUPPORT))

import meter_contract  # noqa: E402

pytestmark = pytest.mark.gpu

SENSORS = ("counter", "power")


class GpuRig(meter_contract.Rig):
    """The present load of a real card, whatever it is: what it spends nobody scripts."""

    def __init__(self, sensor):
        self.sensor = sensor

    def make(self):
        meter = NvmlMeter(0, sensor=self.sensor)
        self.slowness = 5 * meter.window_s
        return meter

    def spend(self, seconds, joules):
        time.sleep(seconds)


def test_the_gpu_has_an_identity():
    assert gpu_count() >= 1
    found = local_gpu(0)
    assert found.kind == "cuda"
    assert found.isa.startswith("sm_")
    assert "|" in found.fingerprint


def test_a_window_on_the_gpu_has_a_plausible_power():
    limit_w = local_gpu(0).power_limit_w or 1000.0
    meter = NvmlMeter(0)
    try:
        meter.begin()
        time.sleep(2 * meter.window_s)
        reading = meter.end()
    finally:
        meter.close()
    assert reading.source == "nvml"
    assert reading.seconds == pytest.approx(2 * meter.window_s, rel=0.2)
    assert reading.power_w is not None
    assert 1.0 < reading.power_w < 1.2 * limit_w


@pytest.fixture
def make_gpu_candidates():
    def make(protocol):
        text = dict.fromkeys(CostKey.__dataclass_fields__, "")
        keys = [
            CostKey(**{**text, "algorithm": name, "energy_source": "nvml", "protocol": protocol.version})
            for name in ("quick", "slow")
        ]
        return [
            Candidate(key, "fake_workloads:busy", seconds, Work(1.0, 1.0), key.algorithm)
            for key, seconds in zip(keys, (1e-3, 2e-3), strict=True)
        ]

    return make


UNSCRIPTED = (
    meter_contract.says_what_it_is,
    meter_contract.end_needs_begin,
    meter_contract.a_window_ends_once,
    meter_contract.closes_twice_even_inside_a_window,
)
"""The checks of the contract that do not prescribe how much energy flows."""


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize("check", UNSCRIPTED, ids=lambda check: check.__name__)
def test_the_contract_holds(check, sensor):
    check(GpuRig(sensor))


@pytest.mark.parametrize("sensor", SENSORS)
def test_two_meters_side_by_side_agree(sensor):
    first, second = NvmlMeter(0, sensor=sensor), NvmlMeter(0, sensor=sensor)
    try:
        first.begin()
        second.begin()
        time.sleep(4 * first.window_s)
        readings = [first.end(), second.end()]
    finally:
        first.close()
        second.close()
    assert readings[0].joules == pytest.approx(readings[1].joules, rel=0.05)


def test_the_start_up_check_chooses_a_sensor_and_says_why():
    """Run it while the card's load is steady; idle is."""
    choice = check_sensors(0)
    assert choice.sensor in ("counter", "power", "instant")
    assert any(name in choice.why for name in ("energy counter", "power readings", "instant power"))
    meter = choose_meter("nvml", device_kind="cuda")
    assert meter.why.startswith("nvml: asked for; ")
    meter.meter.close()


def test_utilization_and_conditions_are_told():
    meter = NvmlMeter(0)
    try:
        share, state = meter.utilization(), meter.conditions()
    finally:
        meter.close()
    assert share is None or 0 <= share <= 1
    assert state.temperature_c is None or 0 < state.temperature_c < 120
    assert state.clock_mhz is None or state.clock_mhz > 0


def test_the_profiler_measures_energy_by_the_card(make_gpu_candidates):
    """Two workloads that spin on the host: the card's own energy meanwhile, in a worker process, in turns."""
    chosen = choose_meter("nvml", device_kind="cuda")
    chosen.meter.close()
    candidates = make_gpu_candidates(Adaptive())
    with Harness(MemoryStore(), chosen.factory, threads=1, paths=[str(SUPPORT)]) as harness:
        found = harness.measure(candidates)
    limit_w = local_gpu(0).power_limit_w or 1000.0
    for one in found:
        assert one.outcome.energy_source == "nvml"
        assert 1.0 < one.outcome.power_w < 1.2 * limit_w
        assert float(one.provenance["idle_w"]) > 1.0
