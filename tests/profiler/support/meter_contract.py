"""What every meter owes its users, as functions of a rig that drives one."""

from __future__ import annotations

from joulec.profiler.meter import MeterError, Reading


class Rig:
    """A meter under control.

    Attributes:
        now_s: the virtual clock.
        slowness: by how much longer than 0.2 s its windows must be.
        tolerance: relative error that its sensor's own steps leave.
    """

    slowness = 1
    tolerance = 1e-6

    def __init__(self):
        self.now_s = 50.0

    def clock(self):
        return self.now_s

    def make(self):
        """A fresh meter."""
        raise NotImplementedError

    def spend(self, seconds, joules):
        """Let time pass and energy flow; returns the `Work` that ``end`` is to be told of."""
        raise NotImplementedError


def _close(value, expected, tolerance=1e-6):
    return abs(value - expected) <= tolerance * max(abs(expected), 1e-3)


def _error(action):
    try:
        action()
    except MeterError as error:
        return str(error)
    return None


def says_what_it_is(rig):
    meter = rig.make()
    assert meter.name in ("nvml", "rapl", "estimate", "zeus", "replay", "record")
    assert meter.source in ("nvml", "rapl", "estimated", "zeus", "replay")
    assert meter.window_s >= 0
    assert (meter.window_s == 0) == (meter.source == "estimated")


def measures_a_window(rig):
    meter = rig.make()
    meter.begin()
    seconds = 0.2 * rig.slowness
    reading = meter.end(rig.spend(seconds, 5.0))
    assert isinstance(reading, Reading)
    assert reading.source == meter.source
    assert _close(reading.seconds, seconds), reading
    assert _close(reading.joules, 5.0, rig.tolerance), reading
    assert _close(reading.power_w, 5.0 / seconds, rig.tolerance), reading
    assert reading.peak_w is None or reading.peak_w >= reading.power_w * (1 - rig.tolerance)
    assert reading.spread is None or reading.spread >= 0


def windows_are_independent(rig):
    meter = rig.make()
    for joules in (8.0, 2.0):
        meter.begin()
        reading = meter.end(rig.spend(0.2 * rig.slowness, joules))
        rig.spend(0.1 * rig.slowness, 30.0)
        rig.spend(0.0, 0.0)
        assert _close(reading.joules, joules, rig.tolerance), reading


def beginning_again_drops_the_open_window(rig):
    meter = rig.make()
    meter.begin()
    rig.spend(0.1 * rig.slowness, 40.0)
    rig.spend(0.0, 0.0)
    meter.begin()
    reading = meter.end(rig.spend(0.2 * rig.slowness, 2.0))
    assert _close(reading.seconds, 0.2 * rig.slowness), reading
    assert _close(reading.joules, 2.0, rig.tolerance), reading


def end_needs_begin(rig):
    assert "begin" in _error(rig.make().end)


def a_window_ends_once(rig):
    meter = rig.make()
    meter.begin()
    meter.end()
    assert "begin" in _error(meter.end)


def an_empty_window_has_no_power(rig):
    meter = rig.make()
    meter.begin()
    reading = meter.end()
    assert reading.power_w is None


def closes_twice_even_inside_a_window(rig):
    meter = rig.make()
    meter.begin()
    meter.close()
    meter.close()


def two_meters_live_side_by_side(rig):
    first, second = rig.make(), rig.make()
    first.begin()
    rig.spend(0.1 * rig.slowness, 1.0)
    rig.spend(0.0, 0.0)
    second.begin()
    spent = rig.spend(0.2 * rig.slowness, 5.0)
    assert _close(second.end(spent).joules, 5.0, rig.tolerance)
    assert _close(first.end(spent).seconds, 0.3 * rig.slowness)
    first.close()
    second.close()


CHECKS = (
    says_what_it_is,
    measures_a_window,
    windows_are_independent,
    beginning_again_drops_the_open_window,
    end_needs_begin,
    a_window_ends_once,
    an_empty_window_has_no_power,
    closes_twice_even_inside_a_window,
    two_meters_live_side_by_side,
)
