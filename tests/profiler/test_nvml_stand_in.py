"""The stand-in for NVML's library itself, through the unmodified pynvml: does it do what its header promises?"""

from __future__ import annotations

import subprocess
import sys
import time

import pynvml
import pytest
from nvml_device import Device, build_library


@pytest.fixture
def handle(gpu):
    pynvml.nvmlInit()
    yield pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlShutdown()


def _power_w(handle):
    return pynvml.nvmlDeviceGetPowerUsage(handle) * 1e-3


def _energy_j(handle):
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * 1e-3


def _instant(handle):
    (value,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
    return value.nvmlReturn, value.value.uiVal * 1e-3


def test_without_a_device_file_the_library_is_not_there(nvml_library, monkeypatch):
    monkeypatch.delenv("NVML_STAND_IN", raising=False)
    with pytest.raises(pynvml.NVMLError_LibraryNotFound):
        pynvml.nvmlInit()


def test_a_reading_averages_25_of_every_100_ms(gpu, handle):
    gpu.script("like a100", "load 60")
    gpu.add("load 260", at_s=1000.080)
    gpu.time.advance(0.0999)
    assert _power_w(handle) == 60
    gpu.time.advance(0.0002)
    assert _power_w(handle) == pytest.approx(60 + 200 * 20 / 25)
    gpu.time.advance(0.0997)
    assert _power_w(handle) == pytest.approx(220)
    gpu.time.advance(0.0003)
    assert _power_w(handle) == pytest.approx(260)


def test_a_reading_of_other_cards_averages_a_second(gpu, handle):
    gpu.script("like ada", "load 60")
    gpu.add("load 160")
    gpu.time.advance(0.55)
    assert _power_w(handle) == pytest.approx(110)
    assert _instant(handle) == (0, pytest.approx(160))


def test_the_counter_steps_with_its_own_period_and_counts_a_periodic_load_exactly(gpu, handle):
    gpu.script("energy 50", "load 60")
    gpu.add("load 300 100 0.0008 0.25")
    before_j = _energy_j(handle)
    gpu.time.advance(0.0499)
    assert _energy_j(handle) == before_j
    gpu.time.advance(2.0002)
    assert _energy_j(handle) - before_j == pytest.approx(
        2.05 * 150 + 0.02, abs=2e-3
    )  # half a period more of high than of low


def test_thousands_of_loads_are_added_while_it_runs(gpu, handle):
    gpu.script("energy 0.001", "load 0", "idle 0")
    before_j, sum_j = _energy_j(handle), 0.0
    for number in range(2000):
        gpu.add(f"load {number % 7 * 50}")
        gpu.time.advance(0.01)
        sum_j += number % 7 * 0.5
    assert _energy_j(handle) - before_j == pytest.approx(sum_j, abs=0.01)


def test_errors_and_stuck_readings_begin_and_end_when_the_script_says(gpu, handle):
    gpu.script("@1001 error power permission", "@1002 error power ok", "@1003 error all lost", "@1004 error all ok")
    gpu.add("stuck power", "load 200", at_s=1005)
    gpu.time.advance(1)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        _power_w(handle)
    assert _energy_j(handle) > 0
    gpu.time.advance(1)
    assert _power_w(handle) == 60
    gpu.time.advance(1)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        _energy_j(handle)
    gpu.time.advance(3)
    assert (_power_w(handle), _instant(handle)[1]) == (60, 200)


def test_the_counter_may_go_backwards(gpu, handle):
    before_j = _energy_j(handle)
    gpu.add("energy_back 5")
    assert _energy_j(handle) == pytest.approx(before_j - 5)


def test_a_sensor_that_is_not_there_is_not_supported(gpu, handle):
    gpu.script("like pascal")
    assert _instant(handle)[0] == pynvml.NVML_ERROR_NOT_SUPPORTED
    with pytest.raises(pynvml.NVMLError_NotSupported):
        _energy_j(handle)


def test_a_call_takes_its_time_and_reads_in_its_middle(gpu, handle):
    gpu.script("call_ms 20 power", "power 1 1", "load 60", "@1000.009 load 160", "@1000.012 load 460")
    assert _power_w(handle) == pytest.approx(160)
    assert gpu.time.now_s == pytest.approx(1000.02)
    _energy_j(handle)
    assert gpu.time.now_s == pytest.approx(1000.02)


def test_clocks_are_locked_listed_and_freed(gpu, handle):
    gpu.script("clocks 1410 1200 900 600", "memory_clock 1215", "load 300", "idle 60", "clock_exponent 2", "power 1 1")
    assert pynvml.nvmlDeviceGetSupportedMemoryClocks(handle) == [1215]
    assert pynvml.nvmlDeviceGetSupportedGraphicsClocks(handle, 1215) == [1410, 1200, 900, 600]
    pynvml.nvmlDeviceSetGpuLockedClocks(handle, 600, 1000)
    gpu.time.advance(0.01)
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) == 900
    assert pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM) == 1410
    assert _power_w(handle) == pytest.approx(60 + 240 * (900 / 1410) ** 2, abs=0.01)
    pynvml.nvmlDeviceResetGpuLockedClocks(handle)
    gpu.time.advance(0.01)
    assert _power_w(handle) == pytest.approx(300)
    assert (gpu.lines("lock"), gpu.lines("unlock")) == (["lock 600 1000"], ["unlock"])
    gpu.add("error lock permission")
    for refused in (
        lambda: pynvml.nvmlDeviceSetGpuLockedClocks(handle, 600, 1000),
        lambda: pynvml.nvmlDeviceResetGpuLockedClocks(handle),
    ):
        with pytest.raises(pynvml.NVMLError_NoPermission):
            refused()


def test_the_power_limit_is_read_set_and_kept(gpu, handle):
    gpu.script("power_limit 350 150 400", "load 390", "power 1 1")
    gpu.time.advance(0.01)
    assert _power_w(handle) == 350
    assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle) == [150_000, 400_000]
    pynvml.nvmlDeviceSetPowerManagementLimit(handle, 200_000)
    gpu.time.advance(0.01)
    assert _power_w(handle) == 200
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 200_000
    assert pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) == 350_000
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == pynvml.nvmlClocksEventReasonSwPowerCap
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, 100_000)
    gpu.add("error set_limit permission")
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, 300_000)


def test_gpus_differ_where_the_script_names_one(gpu):
    gpu.script("count 2", "gpu 1 like volta", "gpu 1 load 111", "gpu 1 temperature 80", "utilization 30 10")
    pynvml.nvmlInit()
    try:
        first, second = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(2))
        gpu.time.advance(1)
        assert [_power_w(first), _power_w(second)] == [60, 111]
        assert [pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU) for h in (first, second)] == [45, 80]
        assert pynvml.nvmlDeviceGetArchitecture(second) == pynvml.NVML_DEVICE_ARCH_VOLTA
        assert pynvml.nvmlDeviceGetUtilizationRates(first).gpu == 30
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceGetHandleByIndex(2)
    finally:
        pynvml.nvmlShutdown()


def test_in_real_time_another_process_follows_the_same_file(tmp_path):
    device = Device(tmp_path, build_library(tmp_path), virtual=False)
    start_s = time.monotonic()
    device.script("energy 1", "load 100")
    program = (
        "import pynvml, time; pynvml.nvmlInit(); h = pynvml.nvmlDeviceGetHandleByIndex(0);"
        "e = pynvml.nvmlDeviceGetTotalEnergyConsumption;"
        "a, s = e(h), time.monotonic(); time.sleep(0.3); b, t = e(h), time.monotonic(); print((b - a) / 1000 / (t - s))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=device.environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=30,
    )
    assert float(found.stdout) == pytest.approx(100, rel=0.05)
    assert time.monotonic() - start_s < 20
