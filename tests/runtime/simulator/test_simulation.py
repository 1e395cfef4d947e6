"""Simulated devices: their files, their physics, and what policies reach on them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from joulec.runtime.policies import Configuration, PolicyOptions, Prediction, Predictions, make_policy
from joulec.runtime.runner import ESTIMATE_ERROR
from joulec.runtime.simulator.device import (
    DeviceError,
    Fault,
    Noise,
    Power,
    Sensor,
    Spikes,
    Temperature,
    Time,
    Variant,
    read_device,
)
from joulec.runtime.simulator.generator import draw_job
from joulec.runtime.simulator.history import PowerHistory
from joulec.runtime.simulator.jobs import PAPER_BATCHES, p40, paper_jobs, prior
from joulec.runtime.simulator.oracle import oracle_throughput
from joulec.runtime.simulator.simulation import Simulation
from joulec.runtime.simulator.suite import run_job, run_jobs
from joulec.runtime.simulator.traces import Trace, TraceError, read_trace

DEVICE = """
batches = [1, 4, 16]
clocks_mhz = [500, 1000]
[time]
work_s = 0.001
overhead_s = 0.004
efficiency = {half_batch = 2}
[power]
idle_w = 20
full_w = 120
max_w = 150
load = {points = [[1, 0.2], [16, 1.0]]}
[sensor]
period_s = 0.1
window_s = 0.1
"""


def test_a_device_file(tmp_path):
    file = tmp_path / "small.toml"
    file.write_text(DEVICE)
    device = read_device(file)
    assert (device.name, len(device.space)) == ("small", 6)
    full = Configuration(4, 0, 1e9)
    assert device.batch_s(full) == pytest.approx(0.004 + 0.001 * 6)
    assert device.phases(full)[2] == pytest.approx((0.006, 20 + 100 * 0.6))
    assert device.mean_w(full) == pytest.approx((0.004 * 20 + 0.006 * 80) / 0.01)
    half = Configuration(4, 0, 0.5e9)
    assert device.batch_s(half) == pytest.approx(0.004 + 0.006 * (0.9 * 2 + 0.1))
    assert device.phases(half)[2][1] == pytest.approx(20 + 60 * 0.25)


WRONG = {
    "unknown": ("batches = [1, 4, 16]", "speed = 3\nbatches = [1]", "speed"),
    "field": ("overhead_s = 0.004", "overhead = 0.004", "time has no field 'overhead'"),
    "missing": ("idle_w = 20", "", "power lacks idle_w"),
    "negative": ("idle_w = 20", "idle_w = -1", "power.idle_w must be a number"),
    "batches": ("batches = [1, 4, 16]", "batches = [0]", "whole numbers"),
    "curve": ("{half_batch = 2}", "{half = 2}", "time.efficiency"),
    "sensor": ("period_s = 0.1", "period_s = 0", "period"),
    "toml": ("[power]", "[power", "no TOML"),
}


@pytest.mark.parametrize(("before", "after", "message"), WRONG.values(), ids=WRONG)
def test_wrong_device_files_are_refused_with_the_place(tmp_path, before, after, message):
    file = tmp_path / "bad.toml"
    file.write_text(DEVICE.replace(before, after, 1))
    with pytest.raises(DeviceError, match=message):
        read_device(file)


def test_every_field_of_a_device_is_documented():
    page = Path(__file__).parents[3] / "docs" / "policies.md"
    text = page.read_text(encoding="utf-8")
    parts = (Time, Power, Variant, Temperature, Noise, Spikes, Sensor, Fault)
    names = {field.name for part in parts for field in dataclasses.fields(part)}
    assert {name for name in names if not re.search(rf"[.`]{name}`", text)} == set()


def test_a_pause_follows_each_batch_where_nothing_fits():
    device = dataclasses.replace(p40("IncV1", "Caltech"), batches=(4,))
    cap_w = 0.85 * device.window_w(Configuration(4, 0, device.clocks_hz[-1]))
    outcome = Simulation(device, Trace.constant(cap_w), seed=2).run(make_policy("windowed", device.space), 60.0)
    assert outcome.seconds_above_cap < 3.0
    assert outcome.rows > 0


def test_windowed_does_not_leave_what_it_settled_on():
    for number in (1, 8, 15):  # at the cap once the device is warm
        (result,) = run_job(paper_jobs()[number], ["windowed"], seed=number)
        assert result.outcome.last_change_s < 60
        assert result.outcome.seconds_above_cap <= 0.005 * result.outcome.seconds


def test_traces(tmp_path):
    file = tmp_path / "cap.csv"
    file.write_text("t_s,cap_w\n0,100\n5,50\n")
    trace = read_trace(file, "cap_w")
    assert [trace.at(t_s) for t_s in (0, 4.9, 5, 9)] == [100, 100, 50, 50]
    assert trace.next_change_s(1) == 5
    for text in ("", "0,x\n", "5,1\n4,1\n", "0,-1\n", "0\n"):
        file.write_text(text)
        with pytest.raises(TraceError, match=r"cap\.csv"):
            read_trace(file, "cap_w")


def test_energy_is_the_integral_of_power():
    history = PowerHistory(10.0)
    history.add(0.5, 3, [(0.2, 20.0), (0.1, 100.0), (0.2, 50.0)])
    history.add(1.0, 1, [(1.0, 30.0)])
    assert history.energy_j(-1.0) == -10.0
    assert history.energy_j(0.5) == pytest.approx(0.2 * 20 + 0.1 * 100 + 0.2 * 50)
    assert history.energy_j(2.5) == pytest.approx(3 * 24 + 30)
    moments = np.linspace(-1, 2.5, 200)
    assert history.energies_j(moments) == pytest.approx([history.energy_j(float(t_s)) for t_s in moments])


def test_the_highest_window_is_that_of_the_device():
    device = p40("IncV3", "ImageNet")
    for batch in PAPER_BATCHES:
        configuration = Configuration(batch, 0, device.clocks_hz[-1])
        assert device.mean_w(configuration) <= device.window_w(configuration) * (1 + 1e-9)
    small = Configuration(1, 0, device.clocks_hz[0])
    assert device.window_w(small) < device.power.max_w


def test_the_prior_is_off_by_no_more_than_it_says():
    device = p40("MobV1", "Caltech")
    for item, entry in prior(device, 5).entries.items():
        assert 0.8 <= entry.time_s / device.batch_s(item) <= 1.2
        assert 0.8 <= entry.power_w / device.window_w(item) <= 1.2


def test_the_same_seed_gives_the_same_run():
    job = draw_job(17)

    def throughput(seed):
        return run_job(job, ["frontier"], seed=seed, duration_s=30.0)[0].to_json()

    assert throughput(1) == throughput(1)
    assert throughput(1) != throughput(2)


def test_no_policy_beats_the_oracle_by_more_than_noise():
    job = paper_jobs()[7]
    steady = oracle_throughput(job.device, job.cap_w, 600.0)
    alone = oracle_throughput(job.device, job.cap_w, 600.0, configurations=job.device.space.at_full_clock())
    assert alone <= steady
    (result,) = run_job(job, ["frontier"], duration_s=60.0)
    assert result.outcome.throughput <= 1.02 * result.oracle_throughput


@pytest.mark.parametrize("number", [4, 10, 19])
def test_paper_jobs(number):
    windowed, frontier, dvfs = run_job(paper_jobs()[number], ["windowed", "frontier", "dvfs"], seed=number)
    assert frontier.outcome.throughput >= 0.95 * frontier.oracle_throughput
    assert frontier.outcome.seconds_above_cap <= 0.005 * frontier.outcome.seconds
    assert windowed.outcome.throughput >= 0.95 * windowed.fixed_throughput
    assert frontier.outcome.throughput > dvfs.outcome.throughput


def test_frontier_bears_an_estimate_that_knows_no_overhead():
    """By the estimate all batch sizes compute as many rows per second, at the power of the largest."""
    job = paper_jobs()[16]
    full = {item: dataclasses.replace(item, batch=PAPER_BATCHES[-1]) for item in job.device.space}
    estimate = {
        item: Prediction(job.device.batch_s(most) * item.batch / most.batch, job.device.window_w(most))
        for item, most in full.items()
    }
    options = PolicyOptions(predictions=Predictions(estimate, ESTIMATE_ERROR))
    policy = make_policy("frontier", job.device.space, options)
    outcome = Simulation(job.device, job.cap_w, seed=3).run(policy, 120.0)
    assert outcome.throughput >= 0.93 * oracle_throughput(job.device, job.cap_w, 120.0)


@pytest.mark.parametrize("seed", [400_001, 400_003])
def test_generated_devices_under_caps_that_change(seed):
    (result,) = run_job(draw_job(seed), ["frontier"], seed=seed)
    assert result.outcome.throughput >= 0.9 * result.oracle_throughput


KINDS = ("error", "nan", "stuck", "delayed", "kernel")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["paper", "windowed", "frontier", "dvfs"])
def test_faults_are_said_once_and_end(kind, name):
    device = dataclasses.replace(p40("IncV1", "Caltech"), faults=(Fault(kind, 60.0, 90.0, batch=2),))
    policy = make_policy(name, device.space, PolicyOptions(predictions=prior(device, 1)))
    outcome = Simulation(device, Trace.constant(150.0), seed=2).run(policy, 200.0)
    assert 1 <= len(outcome.warnings) <= (6 if kind == "kernel" else 1)
    during = [step for step in outcome.timeline if 70.0 < step.t_s < 85.0]
    assert any(step.configuration == device.space.safest for step in during) or kind == "kernel"
    before = [step.rows / step.seconds for step in outcome.timeline if 40.0 < step.t_s < 60.0]
    after = [step.rows / step.seconds for step in outcome.timeline if 170.0 < step.t_s < 200.0]
    assert np.mean(after) > 0.9 * np.mean(before)


@pytest.mark.parametrize("cap_w", [0.0, 30.0])
def test_a_cap_that_cannot_be_kept_leads_to_the_safest_and_ends(cap_w):
    device = p40("IncV1", "Caltech")
    policy = make_policy("frontier", device.space, PolicyOptions(predictions=prior(device, 1)))
    outcome = Simulation(device, Trace((0.0, 30.0, 60.0), (150.0, cap_w, 150.0)), seed=2).run(policy, 90.0)
    during = [step for step in outcome.timeline if 31.0 < step.t_s < 60.0]
    assert max(step.configuration.batch for step in during) <= 4
    assert outcome.timeline[-1].rows > 0
    assert len(outcome.warnings) == (cap_w == 0.0)


def test_a_load_with_pauses_is_served():
    device = p40("MobV1", "Caltech")
    arrivals = Trace((0.0, 10.0, 20.0), (200.0, 0.0, 400.0))
    policy = make_policy("windowed", device.space)
    outcome = Simulation(device, Trace.constant(250.0), arrivals, seed=1).run(policy, 30.0)
    assert outcome.rows == pytest.approx(200 * 10 + 400 * 10, rel=0.05)


def test_the_oracle_serves_a_burst_while_it_arrives():
    device = p40("MobV1", "Caltech")
    burst = Trace((0.0, 10.0), (900.0, 0.0))
    served = oracle_throughput(
        dataclasses.replace(device, batches=(1, 16)), Trace.constant(250.0), 20.0, arrivals=burst
    )
    assert served == pytest.approx(900.0 * 10 / 20, rel=0.02)


def test_jobs_in_processes_give_the_same():
    jobs = paper_jobs()[:2]
    short = [dataclasses.replace(job, device=job.device) for job in jobs]
    alone = [result.to_json() for result in run_jobs(short, ["dvfs"], seed=3)]
    assert alone == [result.to_json() for result in run_jobs(short, ["dvfs"], seed=3, processes=2)]
