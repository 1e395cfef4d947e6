"""BatchSizer: it settles where exactly one size fits, for every power curve, and ends where none does."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from joulec.runtime.policies import Configuration, PaperPolicy, Space, Telemetry, make_policy
from joulec.runtime.policies.paper import useful_sizes

PAPER_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def epochs(policy: PaperPolicy, power, cap_w: float, count: int) -> list[int]:
    """Run whole epochs; the size in force after each."""
    seen = []
    for _ in range(count):
        for _ in range(10):
            size = policy.decision.batch
            policy.step(Telemetry(Configuration(size), power[size]), cap_w)
        seen.append(policy.decision.batch)
    return seen


@st.composite
def curves(draw):
    """Batch sizes with rising power, a cap, and a margin."""
    sizes = sorted(draw(st.sets(st.integers(1, 512), min_size=1, max_size=40)))
    steps = draw(st.lists(st.floats(0.01, 30.0), min_size=len(sizes), max_size=len(sizes)))
    power, level = {}, draw(st.floats(1.0, 50.0))
    for size, step in zip(sizes, steps, strict=True):
        level += step
        power[size] = level
    return power, draw(st.floats(0.3, 1.0))


def fitting(power, cap_w, margin):
    return [size for size, watts in power.items() if margin * cap_w <= watts <= cap_w]


def most_epochs(count: int) -> int:
    return math.ceil(math.log2(count + 1)) + 3


@settings(max_examples=200, deadline=None)
@given(curves(), st.data())
def test_settles_where_exactly_one_size_fits_and_stays(curve, data):
    power, margin = curve
    target = data.draw(st.sampled_from(sorted(power)))
    cap_w = power[target] * data.draw(st.floats(1.0, 1 / margin))
    assume(fitting(power, cap_w, margin) == [target])
    policy = PaperPolicy(list(power), cap_margin=margin)
    first_cap_w = data.draw(st.floats(1.0, 1500.0))
    epochs(policy, power, first_cap_w, data.draw(st.integers(0, 12)))  # whatever went before
    seen = epochs(policy, power, cap_w, most_epochs(len(power)) + 20)
    assert seen[most_epochs(len(power)) :] == [target] * 20
    assert policy.decision.state == "settled"


@settings(max_examples=200, deadline=None)
@given(curves(), st.floats(1.0, 1500.0), st.floats(1.0, 1500.0))
def test_always_comes_to_rest_below_the_cap_if_any_size_does(curve, before_w, cap_w):
    power, margin = curve
    policy = PaperPolicy(list(power), cap_margin=margin)
    epochs(policy, power, before_w, 5)
    seen = epochs(policy, power, cap_w, most_epochs(len(power)) + 20)
    rest = set(seen[most_epochs(len(power)) :])
    assert len(rest) == 1
    (size,) = rest
    band = fitting(power, cap_w, margin)
    below = [s for s, watts in power.items() if watts <= cap_w]
    if band:
        assert size in band
        assert policy.decision.state == "settled"
    elif not below:
        assert size == min(power)
        assert policy.decision.state == "smallest"
    else:  # nothing in the band: the largest that keeps to the cap
        assert size == max(below)
        assert policy.decision.state == ("largest" if size == max(power) else "gap")


@pytest.mark.parametrize("index", range(9))
def test_every_size_of_the_paper_is_reached_within_log_n_epochs(index):
    power = {size: 40.0 * 1.3**i for i, size in enumerate(PAPER_SIZES)}
    target = PAPER_SIZES[index]
    seen = epochs(PaperPolicy(PAPER_SIZES), power, power[target], 12)
    assert seen[4:] == [target] * 8


def test_the_paper_s_walk():
    """Nine sizes, 128 fits: 1, median of 1 and 256 = 16, then 64, 128 (Algorithm 1, lines 8 to 10)."""
    power = {size: 40.0 * 1.3**i for i, size in enumerate(PAPER_SIZES)}
    assert epochs(PaperPolicy(PAPER_SIZES), power, power[128], 4) == [16, 64, 128, 128]


def test_decides_after_ten_batches_by_their_highest_reading():
    policy = PaperPolicy([1, 2, 4])
    for _ in range(9):
        assert policy.step(Telemetry(Configuration(1), 10.0), 100.0).batch == 1
    assert policy.step(Telemetry(Configuration(1), 85.0), 100.0).state == "settled"
    for watts in [10.0] * 5 + [90.0] + [10.0] * 4:
        policy.step(Telemetry(Configuration(1), watts), 100.0)
    assert policy.decision.state == "settled"
    for _ in range(10):
        policy.step(Telemetry(Configuration(1), 10.0), 100.0)
    assert policy.decision.batch == 2


def test_each_batch_is_judged_with_the_nine_before_it():
    policy = PaperPolicy([1, 2, 4])
    for _ in range(10):
        policy.step(Telemetry(Configuration(1), 85.0), 100.0)
    assert policy.decision.state == "settled"
    for number in range(9):
        assert policy.step(Telemetry(Configuration(1), 10.0), 100.0).batch == 1, number
    assert policy.step(Telemetry(Configuration(1), 10.0), 100.0).batch == 2  # the tenth after the last of 85 W
    for _ in range(10):
        policy.step(Telemetry(Configuration(2), 85.0), 100.0)
    assert policy.step(Telemetry(Configuration(2), 101.0), 100.0).batch == 1  # with the first above the cap


def test_readings_of_another_size_do_not_count():
    policy = PaperPolicy([1, 2, 4])
    assert epochs(policy, {1: 10.0}, 100.0, 1) == [2]
    for _ in range(9):
        assert policy.step(Telemetry(Configuration(2), 130.0), 100.0).batch == 2
    assert policy.step(Telemetry(Configuration(2), 130.0), 100.0).batch == 1


def test_the_illustrative_walk():
    """Up, down and up again as the workflow of Figure 4 tells it, then with bounds restored by a change of the cap."""
    power = {size: 40.0 * 1.3**i for i, size in enumerate(PAPER_SIZES)}
    policy = PaperPolicy(PAPER_SIZES)
    cap_w = power[32] * 1.02
    # below alpha x cap: median of the current and the largest; above the cap: median of the lowest and the current
    assert epochs(policy, power, cap_w, 4) == [16, 64, 32, 32]
    assert policy.decision.state == "settled"
    tight_w = power[2] * 1.02
    assert policy.step(Telemetry(Configuration(32), power[32]), tight_w).batch == 4  # median of 1 and 32
    assert epochs(policy, power, tight_w, 2) == [2, 2]
    assert epochs(policy, power, 1000.0, 3) == [32, 128, 256]
    assert epochs(policy, power, 1000.0, 1) == [256]
    assert policy.decision.state == "largest"
    assert epochs(policy, power, 30.0, 5) == [16, 4, 2, 1, 1]
    assert policy.decision.state == "smallest"


def test_a_reading_over_many_batches_is_enough():
    policy = PaperPolicy([1, 2, 4])
    assert policy.step(Telemetry(Configuration(1), 10.0, batches=12), 100.0).batch == 2


@pytest.mark.parametrize("watts", [80.0, 100.0])
def test_the_band_includes_its_ends(watts):
    policy = PaperPolicy([1, 2, 4])
    assert epochs(policy, {1: watts}, 100.0, 3) == [1, 1, 1]
    assert policy.decision.state == "settled"


def test_follows_a_cap_that_halves_and_returns():
    power = {1: 30.0, 2: 48.0, 4: 60.0, 8: 90.0, 16: 130.0}
    policy = PaperPolicy(list(power))
    assert epochs(policy, power, 100.0, 6)[-1] == 8
    assert epochs(policy, power, 50.0, 6)[-1] == 2
    assert epochs(policy, power, 100.0, 6)[-1] == 8


def test_restarts_when_the_load_changes():
    heavy = {1: 40.0, 2: 60.0, 4: 90.0, 8: 140.0, 16: 200.0}
    light = {size: watts / 2 for size, watts in heavy.items()}
    policy = PaperPolicy(list(heavy))
    assert epochs(policy, heavy, 100.0, 6)[-1] == 4
    assert epochs(policy, light, 100.0, 6)[-1] == 16
    assert epochs(policy, heavy, 100.0, 6)[-1] == 4


def test_a_gap_is_searched_again_only_when_the_load_falls():
    power = {1: 40.0, 2: 60.0, 4: 130.0, 8: 200.0}
    policy = PaperPolicy(list(power))
    assert epochs(policy, power, 100.0, 6)[-1] == 2
    assert policy.decision.state == "gap"
    noisy = {**power, 2: 57.0}
    assert set(epochs(policy, noisy, 100.0, 30)) == {2}
    lighter = {1: 30.0, 2: 45.0, 4: 95.0, 8: 150.0}
    assert epochs(policy, lighter, 100.0, 5)[-1] == 4
    assert policy.decision.state == "settled"


def test_a_spike_in_a_window_of_smaller_batches_counts_a_low_reading_does_not():
    power = {1: 40.0, 2: 60.0, 4: 90.0, 8: 140.0}
    policy = PaperPolicy(list(power))
    assert epochs(policy, power, 100.0, 6)[-1] == 4
    for _ in range(50):
        assert policy.step(Telemetry(Configuration(1), 40.0), 100.0).batch == 4
    for _ in range(10):
        policy.step(Telemetry(Configuration(1), 120.0), 100.0)
    assert policy.decision.batch < 4


def test_keeps_to_the_largest_size_allowed():
    power = dict.fromkeys(PAPER_SIZES, 10.0)
    policy = PaperPolicy(PAPER_SIZES)
    for _ in range(100):
        policy.step(Telemetry(Configuration(policy.decision.batch), 10.0, largest=32), 100.0)
    assert (policy.decision.batch, policy.decision.state) == (32, "largest")
    policy.step(Telemetry(Configuration(32), 10.0, largest=4), 100.0)
    assert policy.decision.batch == 4
    assert epochs(policy, power, 100.0, 6)[-1] == 256


def test_is_deterministic():
    def walk():
        policy = PaperPolicy(PAPER_SIZES)
        return [
            policy.step(Telemetry(Configuration(policy.decision.batch), 30.0 + (i * 37 % 90)), 100.0 - i // 50)
            for i in range(400)
        ]

    assert walk() == walk()


def test_bad_arguments():
    for sizes in ([], [0, 1], [-1]):
        with pytest.raises(ValueError, match="batch sizes"):
            PaperPolicy(sizes)
    for margin in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="cap_margin"):
            PaperPolicy([1], cap_margin=margin)
    with pytest.raises(ValueError, match="last_batches"):
        PaperPolicy([1], last_batches=0)
    with pytest.raises(ValueError, match=r"unknown policy 'best'; there are paper"):
        make_policy("best", Space([1]))


def test_sizes_that_bring_nothing_are_left_out_by_an_offline_profile():
    assert useful_sizes({1: 10.0, 2: 18.0, 4: 25.0, 8: 25.1, 16: 24.0}) == [1, 2, 4]
    assert useful_sizes({4: 1.0}) == [4]


@pytest.mark.parametrize(("seconds", "kept"), [({2: 0.03, 4: 0.04, 8: 0.08}, 4), ({2: 0.03, 4: 0.04, 8: 0.07}, 8)])
def test_online_it_compares_with_the_next_smaller_size(seconds, kept):
    policy = PaperPolicy([2, 4, 8], online=True)
    for _ in range(200):
        size = policy.decision.batch
        policy.step(Telemetry(Configuration(size), 10.0 * size, batch_s=seconds[size]), 100.0)
    assert policy.decision.batch == kept
