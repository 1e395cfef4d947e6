"""Objectives: what is read, what it is worth, and what is promised of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulec.passes.search.objective import (
    Objective,
    ObjectiveError,
    as_objective,
    parse_objective,
    product,
    weighted,
)
from joulec.passes.search.totals import Bounds, Totals

ORIGIN = Totals(2.0, 10.0, flops=100.0, bytes=50.0, peak_memory_bytes=40.0, kernels=8)
HERE = Totals(3.0, 6.0, flops=80.0, bytes=20.0, peak_memory_bytes=30.0, kernels=5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("time", 1.5),
        ("energy", 0.6),
        ("power", 0.4),
        ("time_s", 3.0),
        ("energy_j", 6.0),
        ("power_w", 2.0),
        ("flops", 80.0),
        ("bytes", 20.0),
        ("peak_memory_bytes", 30.0),
        ("kernels", 5.0),
        ("time + energy", 2.1),
        ("time_s - energy_j", -3.0),
        ("time_s * energy_j", 18.0),
        ("time_s / energy_j", 0.5),
        ("energy_j ** 2", 36.0),
        ("-time_s", -3.0),
        ("--time_s", 3.0),
        ("time_s + 2 * 3", 9.0),
        ("(time_s + 2) * 3", 15.0),
        ("2 * time_s ** 2", 18.0),
        ("-time_s ** 2", -9.0),
        ("2 ** time_s ** 0 ", 2.0),
        ("time_s - 1 - 1", 1.0),
        ("12 / 2 / time_s", 2.0),
        ("time_s ** -1", 1 / 3),
        ("1e-3 * time_s + .5", 0.503),
        ("  energy_j\t", 6.0),
    ],
)
def test_values(text, value):
    objective = parse_objective(text)
    assert objective.value(HERE, ORIGIN) == pytest.approx(value)
    times = np.array([HERE.time_s, 1.0])
    many = objective.value(Totals(times, np.array([HERE.energy_j, 1.0]), 80.0, 20.0, 30.0, 5), ORIGIN)
    assert np.broadcast_to(many, 2)[0] == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "latency",
        "time +",
        "time energy",
        "time.real",
        "__import__('os')",
        "max(time, energy)",
        "time if energy else 1",
        "time < energy",
        "time and energy",
        "not time",
        "~time",
        "+time",
        "time % 2",
        "time // 2",
        "time @ energy",
        "time[0]",
        "[time]",
        "(time, energy)",
        "lambda: time",
        "'time'",
        "True * time",
        "1j * time",
        "None",
        "(time := 3)",
        "time = 3",
        "time; energy",
        "time\n+energy",
        "f'{time}'",
        "*time",
        "time\0",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ObjectiveError, match=r"time, energy, power"):
        parse_objective(text)


def test_an_objective_depends_on_something():
    with pytest.raises(ObjectiveError, match="depends on nothing"):
        parse_objective("2 * 3")


@pytest.mark.parametrize(
    "text",
    [
        "time + 1/0",
        "time / 0",
        "time / (1 - 1)",
        "time * 0 ** -1",
        "time + 10.0 ** 400",
        "time * 1e400",
        "time ** (1e308 * 10)",
        "time + (-1) ** 0.5",
        "time * 1" + "0" * 400,
    ],
)
def test_constants_without_a_value_are_refused(text):
    with pytest.raises(ObjectiveError):
        parse_objective(text)


@pytest.mark.parametrize("text", ["1 / (time_s - 3)", "(time_s - 4) ** 0.5", "time_s ** 1e308", "0 / (energy_j - 6)"])
def test_what_has_no_value_at_a_point_is_no_error_there(text):
    objective = parse_objective(text)
    single = float(objective.value(HERE, ORIGIN))
    assert not math.isfinite(single)
    many = objective.value(Totals(np.array([3.0, 5.0]), np.array([6.0, 5.0])), ORIGIN)
    np.testing.assert_equal(float(many[0]), single)
    if "e308" not in text:
        assert math.isfinite(many[1])


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "time" + ")" * 5000,
        "-" * 5000 + "time",
        "+".join(["time"] * 5000),
        "**".join(["time"] * 5000),
        "f(" + "-" * 400 + "time)",
        "time + [" * 150 + "1" + "]" * 150,
    ],
)
def test_deep_nesting_is_refused(text):
    with pytest.raises(ObjectiveError):
        parse_objective(text)


def test_moderate_nesting_is_fine():
    assert parse_objective("+".join(["time_s"] * 100)).value(HERE, ORIGIN) == pytest.approx(300)
    assert parse_objective("(" * 50 + "time_s" + ")" * 50).value(HERE, ORIGIN) == 3.0


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("time", (0.5, 0.0)),
        ("energy", (0.0, 0.1)),
        ("time_s", (1.0, 0.0)),
        ("energy_j", (0.0, 1.0)),
        ("0.3*energy + 0.7*time", (0.35, 0.03)),
        ("3 - 2*(time_s - energy_j)/4", (-0.5, 0.5)),
        ("-time_s - -energy_j", (-1.0, 1.0)),
        ("time + time_s", (1.5, 0.0)),
        ("time_s * 2 * 3 / 4", (1.5, 0.0)),
        ("(1 + 1) * energy_j * 0.5", (0.0, 1.0)),
        ("0*time + energy_j", (0.0, 1.0)),
    ],
)
def test_linear_weights(text, weights):
    objective = parse_objective(text)
    assert objective.linear is not None
    assert objective.linear(ORIGIN) == pytest.approx(weights)
    slope_t = objective.value(Totals(2.0, 1.0), ORIGIN) - objective.value(Totals(1.0, 1.0), ORIGIN)
    slope_e = objective.value(Totals(1.0, 2.0), ORIGIN) - objective.value(Totals(1.0, 1.0), ORIGIN)
    assert (slope_t, slope_e) == pytest.approx(weights)


@pytest.mark.parametrize(
    "text", ["power", "time*energy", "time**2", "1/time", "energy/time", "time + kernels", "2**time"]
)
def test_what_is_not_linear(text):
    assert parse_objective(text).linear is None


def test_flags():
    assert parse_objective("power").is_power
    assert parse_objective(" (power_w) ").is_power
    assert not parse_objective("power + time").is_power
    assert not parse_objective("-power").is_power
    assert not as_objective(_called_power).is_power
    assert [parse_objective(t).uses_energy for t in ("time", "time_s**2", "kernels", "power", "0*energy + time")] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert [parse_objective(t).uses_figures for t in ("time", "flops*time", "kernels + energy")] == [False, True, True]
    for text in ("time", "2*time*energy_j", "energy**0.3*time**0.7", "(time*energy)**2/3", "energy**0"):
        assert parse_objective(text).product, text
    for text in ("power", "time+energy", "time/energy", "-time", "time**-1", "0*time", "time*flops", "time*-1"):
        assert not parse_objective(text).product, text


def _called_power(totals, origin):
    return -totals.energy_j


_NAMES = ["time", "energy", "power", "time_s", "energy_j", "power_w", "flops", "bytes", "peak_memory_bytes", "kernels"]
_EXPRESSIONS = st.recursive(
    st.sampled_from(_NAMES) | st.sampled_from(["0", "1", "2", "0.5", "3"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "**"]), inner).map(
            lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
        )
        | inner.map(lambda part: f"(-{part})")
    ),
    max_leaves=6,
)
_POSITIVE = st.floats(0.01, 100)


@given(_EXPRESSIONS, _POSITIVE, _POSITIVE, _POSITIVE, _POSITIVE)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_monotone_means_never_falling(text, time_s, energy_j, more_s, more_j):
    try:
        objective = parse_objective(text)
    except ObjectiveError:
        return
    if not objective.monotone:
        return
    figures = {"flops": 9.0, "bytes": 7.0, "peak_memory_bytes": 5.0, "kernels": 3}
    low, high = Totals(time_s, energy_j, **figures), Totals(time_s + more_s, energy_j + more_j, **figures)
    below, above = (float(objective.value(at, ORIGIN)) for at in (low, high))
    assert below >= 0
    assert above >= below * (1 - 1e-12)


@given(_EXPRESSIONS, st.lists(st.tuples(_POSITIVE, _POSITIVE), min_size=3, max_size=6))
@settings(max_examples=250, deadline=None, derandomize=True)
def test_linear_and_product_mean_what_they_say(text, points):
    """Linear: the value differs by the weighted sum. Product: logarithms are linear with non-negative slopes."""
    try:
        objective = parse_objective(text)
    except ObjectiveError:
        return
    (t0, e0), *others = points
    base = float(objective.value(Totals(t0, e0), ORIGIN))
    for time_s, energy_j in others:
        value = float(objective.value(Totals(time_s, energy_j), ORIGIN))
        if objective.linear is not None:
            a, b = objective.linear(ORIGIN)
            scale = abs(a) * 100 + abs(b) * 100 + abs(base)
            assert value - base == pytest.approx(a * (time_s - t0) + b * (energy_j - e0), abs=1e-9 * scale)
        if objective.product and 0 < base < math.inf and 0 < value < math.inf:

            def slope(dt, de):
                moved = float(objective.value(Totals(t0 * dt, e0 * de), ORIGIN))
                return math.log(moved / base) if 0 < moved < math.inf else None

            by_time, by_energy = slope(math.e, 1.0), slope(1.0, math.e)
            if by_time is None or by_energy is None:
                continue
            assert by_time >= -1e-9
            assert by_energy >= -1e-9
            wanted = by_time * math.log(time_s / t0) + by_energy * math.log(energy_j / e0)
            assert math.log(value / base) == pytest.approx(wanted, abs=1e-6 * (1 + abs(wanted)))


class TestWeights:
    """`weighted` and `product`."""

    @pytest.mark.parametrize("w", [0, 0.25, 0.3, 1, 1e-05, np.float64(0.6), np.float32(0.5)])
    def test_formulas(self, w):
        w64 = float(w)
        assert weighted(w).value(HERE, ORIGIN) == pytest.approx(w64 * 0.6 + (1 - w64) * 1.5)
        assert product(w).value(HERE, ORIGIN) == pytest.approx(0.6**w64 * 1.5 ** (1 - w64))
        assert weighted(w).linear is not None
        assert product(w).product
        assert weighted(w).monotone
        assert product(w).monotone

    @pytest.mark.parametrize("w", [-0.1, 1.1, math.nan, math.inf])
    def test_weights_beyond_zero_and_one_are_refused(self, w):
        for make in (weighted, product):
            with pytest.raises(ObjectiveError, match="between 0 and 1"):
                make(w)


class TestFunctions:
    """Python functions as objectives."""

    def test_get_totals_and_origin_and_promise_nothing(self):
        seen = []

        def mine(totals, origin):
            seen.append((totals.flops, origin.kernels))
            return totals.time_s + origin.energy_j

        objective = as_objective(mine)
        assert objective.name == "mine"
        assert objective.value(HERE, ORIGIN) == 13.0
        assert seen == [(80.0, 8)]
        promises = (objective.monotone, objective.product, objective.linear, objective.vectorised)
        assert not any(promises)
        assert objective.uses_energy
        assert objective.uses_figures

    def test_are_called_with_one_point_at_a_time(self):
        def branches(totals, origin):
            return 1.0 if totals.time_s < 2 else totals.energy_j

        many = as_objective(branches).value(Totals(np.array([[1.0], [3.0]]), np.array([5.0, 7.0])), ORIGIN)
        np.testing.assert_equal(many, [[1, 1], [5, 7]])

    def test_objects_without_a_name_are_fine_and_others_refused(self):
        class Callable:
            def __call__(self, totals, origin):
                return 0.0

        assert as_objective(Callable()).name == "function"
        given_one = parse_objective("time")
        assert as_objective(given_one) is given_one
        with pytest.raises(ObjectiveError, match="expression or a function, not int"):
            as_objective(3)


class TestBounds:
    """Upper bounds and their excess."""

    def test_excess_adds_up_relative_excesses(self):
        bounds = Bounds(max_time_s=2.0, max_energy_j=12.0, max_power_w=1.0)
        assert bounds.excess(HERE) == pytest.approx(0.5 + 0.0 + 1.0)
        many = bounds.excess(Totals(np.array([2.0, 4.0]), np.array([2.0, 24.0])))
        np.testing.assert_allclose(many, [0.0, 1.0 + 1.0 + 5.0])
        assert Bounds().excess(HERE) == 0.0

    def test_a_bound_met_exactly_is_kept(self):
        assert Bounds(max_time_s=0.1 + 0.2).excess(Totals(0.1 + 0.2, 1.0)) == 0.0

    def test_truth(self):
        assert not Bounds()
        for name in ("max_time_s", "max_energy_j", "max_power_w"):
            assert Bounds(**{name: 1.0})
            for wrong in (0.0, -1.0, math.nan):
                with pytest.raises(ValueError, match=name):
                    Bounds(**{name: wrong})

    def test_bounds_change_what_is_needed_and_promised(self):
        time = parse_objective("time")
        assert not time.within(Bounds(max_time_s=1.0)).uses_energy
        assert time.within(Bounds(max_time_s=1.0)).monotone
        assert time.within(Bounds(max_energy_j=1.0)).uses_energy
        assert time.within(Bounds(max_energy_j=1.0)).monotone
        power = time.within(Bounds(max_power_w=1.0))
        assert power.uses_energy
        assert not power.monotone, "taking longer can keep a bound on power"
        assert as_objective("time", Bounds(max_time_s=3.0)).bounds.max_time_s == 3.0


class TestNothingToRun:
    """A graph of views alone takes no time and no energy."""

    ZERO = Totals(0.0, 0.0)

    @pytest.mark.parametrize("text", ["time", "energy", "power", "0.5*time + 0.5*energy", "energy**0.5*time**0.5"])
    def test_ratios_stand_at_one(self, text):
        objective = parse_objective(text)
        assert objective.value(self.ZERO, self.ZERO) == pytest.approx(1.0)
        many = objective.value(Totals(np.zeros(2), np.zeros(2)), self.ZERO)
        np.testing.assert_allclose(many, [1.0, 1.0])
        if objective.linear is not None:
            assert all(map(math.isfinite, objective.linear(self.ZERO)))

    def test_power_is_none(self):
        assert self.ZERO.power_w == 0.0


def test_unknown_energies_do_not_touch_time():
    unknown = Totals(3.0, math.nan)
    origin = Totals(2.0, math.nan)
    assert parse_objective("time").value(unknown, origin) == 1.5
    assert parse_objective("time").linear(origin) == (0.5, 0.0)
    assert math.isnan(parse_objective("energy").value(unknown, origin))


def test_objectives_are_values():
    assert isinstance(parse_objective("time"), Objective)
    assert parse_objective("  time ").name == "time"
