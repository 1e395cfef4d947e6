"""What holds for every policy, whatever it is told: decisions lie in the space, and the same story ends the same."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from joulec.runtime.policies import (
    POLICIES,
    Configuration,
    PolicyOptions,
    Prediction,
    Predictions,
    Space,
    Telemetry,
    make_policy,
)

SPACE = Space([1, 4, 16], variants=["fast", "frugal"], clocks_hz=[0.5e9, 1e9])
PRIOR = Predictions({item: Prediction(0.001 * (item.batch + 4), 40.0 + 3 * item.batch) for item in SPACE})
OPTIONS = PolicyOptions(predictions=PRIOR)


def story(draw) -> list[tuple[dict, float]]:
    watts = st.one_of(st.none(), st.floats(0.1, 400.0), st.sampled_from([0.0, -5.0, math.nan, math.inf]), st.just(77.7))
    step = st.fixed_dictionaries(
        {
            "power_w": watts,
            "peak_w": st.one_of(st.none(), st.floats(0.1, 500.0), st.just(math.nan)),
            "seconds": st.floats(0.001, 2.0),
            "batches": st.integers(0, 40),
            "batch_s": st.one_of(st.none(), st.floats(1e-6, 5.0)),
            "readings": st.integers(0, 30),
            "age_s": st.floats(0.0, 20.0),
            "sensor_window_s": st.sampled_from([0.0, 0.1]),
            "valid": st.booleans(),
            "largest": st.one_of(st.none(), st.integers(1, 20)),
            "failed": st.sampled_from([False, False, False, True]),
            "foreign": st.sampled_from([False, False, False, True]),
            "idle": st.sampled_from([False, False, False, True]),
        }
    )
    caps = st.sampled_from([30.0, 60.0, 90.0, 300.0, 0.0, math.nan])
    return draw(st.lists(st.tuples(step, caps), min_size=1, max_size=40))


def tell(policy, steps):
    """Run a story; the decisions."""
    t_s, decisions = 0.0, []
    for said, cap_w in steps:
        fields = {key: value for key, value in said.items() if key not in ("foreign", "idle")}
        t_s += fields["seconds"]
        ran = Configuration(999) if said["foreign"] else policy.decision.configuration
        decisions.append(policy.step(Telemetry(None if said["idle"] else ran, t_s=t_s, **fields), cap_w))
    return decisions


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_decisions_lie_in_the_space_and_the_same_story_ends_the_same(name, data):
    steps = data.draw(st.composite(story)())
    decisions = tell(make_policy(name, SPACE, OPTIONS), steps)
    assert {decision.configuration for decision in decisions} <= set(SPACE)
    assert decisions == tell(make_policy(name, SPACE, OPTIONS), steps)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_mean_of_nothing_beside_a_peak_is_no_reading(name):
    policy = make_policy(name, SPACE, OPTIONS)
    ran = policy.decision.configuration
    assert policy.step(Telemetry(ran, 0.0, peak_w=1.0, t_s=1.0, seconds=1.0), 30.0).configuration in set(SPACE)


def well(policy, t_s, cap_w=100.0):
    """One step in which all is well."""
    ran = policy.decision.configuration
    watts = 40.0 + 2 * ran.batch * (ran.clock_hz / 1e9) + 0.1 * (round(t_s * 10) * 7 % 5)
    return policy.step(
        Telemetry(ran, watts, t_s=t_s, seconds=0.1, batches=10, batch_s=0.001 * (ran.batch + 4), sensor_window_s=0.1),
        cap_w,
    )


FAILING = {"valid": False, "power_w": None, "readings": 0}
STUCK = {"power_w": 61.3}  # once it lasts
FAULTS = st.sampled_from(
    [
        FAILING,
        {"power_w": math.nan},
        {"power_w": math.inf},
        {"power_w": -1.0},
        {"power_w": 0.0},
        {"power_w": 50.0, "peak_w": math.nan},
        {"power_w": None, "readings": 0, "age_s": 60.0},  # missing, or late
        STUCK,
    ]
)


@pytest.mark.parametrize("name", sorted(POLICIES))
@settings(max_examples=12, deadline=None)
@example(faults=[STUCK, STUCK, FAILING], before=60)
@given(faults=st.lists(FAULTS, min_size=1, max_size=3), before=st.integers(60, 120))
def test_faults_lead_to_the_safest_are_said_once_each_and_end(name, faults, before):
    policy = make_policy(name, SPACE, OPTIONS)
    t_s = 0.0
    for _ in range(before):
        t_s += 0.1
        well(policy, t_s)
    for fault in faults:
        texts = []
        for _ in range(60):
            t_s += 0.1
            said = {"configuration": policy.decision.configuration, "t_s": t_s, "seconds": 0.1, "sensor_window_s": 0.1}
            decision = policy.step(Telemetry(**(said | fault)), 100.0)
            texts.append(decision.fault)
        assert decision.configuration == SPACE.safest
        assert decision.state == "held"
        said_texts = [text for text in texts if text is not None]
        assert len(set(said_texts)) == 1  # one warning
        first = texts.index(said_texts[0])
        assert all(text is not None for text in texts[first:])  # and no flicker
        for _ in range(3):
            t_s += 0.1
            assert well(policy, t_s).fault is None  # recovery with the first reading that can be believed
    for _ in range(300):
        t_s += 0.1
        well(policy, t_s)
    assert policy.decision.fault is None
    assert policy.decision.configuration.batch == 16
