"""Draws what ``joulec run --json`` reports of a session as SVG: power and cap, batch size, throughput.

python examples/draw_timeline.py demo/timeline.json timeline.svg
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, RIGHT, TOP = 860, 70, 20, 40
PANEL, GAP = 110, 34
SLOT_S = 0.1
"""Throughput is shown as the mean over slots of this length."""

Points = Sequence[tuple[float, float]]


def draw(session: Mapping[str, Any]) -> str:
    """The picture of a session.

    Args:
        session: the object ``session`` of the report.

    Raises:
        ValueError: its timeline is empty.
    """
    samples = [sample for sample in session["timeline"] if sample["seconds"] > 0]
    if not samples:
        raise ValueError("the timeline holds no sample: was the run long enough for one batch?")
    end_s = samples[-1]["t_s"] + samples[-1]["seconds"]
    source = session["power_source"] or "unknown"
    panels = [
        (f"power in W ({source})", [("#2b6cb0", _steps(samples, "power_w")), ("#c53030", _steps(samples, "cap_w"))]),
        ("batch size", [("#2f855a", _steps(samples, "batch"))]),
        ("items per second", [("#6b46c1", _throughput(samples, end_s))]),
    ]
    height = TOP + len(panels) * (PANEL + GAP) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{session["items"]} items in {session["duration_s"]:.1f} s; '
        f"the cap is red, power ({escape(source)}) blue</text>",
    ]
    for index, (title, lines) in enumerate(panels):
        parts.extend(_panel(TOP + index * (PANEL + GAP), title, lines, end_s))
    return "\n".join([*parts, "</svg>", ""])


def _steps(samples: Sequence[Mapping[str, Any]], field: str) -> Points:
    points = []
    for sample in samples:
        if sample[field] is not None:
            points += [(sample["t_s"], sample[field]), (sample["t_s"] + sample["seconds"], sample[field])]
    return points


def _throughput(samples: Sequence[Mapping[str, Any]], end_s: float) -> Points:
    """Items per second by slot; a sample's items spread evenly over its seconds."""
    slots = [0.0] * max(1, int(end_s / SLOT_S))
    for sample in samples:
        rate = sample["items"] / sample["seconds"]
        first, last = sample["t_s"], sample["t_s"] + sample["seconds"]
        for index in range(int(first / SLOT_S), min(int(last / SLOT_S) + 1, len(slots))):
            overlap = min(last, (index + 1) * SLOT_S) - max(first, index * SLOT_S)
            slots[index] += rate * max(overlap, 0.0) / SLOT_S
    return [point for i, rate in enumerate(slots) for point in ((i * SLOT_S, rate), ((i + 1) * SLOT_S, rate))]


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20… from the value on; 1 for nothing."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(step * scale for step in (1, 2, 5, 10) if step * scale >= value)


def _panel(top: float, title: str, lines: Sequence[tuple[str, Points]], end_s: float) -> list[str]:
    highest = _round_up(max((value for _, points in lines for _, value in points), default=0.0))
    width = WIDTH - LEFT - RIGHT
    bottom = top + PANEL
    parts = [f'<text x="{LEFT}" y="{top - 5}">{escape(title)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * PANEL
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + width}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share * highest:.3g}</text>')
    for second in range(0, int(end_s) + 1, 2):
        x = LEFT + second / end_s * width
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" fill="#718096">{second} s</text>')
    for colour, points in lines:
        shown = " ".join(f"{LEFT + t / end_s * width:.1f},{bottom - v / highest * PANEL:.1f}" for t, v in points)
        parts.append(f'<polyline points="{shown}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return parts


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Draw the timeline of `joulec run --json` as SVG.")
    parser.add_argument("timeline", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.write_text(draw(json.loads(arguments.timeline.read_text())["session"]))


if __name__ == "__main__":
    main()
