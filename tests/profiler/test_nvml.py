"""The NVML meter through the unmodified pynvml and the stand-in for the driver's library, in virtual time."""

from __future__ import annotations

import meter_contract
import pytest

from joulec.profiler.candidate import NO_WORK
from joulec.profiler.device import devices
from joulec.profiler.gpu import local_gpu
from joulec.profiler.meter import MeterError
from joulec.profiler.meters import choose_meter
from joulec.profiler.meters.nvml import NvmlMeter
from joulec.profiler.meters.nvml_check import check_sensors
from joulec.profiler.meters.series import readings, staircase

# The contract


class NvmlRig(meter_contract.Rig):
    slowness = 10
    tolerance = 0.03

    def __init__(self, gpu, sensor):
        self.gpu, self.sensor = gpu, sensor
        gpu.script("like a100", "load 0", "idle 0")

    def make(self):
        return NvmlMeter(0, self.gpu.time.clock, sensor=self.sensor, every=self.gpu.time.every)

    def spend(self, seconds, joules):
        if seconds:
            self.gpu.add(f"load {joules / seconds}")
            self.gpu.time.advance(seconds)
        return NO_WORK


@pytest.mark.parametrize("check", meter_contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("sensor", ["counter", "power", "instant"])
def test_contract(gpu, sensor, check):
    check(NvmlRig(gpu, sensor))


# Windows


def _window(gpu, seconds, sensor=None):
    meter = NvmlMeter(0, gpu.time.clock, sensor=sensor, every=gpu.time.every)
    gpu.add("load 250")
    meter.begin()
    gpu.time.advance(seconds)
    reading = meter.end()
    gpu.add("load 60")
    meter.close()
    return reading


@pytest.mark.parametrize("call_ms", [0, 20])
@pytest.mark.parametrize("card", ["a100", "h100", "ada", "volta"])
def test_the_counter_is_exact_between_its_steps(gpu, card, call_ms):
    gpu.script(f"like {card}", "load 60", f"call_ms {call_ms}")
    gpu.time.advance(0.037)
    reading = _window(gpu, 1.0)
    assert reading.joules == pytest.approx(250, rel=0.03)
    assert reading.spread <= 0.06


def test_readings_that_saw_what_was_before_are_left_out(gpu):
    gpu.script("like ada", "load 60")
    gpu.time.advance(3)
    assert _window(gpu, 2.0, "power").power_w == pytest.approx(250)


def test_a_card_without_a_counter_is_read_by_its_power(gpu):
    gpu.script("like pascal")
    gpu.time.advance(1)
    reading = _window(gpu, 0.3)
    assert (reading.power_w, reading.peak_w) == (pytest.approx(250), pytest.approx(250))


def test_the_staircase_and_the_readings():
    counter = [(0.0, 0.0), (0.01, 0.0), (0.02, 2.0), (0.03, 2.0), (0.04, 6.0), (0.05, 6.0), (0.06, 10.0), (0.07, 10.0)]
    assert staircase(counter, 0.0, 0.07).joules == pytest.approx(8.0 + 200 * 0.015 + 200 * 0.015)
    assert staircase(counter[:3], 0.0, 0.02).joules == 2.0
    power = [(0.1 * n, 100.0 if n < 4 else 200.0) for n in range(10)]
    assert readings(power, 0.0, 1.0, 0.1, 0.25).joules == pytest.approx(200)
    assert readings(power[:2], 0.0, 0.1, 0.1, 0.25).joules == pytest.approx(10)


@pytest.mark.parametrize(
    ("event", "message"),
    [("error all lost", "fallen off the bus"), ("stuck energy", "stood still"), ("energy_back 500", "went backwards")],
)
def test_a_sensor_that_fails_in_a_window_is_reported_at_its_end(gpu, event, message):
    meter = NvmlMeter(0, gpu.time.clock, every=gpu.time.every)
    meter.begin()
    gpu.time.advance(0.1)
    gpu.add(event)
    gpu.time.advance(0.1 if "back" in event else 1.0)
    if event == "stuck energy":
        meter.begin()
        gpu.time.advance(1.0)
    with pytest.raises(MeterError, match=message):
        meter.end()


def test_conditions_tell_heat_clock_and_throttling(gpu):
    meter = NvmlMeter(0, gpu.time.clock, every=gpu.time.every)
    assert (meter.conditions().temperature_c, meter.conditions().clock_mhz) == (45, 1410)
    gpu.script("temperature 91", "clock 900", "throttle 32", "utilization 40 10")
    assert (meter.conditions().clock_mhz, meter.conditions().throttled) == (900, "heat")
    assert meter.utilization() == 0.4
    gpu.script("error throttle unsupported", "error temperature permission")
    assert meter.conditions().temperature_c is None
    assert meter.conditions().throttled == ""


# The check at start-up


def _check(gpu, **options):
    return check_sensors(0, clock=gpu.time.clock, sleep=gpu.time.sleep, every=gpu.time.every, **options)


@pytest.mark.parametrize(
    ("script", "sensor", "why"),
    [
        (["like a100"], "counter", "agree within 5%"),
        (["like h100", "call_ms 20"], "counter", "agree within 5%"),
        (["like ada"], "counter", "agree within 5%"),
        (["like a100", "energy_gain 1.2"], "power", "instant power 200.0 W"),
        (["like ada", "power_gain 0.8"], "counter", "instant power"),
        (["like volta", "energy_gain 0.5"], "power", "no third sensor"),
        (["like a100", "stuck energy"], "power", "stood still"),
        (["like a100", "@1001 energy_back 999"], "power", "went backwards"),
        (["like a100", "stuck power"], "counter", "instant power 200.0 W"),
        (["like a100", "error power unsupported", "error instant unsupported"], "counter", "nothing could be compared"),
    ],
)
def test_the_sensor_that_agrees_is_chosen_and_why_is_said(gpu, script, sensor, why):
    gpu.script(*script, "load 60", "@500 load 200")
    begun_s = gpu.time.now_s
    if "stuck power" in script:
        gpu.script(*script, "load 60", "@500 load 200", "@1 stuck power")
    choice = _check(gpu)
    assert choice.sensor == sensor
    assert why in choice.why
    assert 2.0 <= gpu.time.now_s - begun_s <= 2.3


def test_the_check_waits_for_a_steady_load(gpu):
    gpu.script("like a100", "load 60", "@1000.5 load 300", "@1001.5 load 60")
    begun_s = gpu.time.now_s
    assert _check(gpu).sensor == "counter"
    assert gpu.time.now_s - begun_s >= 4


def test_without_a_counter_there_is_nothing_to_check(gpu):
    gpu.script("like pascal")
    assert _check(gpu).why == "power readings: this GPU has no energy counter"


def test_the_check_may_bring_its_own_load(gpu):
    def load(seconds):
        gpu.add("load 300")
        gpu.time.advance(seconds)
        gpu.add("load 60")

    gpu.time.advance(1)
    assert "300.0 W" in _check(gpu, load=load).why


# Errors, sessions, identity, choice


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("error init driver", "modprobe nvidia"),
        ("error init mismatch", "reboot"),
        ("error init permission", "/dev/nvidia"),
        ("error init unknown", "nvidia-smi"),
        ("error all unsupported", "--meter estimate"),
        ("error energy lost", "reboot"),
    ],
)
def test_each_error_says_what_to_do(gpu, statement, message):
    gpu.script(statement)
    with pytest.raises(MeterError, match=message):
        NvmlMeter(0, gpu.time.clock)


def test_there_is_no_gpu_7(gpu):
    with pytest.raises(MeterError, match="GPU 7"):
        NvmlMeter(7)


def test_every_session_is_closed(gpu, nvml_library):
    before = nvml_library.standInSessions()
    for _ in range(3):
        meter = NvmlMeter(0, gpu.time.clock, every=gpu.time.every)
        meter.begin()
        meter.close()
        meter.close()
        local_gpu()
        _check(gpu)
    gpu.script("error energy lost")
    with pytest.raises(MeterError):
        NvmlMeter()
    assert nvml_library.standInSessions() == before


def test_the_identity_holds_what_decides_the_cost(gpu):
    gpu.script("name Stand-in GPU")
    assert local_gpu().fingerprint == "cuda|Stand-in GPU|570.1|sm 1410 MHz memory 1593 MHz|400W|1t|sm_80"
    gpu.script("name Stand-in GPU", "error limit unsupported", "error clock unsupported")
    assert local_gpu().fingerprint == "cuda|Stand-in GPU|570.1|||1t|sm_80"


def test_devices_lists_every_gpu(gpu):
    gpu.script("count 2", "name Stand-in GPU")
    found = devices()
    assert [(device.id, device.kind) for device in found] == [("cpu", "cpu"), ("cuda:0", "cuda"), ("cuda:1", "cuda")]
    assert (found[1].name, found[1].meters) == ("Stand-in GPU", ("nvml", "estimate"))


def test_the_choice_for_a_gpu(gpu):
    def check(index):
        return _check(gpu)

    auto = choose_meter("auto", device_kind="cuda", check_gpu=check)
    assert auto.meter.name == "nvml"
    assert "readable NVML sensor; energy counter: the energy counter gives" in auto.why
    assert choose_meter("nvml", device_kind="cuda", check_gpu=check).why.startswith("nvml: asked for; energy counter")
    gpu.script("stuck energy")
    assert choose_meter("nvml", device_kind="cuda", check_gpu=check).factory().sensor == "power"
    gpu.script("error init driver")
    fallback = choose_meter("auto", device_kind="cuda", check_gpu=check)
    assert fallback.meter.name == "estimate"
    assert "cuda constants" in fallback.why
    assert "modprobe nvidia" in fallback.why
    with pytest.raises(MeterError, match="modprobe nvidia"):
        choose_meter("nvml", device_kind="cuda", check_gpu=check)
    assert "modprobe nvidia" in devices()[1].note
