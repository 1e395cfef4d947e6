"""NVML through the unmodified pynvml and a stand-in for the driver's library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from joulec.profiler.meters.nvml import Trapezoid

SUPPORT = Path(__file__).parent / "support"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the stand-in for NVML is compiled with gcc")


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, "-o", str(library), str(SUPPORT / "nvml_stand_in.c")], check=True)
    return folder


@pytest.fixture
def run_case(library_folder, tmp_path):
    def run(case):
        script = tmp_path / "script"
        script.write_text("")
        environment = {**os.environ, "LD_LIBRARY_PATH": str(library_folder), "NVML_SCRIPT": str(script)}
        command = [sys.executable, str(SUPPORT / "nvml_cases.py"), case]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


def test_the_energy_counter_is_read_in_millijoules(run_case):
    found = run_case("counter")
    assert found["counter"] is True
    assert found["window_s"] == 0.5
    assert found["joules"] == pytest.approx(7.25)
    assert found["source"] == "nvml"
    assert found["peak_w"] is None
    assert found["power_w"] == pytest.approx(7.25 / found["seconds"])


@pytest.mark.parametrize("sensor", ["counter", "sampled"])
def test_nvml_keeps_the_contract_of_all_meters(run_case, sensor):
    """The checks of test_meters.py, in the process that has the stand-in."""
    found = run_case(f"contract_{sensor}")
    assert len(found) >= 8
    assert found == dict.fromkeys(found)


def test_power_is_integrated_by_the_trapezoid_rule():
    ramp = Trapezoid(10.0, 100.0)
    for time_s, power_w in ((10.5, 200.0), (12.5, 200.0), (13.0, 50.0)):
        ramp.add(time_s, power_w)
    assert ramp.joules == pytest.approx(0.5 * 150 + 2 * 200 + 0.5 * 125)
    assert ramp.seconds == pytest.approx(3.0)
    assert ramp.peak_w == 200.0


def test_without_a_counter_power_is_sampled_and_integrated(run_case):
    found = run_case("sampled")
    assert found["counter"] is False
    assert found["window_s"] == 2.0
    assert 200 < found["power_w"] < 300
    assert found["peak_w"] == pytest.approx(300.0)


def test_a_sensor_that_fails_while_sampling_is_reported_at_the_end(run_case):
    assert "fallen off the bus" in run_case("sampling_fails")["error"]


def test_each_error_says_what_to_do(run_case):
    found = run_case("errors")
    remedies = {
        "driver": "modprobe nvidia",
        "mismatch": "reboot",
        "permission": "/dev/nvidia",
        "unknown": "nvidia-smi",
        "no_sensor": "--meter estimate",
        "lost": "reboot",
        "index": "GPU 7",
        "pair": "without begin",
    }
    assert {name: remedy in found[name] for name, remedy in remedies.items()} == dict.fromkeys(remedies, True)


def test_every_session_is_closed(run_case):
    assert run_case("sessions") == {"open": 0}


def test_the_identity_holds_what_decides_the_cost(run_case):
    assert run_case("identity") == {
        "full": "cuda|Stand-in GPU|570.1|sm 1410 MHz memory 1593 MHz|400W|1t|sm_80",
        "bare": "cuda|Stand-in GPU|570.1|||1t|sm_80",
    }


def test_devices_lists_every_gpu(run_case):
    found = run_case("listing")["devices"]
    assert [(device["id"], device["kind"]) for device in found] == [
        ("cpu", "cpu"),
        ("cuda:0", "cuda"),
        ("cuda:1", "cuda"),
    ]
    assert found[1]["name"] == "Stand-in GPU"
    assert found[1]["meters"] == ["nvml", "estimate"]


def test_the_choice_for_a_gpu(run_case):
    found = run_case("chosen")
    assert found["auto"] == ["nvml", "nvml: the cuda target has a readable NVML sensor"]
    assert found["named"] == ["nvml", "nvml: asked for"]
    assert found["fallback"][0] == "estimate"
    assert "cuda constants" in found["fallback"][1]
    assert "modprobe nvidia" in found["fallback"][1]
    assert "modprobe nvidia" in found["refused"]
    (device,) = found["listed"]
    assert (device["id"], device["meters"]) == ("cuda", [])
    assert "modprobe nvidia" in device["note"]
