"""The demonstration that ``make demo`` runs: compile SqueezeNet for energy, then run it beneath a power cap.

Every joulec command is printed before it is run, as a user would type it. All files go to ``demo/``; the cost database
stays there, so that a second demonstration measures next to nothing.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
from draw_timeline import draw
from light_models import prepare

FOLDER = Path("demo")
MODEL = FOLDER / "squeezenet.onnx"
ARTIFACT = FOLDER / "squeezenet.joulec"
CAPS = FOLDER / "caps.csv"
WATTS = FOLDER / "watts.toml"
TIMELINE = FOLDER / "timeline.json"
PAGE = FOLDER / "squeezenet.html"
PICTURE = FOLDER / "timeline.svg"

DURATION_S = 12
HALVED_FROM_S, HALVED_UNTIL_S = 4, 8
HEADROOM = 1.1
"""The full cap over what the model draws without one."""
SCRIPT = """\
# Watts by batch size for a machine without a power sensor: made up, and marked `simulated` wherever they appear.
idle_w = 30
window_s = 0.05
[watts]
1 = 55
2 = 75
4 = 105
8 = 155
"""
SCRIPTED_CAP_W = 170.0


def joulec(*arguments: str, into: Path | None = None, quiet: bool = False) -> str:
    """Print a joulec command and run it.

    Args:
        arguments: what follows ``joulec``.
        into: file for its standard output.
        quiet: its messages are not shown.

    Returns:
        Its standard output.

    Raises:
        SystemExit: it failed; its own message says why.
    """
    redirection = f" > {into}" if into else ""
    print(f"\n$ joulec {shlex.join(arguments)}{redirection}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "joulec", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr or ''}the command ended with exit code {done.returncode}")
    if into:
        into.write_text(done.stdout)
    return done.stdout


def choose_power() -> tuple[str, float]:
    """Where power is read from (the value of ``--meter``), and the full cap in watts."""
    devices: list[dict[str, Any]] = json.loads(joulec("devices", "--json"))["devices"]
    cpu = next(device for device in devices if device["kind"] == "cpu")
    sensors = [meter for meter in cpu["meters"] if meter != "estimate"]
    if sensors:
        print(f"The processor has a power sensor ({sensors[0]}). What does the model draw without a cap?")
        uncapped = joulec("run", str(ARTIFACT), "--duration", "4s", "--meter", sensors[0], "--json", quiet=True)
        power_w = float(json.loads(uncapped)["session"]["power_w"])
        print(f"{power_w:.1f} W")
        return sensors[0], HEADROOM * power_w
    WATTS.write_text(SCRIPT)
    print("*" * 100)
    print("This machine has no power sensor that can be read. THE WATTS BELOW ARE SIMULATED: a script gives a")
    print(f"power for each batch size ({WATTS}). Batch sizes, latency and throughput are real.")
    print("*" * 100)
    return f"scripted:{WATTS}", SCRIPTED_CAP_W


def main() -> None:
    """Run the demonstration."""
    begun_s = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    model = prepare("squeezenet")
    onnx.save(model, MODEL)
    print(f"{MODEL}: SqueezeNet, {len(model.graph.node)} nodes, seeded random weights")
    # fmt: off
    joulec(
        "compile", str(MODEL), "-o", str(ARTIFACT), "--objective", "energy", "--batch-sizes", "1,2,4,8",
        "--search-time", "20s", "--costs", str(FOLDER / "costs.db"), "--report", str(PAGE),
    )
    meter, cap_w = choose_power()
    CAPS.write_text(f"t_s,cap_w\n0,{cap_w:.1f}\n{HALVED_FROM_S},{cap_w / 2:.1f}\n{HALVED_UNTIL_S},{cap_w:.1f}\n")
    print(f"\n{CAPS}: the cap halves after {HALVED_FROM_S} s and returns after {HALVED_UNTIL_S} s")
    joulec(
        "run", str(ARTIFACT), "--duration", f"{DURATION_S}s", "--cap-file", str(CAPS), "--meter", meter,
        "--policy", "paper", "--json", into=TIMELINE,
    )
    # fmt: on
    PICTURE.write_text(draw(json.loads(TIMELINE.read_text())["session"]))
    print(f"\nThe timeline is in {TIMELINE}, its picture in {PICTURE}. {time.monotonic() - begun_s:.0f} s in all.")


if __name__ == "__main__":
    main()
