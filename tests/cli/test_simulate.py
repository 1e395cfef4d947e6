"""``joulec simulate`` and ``joulec reproduce batchsizer``."""

from __future__ import annotations

import json

import pytest

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
"""
RESULT = [
    "job", "policy", "throughput", "oracle_throughput", "seconds_above_cap", "seconds", "mean_batch", "batch_changes",
]  # fmt: skip
POLICIES = ["paper", "windowed", "frontier", "dvfs"]


@pytest.fixture
def files(joulec):
    """A device, a cap that halves and returns, and a load with a pause, in the command's folder."""
    (joulec.folder / "small.toml").write_text(DEVICE)
    (joulec.folder / "cap.csv").write_text("t_s,cap_w\n0,120\n20,60\n40,120\n")
    (joulec.folder / "load.csv").write_text("t_s,rows_per_s\n0,200\n10,0\n20,400\n")
    return joulec


def test_a_policy_on_a_device_as_json_and_plot(files):
    options = (
        "--device",
        "small.toml",
        "--cap-trace",
        "cap.csv",
        "--request-trace",
        "load.csv",
        "--policy",
        "windowed",
    )
    report = files.json("simulate", *options, "--seed", "3", "--duration", "60s", "--plot", "line.svg")
    assert list(report) == ["results", "timelines"]
    (result,) = report["results"]
    assert list(result) == RESULT
    assert (result["job"], result["policy"]) == ("small", "windowed")
    assert 0 < result["throughput"] <= 1.02 * result["oracle_throughput"]
    line = report["timelines"]["windowed"]
    assert list(line[0]) == [
        "t_s", "seconds", "batch", "variant", "clock_hz", "rows", "reading_w", "true_w", "cap_w",
    ]  # fmt: skip
    assert {step["cap_w"] for step in line} == {120, 60}
    assert sum(step["seconds"] for step in line) == pytest.approx(result["seconds"])
    assert sum(step["rows"] for step in line) == pytest.approx(result["throughput"] * result["seconds"])
    assert (files.folder / "line.svg").read_text().lstrip().startswith("<?xml")
    again = files.json("simulate", *options, "--seed", "3", "--duration", "60s")
    assert again == report


def test_all_policies_and_a_table_of_the_timeline(files):
    done = files("simulate", "--device", "small.toml", "--power-cap", "90W", "--duration", "20s")
    assert done.returncode == 0, done.stderr
    assert all(f"{name} over time" in done.stdout for name in POLICIES)
    assert "of oracle" in done.stdout


def test_the_paper_s_jobs_under_both_names(joulec):
    report = joulec.json("simulate", "--jobs", "paper", "--policy", "dvfs", "--seed", "2")
    assert list(report) == ["results"]
    assert len(report["results"]) == 20
    assert all(list(result) == RESULT for result in report["results"])
    assert {result["policy"] for result in report["results"]} == {"dvfs"}
    assert all(result["seconds"] == pytest.approx(600, abs=5) for result in report["results"])
    assert report["results"][18]["job"] == "19 Res101 Caltech"
    assert joulec.json("reproduce", "batchsizer", "--policy", "dvfs", "--seed", "2") == report


def test_generated_jobs_have_one_oracle_for_all_policies(joulec):
    report = joulec.json("simulate", "--jobs", "generated:2", "--seed", "5")
    assert [result["policy"] for result in report["results"]] == 2 * POLICIES
    for start in (0, 4):
        assert len({result["oracle_throughput"] for result in report["results"][start : start + 4]}) == 1


WRONG_DEVICES = {
    "no TOML": (DEVICE.replace("[power]", "[power"), "no TOML"),
    "a missing field": (DEVICE.replace("max_w = 150", ""), "power lacks max_w"),
    "a missing table": (DEVICE.partition("[power]")[0], "it lacks 'power'"),
    "a negative number": (DEVICE.replace("overhead_s = 0.004", "overhead_s = -1"), "time.overhead_s must be a number"),
    "an unknown field": (DEVICE.replace("idle_w", "idle"), "power has no field 'idle'"),
    "text for a number": (DEVICE.replace("full_w = 120", 'full_w = "much"'), "power.full_w must be a number"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_DEVICES.values(), ids=WRONG_DEVICES)
def test_a_wrong_device_is_refused_in_one_line(joulec, text, message):
    (joulec.folder / "bad.toml").write_text(text)
    refused(joulec("simulate", "--device", "bad.toml", "--power-cap", "90W"), "bad.toml", message)


WRONG_TRACES = {
    "nothing": ("", "holds no line t_s,cap_w"),
    "words": ("0,much\n", "line 1: expected t_s,cap_w"),
    "negative": ("0,90\n5,-1\n", "line 2: cap_w must lie between 0 and 1e+09"),
    "absurd": ("0,1e300\n", "line 1: cap_w must lie between"),
    "not a number": ("0,nan\n", "line 1: cap_w must lie between"),
    "before the start": ("-1,90\n", "line 1: times must be seconds from 0 up"),
    "backwards": ("5,90\n1,80\n", "line 2: times must ascend"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_TRACES.values(), ids=WRONG_TRACES)
def test_a_wrong_trace_is_refused_in_one_line(files, text, message):
    (files.folder / "bad.csv").write_text(text)
    refused(files("simulate", "--device", "small.toml", "--cap-trace", "bad.csv"), "bad.csv", message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--power-cap", "90W", "--policy", "best"),
            "unknown policy 'best'; there are paper, windowed, frontier, dvfs",
        ),
        (("--power-cap", "-3W"), "must be greater than zero"),
        (("--cap-trace", "none.csv"), "cannot read the trace none.csv"),
        (("--cap-trace", "cap.csv", "--request-trace", "cap.csv", "--power-cap", "9W"), "either --cap-trace"),
        ((), "either --cap-trace FILE or --power-cap POWER"),
        (("--power-cap", "90W", "--duration", "1e9s"), "at most 86400 s"),
        (("--power-cap", "90W", "--plot", "none/x.svg"), "there is no folder"),
        (("--power-cap", "90W", "--plot", "x.abc"), "ends in .png"),
        (("--jobs", "paper"), "either --device FILE or --jobs paper"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(files, options, message):
    refused(files("simulate", "--device", "small.toml", *options), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--jobs", "many"), "paper or generated:N, not 'many'"),
        (("--jobs", "paper", "--power-cap", "90W"), "--power-cap goes with --device"),
        (("--jobs", "paper", "--duration", "5s"), "--duration goes with --device"),
    ],
)
def test_jobs_bring_their_own(joulec, options, message):
    refused(joulec("simulate", *options), message)


def test_an_unknown_policy_of_the_paper_s_jobs(joulec):
    refused(joulec("reproduce", "batchsizer", "--policy", "best"), "unknown policy 'best'")


def refused(done, *messages):
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for message in messages:
        assert message in done.stderr


def test_json_is_all_that_standard_output_holds(files):
    done = files("simulate", "--device", "small.toml", "--power-cap", "90W", "--duration", "5s", "--json")
    assert set(json.loads(done.stdout)) == {"results", "timelines"}
