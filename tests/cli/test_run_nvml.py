"""``joulec run`` beneath a cap file against a scripted GPU, through the unmodified pynvml, from command to plot.

The model runs on the CPU; what the GPU draws follows the session by way of its Prometheus metrics: a follower reads
which batch size runs and has the scripted GPU draw what such a batch would.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from cli_support import Command

sys.path.append(str(Path(__file__).parents[1] / "support"))

from nvml_device import Device, build_library

pytestmark = pytest.mark.paced

WATTS = {1: 90.0, 2: 110.0, 4: 150.0, 8: 210.0}
IDLE_W = 60.0
HIGH_W, LOW_W = 230.0, 130.0


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def gpu(tmp_path, library):
    device = Device(tmp_path, library, virtual=False)
    device.script("like volta", f"load {IDLE_W}", f"idle {IDLE_W}", "clock_exponent 2.2", "power_noise 0.4")
    return device


class Follower:
    """Has the GPU draw what the session's batch size draws, and keeps what the metrics said."""

    def __init__(self, gpu: Device, port: int) -> None:
        self.gpu, self.port = gpu, port
        self.over = threading.Event()
        self.size = 0
        self.page = ""
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self) -> None:
        while not self.over.wait(0.02):
            try:
                with urllib.request.urlopen(f"http://localhost:{self.port}/metrics", timeout=5) as answer:
                    self.page = answer.read().decode()
            except OSError:  # not yet, or not any more
                continue
            size = int(self.metric("joulec_batch_size"))
            if size != self.size:
                self.size = size
                self.gpu.add(f"load {WATTS[size]}")

    def metric(self, name: str) -> float:
        line = next(line for line in self.page.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return float(line.split()[-1])

    def stop(self) -> None:
        self.over.set()
        self.thread.join()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def drive(here: Command, gpu: Device, artifact: Path, seconds: float, *words: str) -> tuple[dict, Follower, str]:
    """The command for a while; the cap halves after a third of the time and returns after two."""
    port = free_port()
    cap = here.folder / "cap.txt"
    cap.write_text(f"{HIGH_W}W\n")
    command = ["run", artifact, "--power-cap", "20W", "--cap-file", "cap.txt", "--duration", f"{seconds}s"]
    command += ["--meter", "nvml", "--metrics-port", port, "--plot", "run.svg", "--json", *words]
    environment = {**here.environment(), **gpu.environment, "XDG_STATE_HOME": str(here.folder / "state")}
    process = subprocess.Popen(
        [sys.executable, "-m", "joulec", *map(str, command)],
        cwd=here.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    follower = Follower(gpu, port)
    try:
        end_s = time.monotonic() + 60
        while not follower.page:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end_s
            time.sleep(0.02)
        for watts in (LOW_W, HIGH_W):
            time.sleep(seconds / 3)
            fresh = here.folder / "cap.new"
            fresh.write_text(f"{watts}W\n")
            os.replace(fresh, cap)
        out, err = process.communicate(timeout=seconds + 60)
    finally:
        follower.stop()
        process.kill()
    assert process.returncode == 0, err
    return json.loads(out)["session"], follower, err


def spent(timeline: list[dict], cap_w: float, knob: str = "batch", late: float = 0.5) -> dict[float, float]:
    """Seconds by batch size, or by another knob, in the latter part of each stretch under a cap."""
    seconds: dict[float, float] = {}
    stretches: list[list[dict]] = []
    for sample in timeline:
        if not stretches or stretches[-1][-1]["cap_w"] != sample["cap_w"]:
            stretches.append([])
        stretches[-1].append(sample)
    for stretch in stretches:
        if stretch[0]["cap_w"] == cap_w:
            for sample in stretch[int(late * len(stretch)) :]:
                seconds[sample[knob]] = seconds.get(sample[knob], 0.0) + sample["seconds"]
    return seconds


@pytest.fixture
def here(tmp_path):
    return Command(tmp_path, tmp_path / "costs.db")


@pytest.mark.parametrize("policy", ["frontier", "windowed"])
def test_a_cap_that_halves_and_returns(here, gpu, batches, policy):
    asked = [] if policy == "frontier" else ["--policy", policy]  # it is the default, as the artifact has predictions
    session, follower, shown = drive(here, gpu, batches.artifact, 15.0, *asked)
    assert session["policy"] == policy
    assert session["power_source"] == "nvml"
    assert {sample["cap_w"] for sample in session["timeline"]} == {HIGH_W, LOW_W}
    high, low = spent(session["timeline"], HIGH_W), spent(session["timeline"], LOW_W)
    assert max(low, key=low.__getitem__) <= 2  # 110 W; a batch of 4 draws 150 W
    assert max(high) == 8
    assert session["above_cap_s"] < 3.0
    assert session["violations"] <= 12
    assert session["items"] > 1000
    assert session["throughput"] == pytest.approx(session["items"] / session["duration_s"])
    assert "the meter nvml reads the power of GPU 0" in " ".join(session["notices"])
    assert "power in W (nvml)" in (here.folder / "run.svg").read_text()
    assert f"policy {policy}: batch" in shown
    assert "stretches above the cap" in shown
    for name in ("joulec_items_total", "joulec_power_watts", "joulec_power_cap_watts", "joulec_queue_rows"):
        assert follower.metric(name) >= 0
    assert 'joulec_power_watts{source="nvml"}' in follower.page


def test_the_clock_is_chosen_too_and_freed_at_the_end(here, gpu, batches):
    gpu.add("clocks 1410 1200 1000 800 600")
    session, _, _ = drive(here, gpu, batches.artifact, 12.0, "--policy", "dvfs", "--clocks", "nvml")
    assert len(gpu.lines("lock")) >= 3
    clocks = [line for line in gpu.file.read_text().splitlines() if "lock " in line or "unlock" in line]
    assert clocks[-1].endswith("unlock")
    assert {sample["batch"] for sample in session["timeline"]} == {8}  # the nearest to the paper's 16
    low = spent(session["timeline"], LOW_W, "clock_hz")
    assert max(low, key=low.__getitem__) <= 1000e6  # at 1200 MHz it draws 165 W
    assert session["above_cap_s"] < 4.0


def test_without_the_right_to_set_clocks_it_says_so(here, gpu, batches):
    gpu.add("error lock permission")
    session, _, _ = drive(here, gpu, batches.artifact, 3.0, "--policy", "frontier", "--clocks", "nvml")
    assert any("run as root; the clock stays as it is, the other knobs are used" in n for n in session["notices"])
    assert {sample["clock_hz"] for sample in session["timeline"]} == {None}
