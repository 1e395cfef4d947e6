"""Putting together what governs a session: cap, meter, clocks and the policy that decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from joulec.profiler.meter import Meter
from joulec.runtime.cap import CapSource, PowerCap
from joulec.runtime.clock_scaling import at_clocks
from joulec.runtime.clocks import ClockKnob
from joulec.runtime.governor import Governor
from joulec.runtime.instruments import Instruments
from joulec.runtime.latency import LatencyGuard
from joulec.runtime.policies import (
    POLICIES,
    GuardedPolicy,
    Policy,
    PolicyOptions,
    Predictions,
    Space,
    make_policy,
)
from joulec.runtime.runner import Runner


def default_policy(predictions: Predictions | None) -> str:
    """``frontier`` where there are predictions, else ``windowed``."""
    wanted = ("frontier", "windowed", "paper") if predictions is not None else ("windowed", "paper")
    return next(name for name in wanted if name in POLICIES)


def make_governor(
    runner: Runner,
    instruments: Instruments,
    *,
    power_cap_w: CapSource | None,
    meter: Meter | str | None,
    policy: str | Policy | None,
    predictions: Predictions | None,
    clocks: ClockKnob | Literal["nvml"] | None,
    cap_margin: float,
    latency_slo_s: float | None,
    guard: LatencyGuard | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    say: Callable[[str], None],
    doing: Callable[[str], None],
) -> Governor:
    """The governor of a session; arguments as of `joulec.runtime.session.Session` and `Governor`.

    Whatever the policy, it is asked through `GuardedPolicy`.

    Raises:
        ValueError: a value is out of range, or a name is unknown.
        CapError: no cap can be had from the source.
        MeterError: the meter named is not there.
    """
    knob = instruments.clocks(clocks)
    expected = predictions or runner.predictions
    if knob is not None and expected is not None:
        expected = at_clocks(expected, knob.levels_hz)
    space = Space(runner.sizes, runner.variants, (None,) if knob is None else knob.levels_hz)
    covered = expected if expected is not None and any(one in expected.entries for one in space) else None
    name = default_policy(covered) if policy is None else policy
    chosen = make_policy(name, space, PolicyOptions(cap_margin, expected, latency_slo_s))
    cap = None if power_cap_w is None else PowerCap(power_cap_w, warn=say)
    metered = meter is not None or cap is not None
    return Governor(
        runner.sizes,
        work=runner.work,
        meter=instruments.meter(meter) if metered else None,
        cap=cap,
        policy=chosen if isinstance(chosen, GuardedPolicy) else GuardedPolicy(chosen, space),
        guard=guard,
        uncapped=runner.uncapped,
        safest=space.safest,
        clocks=knob,
        clock=clock,
        sleep=sleep,
        say=say,
        doing=doing,
    )
