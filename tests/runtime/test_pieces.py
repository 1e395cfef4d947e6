"""Cap sources, the timeline, the scripted meter, and closed-loop runs."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from joulec.profiler.meter import MeterError
from joulec.runtime import Model, ScriptedMeter, drive, read_script
from joulec.runtime.cap import CapError, PowerCap, parse_power
from joulec.runtime.latency import LatencyGuard
from joulec.runtime.telemetry import Recorder, Sample


@pytest.mark.parametrize(
    ("text", "watts"), [("150", 150.0), ("150W\n", 150.0), (" 0.15 kW", 150.0), ("1.5e5mW", 150.0), (".5", 0.5)]
)
def test_power_with_a_unit(text, watts):
    assert parse_power(text) == pytest.approx(watts)


@pytest.mark.parametrize("text", ["", "W", "-5", "1e999", "nan", "150 V", "150 W 3"])
def test_no_power(text):
    with pytest.raises(CapError):
        parse_power(text)


def test_a_cap_trace(tmp_path):
    file = tmp_path / "caps.csv"
    file.write_text("t_s,cap_w\n0,100\n2.5,50\n\n4,100\n")
    cap = PowerCap(file)
    assert [cap.current(t) for t in (0.0, 2.4, 2.5, 3.9, 4.0, 99.0)] == [100.0, 100.0, 50.0, 50.0, 100.0, 100.0]
    for text, message in [("", "holds no line"), ("0,1\n0,2\n", "ascend"), ("0,x\n", "line 1"), ("0,-3\n", "line 1")]:
        file.write_text(text)
        with pytest.raises(CapError, match=message):
            PowerCap(file)
    with pytest.raises(CapError, match="No such file"):
        PowerCap(tmp_path / "none.csv")


def test_a_cap_may_be_any_real_number():
    assert PowerCap(np.float32(150)).watts == 150.0
    cap = PowerCap(lambda: np.float64(75.0))
    assert cap.current(0.0) == 75.0
    cap.set(50)
    assert cap.current(1.0) == 50.0


def test_a_lost_cap_warns_once_for_each_loss():
    values, said = iter([100.0, math.nan, -1.0, 90.0, math.nan]), []
    cap = PowerCap(lambda: next(values), warn=said.append)
    assert [cap.current(t) for t in (1.0, 2.0, 3.0, 4.0)] == [100.0, 100.0, 90.0, 90.0]
    assert len(said) == 2


def sample(t_s: float, batch: int = 1, seconds: float = 0.01, **changes: object) -> Sample:
    fields = {"power_w": 50.0, "peak_w": 50.0, "cap_w": 60.0, "power_source": "simulated"}
    return Sample(t_s, seconds, batch, 1, batch, **{**fields, **changes})


def test_the_timeline_is_bounded_and_keeps_changes():
    recorder = Recorder(limit=100)
    for i in range(20_000):
        recorder.add(sample(i * 0.01, 1 if i < 5000 else 8, power_w=40.0 if i < 5000 else 55.0))
    samples = recorder.samples
    assert 20 < len(samples) <= 100
    assert sum(s.batches for s in samples) == 20_000
    assert sum(s.items for s in samples) == recorder.totals.items == 5000 + 8 * 15_000
    assert {s.batch for s in samples} == {1, 8}
    for s in samples:
        assert s.power_w == pytest.approx(40.0 if s.batch == 1 else 55.0)
        assert s.throughput == pytest.approx(s.batch / 0.01, rel=1e-6)
    assert samples[-1].t_s + samples[-1].seconds == pytest.approx(200.0)
    json.dumps([s.to_json() for s in samples], allow_nan=False)


def test_the_timeline_is_bounded_when_sizes_alternate_without_end():
    recorder = Recorder(limit=100)
    for i in range(5000):
        recorder.add(sample(i * 0.01, 1 + i % 2))
    assert len(recorder.samples) <= 100
    assert sum(s.batches for s in recorder.samples) == 5000


def test_violations_are_counted_as_stretches():
    recorder = Recorder()
    for i, watts in enumerate([50.0, 70.0, 70.0, 50.0, 61.0, None, 60.0]):
        recorder.add(sample(i * 0.01, power_w=watts))
    totals = recorder.totals
    assert totals.violations == 2
    assert totals.above_cap_s == pytest.approx(0.03)
    assert totals.metered_s == pytest.approx(0.06)
    assert totals.energy_j == pytest.approx(0.01 * (50 + 70 + 70 + 50 + 61 + 60))


def test_the_latency_guard_forgets():
    guard = LatencyGuard([1, 2, 4], 0.01)
    for _ in range(3):
        guard.observe(4, 0.02)
    assert guard.largest == 2
    for _ in range(501):
        guard.observe(2, 0.005)
    assert guard.largest == 4
    assert guard.slack_s(2) == pytest.approx(0.005)


def test_a_scripted_meter(clock):
    meter = ScriptedMeter({1: 40.0, 4: 100.0}, idle_w=10.0, clock=clock)
    assert [meter.power_w(n) for n in (0, 1, 2, 4, 9)] == [10.0, 40.0, 60.0, 100.0, 100.0]
    meter.begin()
    clock.sleep(1.0)
    meter.batch(4)
    clock.sleep(2.0)
    reading = meter.end()
    assert (reading.seconds, reading.joules, reading.source) == (3.0, 210.0, "simulated")
    with pytest.raises(MeterError):
        meter.end()


def test_scripts(tmp_path):
    file = tmp_path / "m.toml"
    file.write_text("idle_w = 20\nwindow_s = 0.1\n[watts]\n1 = 40\n8 = 150\n")
    meter = read_script(file)
    assert (meter.watts, meter.idle_w, meter.window_s) == ({1: 40.0, 8: 150.0}, 20.0, 0.1)
    file.write_text('{"1": 40, "8": 150}')
    assert read_script(file).watts == {1: 40.0, 8: 150.0}
    for text in ("watts = 3", "[watts]\na = 1", "[watts]\n1 = -1", "[watts]\n", "{", "x = [", "[watts]\n0 = 3"):
        file.write_text(text)
        with pytest.raises(MeterError, match=r"m\.toml"):
            read_script(file)
    with pytest.raises(MeterError, match="No such file"):
        read_script(tmp_path / "none")


def test_drive_a_model_under_a_scripted_meter(plain, tmp_path):
    script = tmp_path / "m.json"
    script.write_text('{"1": 30, "2": 50, "4": 90, "8": 140}')
    ticks = itertools.count()
    options = {"meter": f"scripted:{script}", "policy": "paper", "clock": lambda: 2e-5 * next(ticks)}
    with Model(*plain.parts) as model:  # time goes by what is done: however busy the machine, there is enough of it
        result = drive(model, duration_s=1.0, power_cap_w=100.0, **options)
    assert (result.batch, result.state) == (4, "settled")
    assert result.power_source == "simulated"
    assert 30.0 <= result.power_w <= 140.0
    assert result.energy_j == pytest.approx(sum(s.power_w * s.seconds for s in result.timeline if s.power_w), rel=1e-3)
    assert result.items >= result.requests > 100
    assert result.throughput == pytest.approx(result.items / result.duration_s)
    assert 0 < result.latency_p50_s <= result.latency_p95_s <= result.latency_p99_s
    assert [change.after for change in result.batch_changes][-1] == 4
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["timeline"][0].keys() >= {"t_s", "batch", "power_w", "cap_w", "throughput", "power_source"}


def test_drive_follows_a_cap_that_halves_and_returns():
    """Ten epochs at each cap; the run ends when the last cap has had its time."""
    watts = {1: 20.0, 2: 45.0, 4: 60.0, 8: 90.0, 16: 130.0}
    state = {"batches": 0, "sizes": []}

    def executor(x):
        state["batches"] += 1
        state["sizes"].append(len(x))
        return x

    def cap() -> float:
        return 50.0 if 200 <= state["batches"] < 400 else 100.0

    class Enough(Exception):
        pass

    def each(session) -> None:
        if state["batches"] >= 600:
            raise Enough

    ticks = itertools.count()

    def clock() -> float:  # time goes by what is done, however busy the machine
        return 2e-5 * next(ticks)

    with pytest.raises(Enough):
        drive(
            executor,
            duration_s=600.0,
            inputs=[np.ones((8, 2))],
            power_cap_w=cap,
            meter=ScriptedMeter(watts, clock=clock),
            clock=clock,
            batch_sizes=sorted(watts),
            each=each,
        )
    full = {phase: state["sizes"][end - 100 : end] for phase, end in (("first", 200), ("half", 400), ("back", 600))}
    most = {phase: max(set(sizes), key=sizes.count) for phase, sizes in full.items()}
    assert most == {"first": 8, "half": 2, "back": 8}


def test_drive_reports_the_first_failure():
    def broken(x):
        raise OSError("device lost")

    with pytest.raises(OSError, match="device lost"):
        drive(broken, duration_s=30.0, inputs=[np.ones((4, 2))], batch_sizes=[1])
    with pytest.raises(ValueError, match="inputs"):
        drive(lambda x: x, duration_s=1.0)
    with pytest.raises(ValueError, match="duration_s"):
        drive(lambda x: x, duration_s=0.0, inputs=[np.ones((4, 2))])
