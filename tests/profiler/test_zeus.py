"""The Zeus meter against the real package, its device layer faked where it meets the vendor's library."""

from __future__ import annotations

import meter_contract
import pytest

from joulec.profiler.candidate import NO_WORK
from joulec.profiler.meter import MeterError
from joulec.profiler.meters.zeus import ZeusMeter

zeus = pytest.importorskip("zeus.monitor", reason="the extra `zeus` is not installed")
energy = pytest.importorskip("zeus.monitor.energy")


class Gpus:
    """AMD GPUs as Zeus's manager of them shows itself: cumulative millijoules."""

    def __init__(self, count=2):
        self.mj, self.count, self.error = 1000.0, count, None

    def __len__(self):
        return self.count

    def supports_get_total_energy_consumption(self, index):
        return True

    def get_total_energy_consumption(self, index):
        if self.error:
            raise self.error
        return self.mj if index == 1 else 0.0


def apple(mj):
    from zeus.device.soc.apple import AppleSiliconMeasurement

    return AppleSiliconMeasurement(cpu_total_mj=0.5 * mj, gpu_mj=0.4 * mj, dram_mj=0.1 * mj)


def jetson(mj):
    from zeus.device.soc.jetson import JetsonMeasurement

    return JetsonMeasurement(cpu_energy_mj=0.5 * mj, gpu_energy_mj=0.2 * mj, total_energy_mj=mj)


class Soc:
    def __init__(self, kind):
        self.kind, self.mj, self.windows = kind, 0.0, {}

    def begin_window(self, key, restart=False):
        assert restart or key not in self.windows
        self.windows[key] = self.mj

    def end_window(self, key):
        return self.kind(self.mj - self.windows.pop(key))


@pytest.fixture(params=["amd", "apple", "jetson"])
def rig(request, monkeypatch):
    gpus = Gpus(2 if request.param == "amd" else 0)
    soc = None if request.param == "amd" else Soc({"apple": apple, "jetson": jetson}[request.param])

    def get_soc():
        if soc is None:
            raise energy.ZeusSoCInitError("none")
        return soc

    monkeypatch.setattr(energy, "get_gpus", lambda: gpus)
    monkeypatch.setattr(energy, "get_soc", get_soc)

    class ZeusRig(meter_contract.Rig):
        def make(self):
            return ZeusMeter(1 if soc is None else 0, self.clock)

        def spend(self, seconds, joules):
            self.now_s += seconds
            (gpus if soc is None else soc).mj += joules * 1000
            return NO_WORK

    found = ZeusRig()
    found.gpus, found.soc = gpus, soc
    return found


CHECKS = [check for check in meter_contract.CHECKS if check is not meter_contract.two_meters_live_side_by_side]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(rig, check):
    check(rig)


def test_an_error_of_the_vendors_library_is_the_meters(monkeypatch):
    gpus = Gpus()
    monkeypatch.setattr(energy, "get_gpus", lambda: gpus)
    meter = ZeusMeter(1)
    meter.begin()
    gpus.error = RuntimeError("AMDSMI_STATUS_NO_PERM")
    with pytest.raises(MeterError, match="NO_PERM"):
        meter.end()


def test_a_machine_without_any_says_so(monkeypatch):
    monkeypatch.setattr(energy, "get_gpus", lambda: Gpus(0))
    with pytest.raises(MeterError, match="no AMD or NVIDIA GPU"):
        ZeusMeter()
