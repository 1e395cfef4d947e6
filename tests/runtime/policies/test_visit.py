"""What is believed of the highest power while readings show only some phases of a batch."""

from __future__ import annotations

import math

import pytest

from joulec.runtime.policies import Configuration, Telemetry
from joulec.runtime.policies.visit import Visit

NOISE = 0.005
BATCH_S, WINDOW_S = 0.08, 0.05


def see(visit: Visit, watts: float, age_s: float, **more) -> None:
    visit.add(math.log(watts), math.log(watts), 1)
    visit.add_batches(Telemetry(Configuration(8), watts, batch_s=BATCH_S, seconds=BATCH_S, age_s=age_s, **more))


def highest(visit: Visit, expected_w: float) -> tuple[float, float]:
    value, variance = visit.power(NOISE, BATCH_S / WINDOW_S, math.log(expected_w))
    return math.exp(value), math.sqrt(variance)


def test_readings_of_one_phase_say_little_of_the_highest():
    visit = Visit()
    for _ in range(10):
        see(visit, 100.0, age_s=0.01)
    watts, deviation = highest(visit, expected_w=115.0)
    assert watts == pytest.approx(115.0)  # what was expected stands
    assert deviation > 0.03
    assert highest(visit, expected_w=80.0)[0] > 98.0  # but no less than what was seen


def test_once_all_phases_were_seen_the_highest_reading_counts():
    visit = Visit()
    for step in range(32):
        see(visit, 120.0 if step % 8 == 0 else 100.0, age_s=step * BATCH_S / 32)
    watts, deviation = highest(visit, expected_w=150.0)
    assert watts == pytest.approx(120.0, rel=0.02)
    assert deviation < 0.01


def test_readings_over_whole_batches_leave_no_phase_open():
    visit = Visit()
    for _ in range(10):
        see(visit, 100.0, age_s=0.0, whole=True)
    assert highest(visit, expected_w=150.0)[0] == pytest.approx(100.0, rel=0.02)


def test_a_window_of_whole_batches_means_the_same_wherever_it_falls():
    visit = Visit()
    see(visit, 100.0, age_s=0.0)
    assert visit.unseen(0.25) < 1e-9  # two in half of the window, four in all
    assert visit.unseen(0.4) > 0.05
