"""The contract over the meters that need no library; RAPL, the estimate and the choice in detail."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace

import meter_contract
import pytest

from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import MeterError
from joulec.profiler.meters import (
    EnergyConstants,
    EstimateMeter,
    RaplMeter,
    choose_meter,
    estimate_energy_j,
    load_constants,
)
from joulec.profiler.meters.recorded import RecordingMeter, ReplayMeter, start_recording

JOULE_A_FLOP = EnergyConstants("test", 0.0, 1.0, 0.0, 0.0, 0.0)


class Powercap:
    """A fake /sys/class/powercap."""

    def __init__(self, root):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def add(self, folder, name, energy_uj=0, range_uj=262_143_328_850):
        path = self.root / folder
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.set(folder, energy_uj)
        return self

    def set(self, folder, energy_uj):
        (self.root / folder / "energy_uj").write_text(f"{energy_uj}\n")


class EstimateRig(meter_contract.Rig):
    def make(self):
        return EstimateMeter(JOULE_A_FLOP, self.clock)

    def spend(self, seconds, joules):
        self.now_s += seconds
        return Work(joules, 0.0)


class RaplRig(meter_contract.Rig):
    """Two sockets with memory; each of the four counters takes a quarter, one of them comes round on the way."""

    folders = ("intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:1:0")

    def __init__(self, root):
        super().__init__()
        self.range_uj = 262_143_328_850
        self.counters = dict.fromkeys(self.folders, 1000) | {"intel-rapl:1": self.range_uj - 100}
        self.powercap = Powercap(root)
        self.powercap.add("intel-rapl", "control")
        for folder, name in zip(self.folders, ("package-0", "dram", "package-1", "dram"), strict=True):
            self.powercap.add(folder, name, self.counters[folder], self.range_uj)

    def make(self):
        return RaplMeter(self.powercap.root, self.clock)

    def spend(self, seconds, joules):
        self.now_s += seconds
        for folder in self.folders:
            self.counters[folder] = (self.counters[folder] + round(joules / 4 * 1e6)) % (self.range_uj + 1)
            self.powercap.set(folder, self.counters[folder])
        return NO_WORK


@pytest.mark.parametrize("check", meter_contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("meter", ["estimate", "rapl"])
def test_contract(meter, check, tmp_path):
    check(EstimateRig() if meter == "estimate" else RaplRig(tmp_path / "powercap"))


# RAPL


def test_parts_of_packages_and_what_contains_them_are_left_out(tmp_path):
    powercap = Powercap(tmp_path)
    powercap.add("intel-rapl:0", "package-0").add("intel-rapl:0:0", "core").add("intel-rapl:0:1", "uncore")
    powercap.add("intel-rapl:0:2", "dram").add("intel-rapl:1", "psys").add("intel-rapl-mmio:0", "package-0")
    assert [domain.label for domain in RaplMeter(tmp_path).domains] == ["package-0", "package-0/dram"]


def test_ten_packages_are_all_found(tmp_path):
    powercap = Powercap(tmp_path)
    for number in range(11):
        powercap.add(f"intel-rapl:{number}", f"package-{number // 2}-die-{number % 2}")
    powercap.add("intel-rapl:10:0", "dram")
    assert len(RaplMeter(tmp_path).domains) == 12


def test_wrap_around_counts_the_range_itself(tmp_path):
    clock = iter((0.0, 0.5)).__next__
    powercap = Powercap(tmp_path).add("intel-rapl:0", "package-0", 999_999_900, 1_000_000_000 - 1)
    meter = RaplMeter(tmp_path, clock)
    meter.begin()
    powercap.set("intel-rapl:0", 50)
    assert meter.end().joules == pytest.approx(150e-6)


def test_a_window_that_could_hide_a_round_is_refused(tmp_path):
    clock = iter((0.0, 300.0, 300.0, 301.0)).__next__
    Powercap(tmp_path).add("intel-rapl:0", "package-0")
    meter = RaplMeter(tmp_path, clock)
    assert meter.longest_window_s == pytest.approx(262.14, abs=0.01)
    meter.begin()
    with pytest.raises(MeterError, match="shorter windows"):
        meter.end()
    meter.begin()
    assert meter.end().joules == 0.0


def test_no_permission_names_the_remedies(tmp_path, monkeypatch):
    Powercap(tmp_path).add("intel-rapl:0", "package-0")
    read_text = type(tmp_path).read_text

    def refuse(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(type(tmp_path), "read_text", refuse)
    with pytest.raises(MeterError, match=r"chmod o\+r .*intel-rapl:\*/energy_uj.*udev rule") as caught:
        RaplMeter(tmp_path)
    assert str(tmp_path / "intel-rapl:*/energy_uj") in str(caught.value)


@pytest.mark.parametrize("content", ["", "junk", "-5"])
def test_a_counter_that_is_no_number_is_reported(tmp_path, content):
    Powercap(tmp_path).add("intel-rapl:0", "package-0", content)
    with pytest.raises(MeterError, match="energy_uj holds"):
        RaplMeter(tmp_path)


def test_no_rapl_says_so(tmp_path):
    with pytest.raises(MeterError, match="does not exist"):
        RaplMeter(tmp_path / "none")
    with pytest.raises(MeterError, match="no package domain"):
        RaplMeter(tmp_path)


def test_a_counter_that_goes_away_is_reported(tmp_path):
    Powercap(tmp_path).add("intel-rapl:0", "package-0")
    meter = RaplMeter(tmp_path)
    meter.begin()
    shutil.rmtree(tmp_path / "intel-rapl:0")
    with pytest.raises(MeterError, match="cannot be read"):
        meter.end()


# The estimate


def test_the_estimate_is_a_sum_over_time_operations_and_bytes():
    constants = EnergyConstants("test", 10.0, 2.0, 3.0, 5.0, 7.0)
    assert estimate_energy_j(Work(1.0, 10.0, 100.0, 1000.0), 4.0, constants) == 40 + 2 + 30 + 500 + 7000


def test_the_meter_agrees_with_the_function():
    constants = EnergyConstants("test", 10.0, 2e-9, 3e-9, 5e-9, 7e-9)
    work = Work(1e6, 2e6, 3e6, 4e6)
    meter = EstimateMeter(constants, iter((1.0, 1.5)).__next__)
    meter.begin()
    reading = meter.end(work)
    assert reading.joules == pytest.approx(estimate_energy_j(work, 0.5, constants))


def test_a_window_of_unknown_work_has_no_energy():
    meter = EstimateMeter(JOULE_A_FLOP)
    meter.begin()
    assert meter.end().joules is None


CLASSES = ["x86-64-avx512", "x86-64-avx2", "x86-64", "aarch64", "cuda", "generic"]


@pytest.mark.parametrize("name", CLASSES)
def test_shipped_constants_are_of_a_plausible_order(name):
    constants = load_constants(name, threads=2)
    assert constants.target_class == name
    assert 1 <= constants.static_w <= 200
    assert 1e-13 <= constants.flop_j <= 1e-10
    assert constants.register_byte_j < constants.cache_byte_j < constants.dram_byte_j <= 1e-9


def test_wider_vectors_spend_less_per_operation():
    first, second, third = (load_constants(name).flop_j for name in CLASSES[:3])
    assert first < second < third


def test_each_thread_adds_to_the_static_power():
    one, two, four = (load_constants("x86-64-avx2", threads).static_w for threads in (1, 2, 4))
    assert two - one == pytest.approx((four - two) / 2)
    assert two > one


def test_an_unknown_class_gets_the_generic_constants():
    assert load_constants("riscv64") == load_constants("generic")


def test_a_file_overrides_what_it_names(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[x86-64-avx2]\nflop_j = 1e-12\n[mine]\nstatic_w = 50\nthread_w = 1\n")
    changed, shipped = load_constants("x86-64-avx2", 1, file), load_constants("x86-64-avx2", 1)
    assert changed.flop_j == 1e-12
    assert (changed.static_w, changed.dram_byte_j) == (shipped.static_w, shipped.dram_byte_j)
    mine = load_constants("mine", 2, file)
    assert (mine.target_class, mine.static_w) == ("mine", 52.0)
    assert mine.flop_j == load_constants("generic").flop_j


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x86-64\n", "cannot read"),
        ("flop_j = 1\n", "outside a table"),
        ("[cuda]\nflops_j = 1\n", "unknown key `flops_j`"),
        ("[cuda]\nflop_j = 'x'\n", "no finite number"),
        ("[cuda]\nflop_j = -1\n", "no finite number"),
        ("[cuda]\nflop_j = nan\n", "no finite number"),
        ("[cuda]\nflop_j = true\n", "no finite number"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(MeterError, match=message):
        load_constants("cuda", 1, file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(MeterError, match="cannot read the energy constants"):
        load_constants("cuda", 1, tmp_path / "none.toml")


# The choice


@pytest.fixture
def powercap(tmp_path):
    return Powercap(tmp_path / "powercap").add("intel-rapl:0", "package-0").root


def test_a_cpu_with_rapl_gets_rapl(powercap):
    chosen = choose_meter(rapl_root=powercap)
    assert (chosen.meter.name, chosen.why) == ("rapl", "rapl: the cpu target has a readable RAPL sensor")
    assert choose_meter("rapl", rapl_root=powercap).why == "rapl: asked for"


def test_a_cpu_without_rapl_gets_the_estimate_and_hears_why(tmp_path):
    chosen = choose_meter(rapl_root=tmp_path / "none", threads=1)
    assert chosen.meter.name == "estimate"
    assert "does not exist" in chosen.why
    assert choose_meter("estimate", rapl_root=tmp_path / "none").why.endswith("asked for")


def test_a_meter_named_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(MeterError, match="does not exist"):
        choose_meter("rapl", rapl_root=tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("nvml", "cpu", "rapl or estimate"), ("rapl", "cuda", "nvml or estimate"), ("wattmeter", "cpu", "no meter")],
)
def test_a_meter_that_cannot_see_the_target_is_an_error(powercap, name, kind, message):
    with pytest.raises(MeterError, match=message):
        choose_meter(name, device_kind=kind, rapl_root=powercap)


def test_the_estimate_of_a_gpu_has_gpu_constants_and_the_files(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[cuda]\nstatic_w = 33\n")
    chosen = choose_meter("estimate", device_kind="cuda", constants_file=file)
    assert (chosen.meter.constants.target_class, chosen.meter.constants.static_w) == ("cuda", 33)


@pytest.mark.parametrize("name", ["rapl", "estimate"])
def test_the_factory_opens_the_same_meter_in_another_process(powercap, name):
    chosen = choose_meter(name, rapl_root=powercap)
    copy = pickle.loads(pickle.dumps(chosen.factory))()
    assert (copy.name, copy.source) == (chosen.meter.name, chosen.meter.source)
    copy.begin()
    assert copy.end(Work(1.0, 0.0)).joules >= 0


# Recording and replaying


class ReplayRig(meter_contract.Rig):
    """Windows recorded from the estimate, replayed for the same work."""

    def __init__(self, folder):
        super().__init__()
        self.file = folder / "windows.jsonl"
        recorded, inner = EstimateRig(), None
        inner = recorded.make()
        start_recording(self.file, inner)
        recording = RecordingMeter(inner, self.file)
        for joules in (5.0, 8.0, 2.0):
            recording.begin()
            recording.end(replace(recorded.spend(0.2, joules), dram_bytes=joules * joules))
        recording.begin()
        recording.end()

    def make(self):
        return ReplayMeter(self.file, self.clock)

    def spend(self, seconds, joules):
        self.now_s += seconds
        return Work(joules, joules * joules)


REPLAYED = [check for check in meter_contract.CHECKS if check is not meter_contract.says_what_it_is]


@pytest.mark.parametrize("check", REPLAYED, ids=lambda check: check.__name__)
def test_a_replay_keeps_the_contract(check, tmp_path):
    check(ReplayRig(tmp_path))


@pytest.mark.parametrize("check", meter_contract.CHECKS, ids=lambda check: check.__name__)
def test_a_recording_meter_keeps_the_contract(check, tmp_path):
    class Recorded(RaplRig):
        def make(self):
            meter = super().make()
            start_recording(tmp_path / "windows", meter)
            return RecordingMeter(meter, tmp_path / "windows")

    check(Recorded(tmp_path / "powercap"))


def test_what_is_recorded_is_replayed_by_name(tmp_path, powercap):
    file = tmp_path / "windows.jsonl"
    recording = choose_meter(f"record:{file}", rapl_root=powercap)
    assert (recording.meter.name, recording.meter.source) == ("rapl", "rapl")
    assert recording.why.endswith(f"recorded in {file}")
    for meter, work in ((recording.meter, Work(1.0, 2.0)), (pickle.loads(pickle.dumps(recording.factory))(), NO_WORK)):
        meter.begin()
        meter.end(work)
    replay = choose_meter(f"replay:{file}")
    assert (replay.meter.source, replay.meter.recorded) == ("replay", "rapl")
    replay.meter.begin()
    assert replay.meter.end(Work(10.0, 20.0)).joules == 0.0
    replay.meter.begin()
    with pytest.raises(MeterError, match="no window of such work"):
        replay.meter.end(Work(1.0, 0.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no recording"),
        ("{", "cannot read"),
        ("[]\n", "no recording"),
        ('{"joulec_meter": "rapl", "window_s": 1}\n', "holds no windows"),
        ('{"joulec_meter": "rapl", "window_s": 1}\n{"seconds": 1}\n', "no recording"),
    ],
)
def test_a_broken_recording_is_refused(tmp_path, text, message):
    file = tmp_path / "windows"
    file.write_text(text)
    with pytest.raises(MeterError, match=message):
        choose_meter(f"replay:{file}")


def test_a_recording_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(MeterError, match="cannot record to"):
        choose_meter(f"record:{tmp_path}/none/windows", rapl_root=tmp_path)
    with pytest.raises(MeterError, match="needs a file"):
        choose_meter("replay")
