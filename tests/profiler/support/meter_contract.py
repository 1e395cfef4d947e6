"""What every meter owes its users, as functions of a rig that drives one."""

from __future__ import annotations

import traceback

from joulec.profiler.meter import MeterError, Reading


class Rig:
    """A meter under control.

    Attributes:
        now_s: the virtual clock.
    """

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


def _close(value, expected):
    return abs(value - expected) <= 1e-6 * max(abs(expected), 1e-3)


def _error(action):
    try:
        action()
    except MeterError as error:
        return str(error)
    return None


def says_what_it_is(rig):
    meter = rig.make()
    assert meter.name in ("nvml", "rapl", "estimate")
    assert meter.source in ("nvml", "rapl", "estimated")
    assert meter.window_s >= 0
    assert (meter.window_s == 0) == (meter.source == "estimated")


def measures_a_window(rig):
    meter = rig.make()
    meter.begin()
    reading = meter.end(rig.spend(0.2, 5.0))
    assert isinstance(reading, Reading)
    assert reading.source == meter.source
    assert _close(reading.seconds, 0.2), reading
    assert _close(reading.joules, 5.0), reading
    assert _close(reading.power_w, 25.0), reading
    assert reading.peak_w is None or reading.peak_w >= reading.power_w


def windows_are_independent(rig):
    meter = rig.make()
    for joules in (8.0, 2.0):
        meter.begin()
        reading = meter.end(rig.spend(0.2, joules))
        rig.spend(0.1, 30.0)
        rig.spend(0.0, 0.0)
        assert _close(reading.joules, joules), reading


def beginning_again_drops_the_open_window(rig):
    meter = rig.make()
    meter.begin()
    rig.spend(0.1, 40.0)
    rig.spend(0.0, 0.0)
    meter.begin()
    reading = meter.end(rig.spend(0.2, 2.0))
    assert _close(reading.seconds, 0.2), reading
    assert _close(reading.joules, 2.0), reading


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
    rig.spend(0.1, 1.0)
    rig.spend(0.0, 0.0)
    second.begin()
    spent = rig.spend(0.2, 5.0)
    assert _close(second.end(spent).joules, 5.0)
    assert _close(first.end(spent).seconds, 0.3)
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


def run_contract(make_rig):
    """All checks on fresh rigs: name to None, or to what went wrong."""
    found = {}
    for check in CHECKS:
        try:
            check(make_rig())
        except AssertionError:
            found[check.__name__] = traceback.format_exc()
        else:
            found[check.__name__] = None
    return found
