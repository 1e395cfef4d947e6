"""Policies: which configuration (variant, batch size, clock) comes next, given what was read and the cap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from joulec.runtime.policies.dvfs import dvfs_policy
from joulec.runtime.policies.frontier import FrontierPolicy
from joulec.runtime.policies.guarded import GuardedPolicy
from joulec.runtime.policies.paper import PaperPolicy
from joulec.runtime.policies.paper_literal import PaperLiteralPolicy
from joulec.runtime.policies.protocol import (
    Configuration,
    Decision,
    Policy,
    Prediction,
    Predictions,
    Space,
    State,
    Telemetry,
)
from joulec.runtime.policies.windowed import WindowedPolicy

__all__ = [
    "POLICIES",
    "Configuration",
    "Decision",
    "FrontierPolicy",
    "GuardedPolicy",
    "PaperLiteralPolicy",
    "PaperPolicy",
    "Policy",
    "PolicyOptions",
    "Prediction",
    "Predictions",
    "Space",
    "State",
    "Telemetry",
    "WindowedPolicy",
    "make_policy",
]


@dataclass(frozen=True)
class PolicyOptions:
    """What policies are made with.

    Attributes:
        cap_margin: the paper's alpha: the lower end of the band, as a share of the cap.
        predictions: what the optimizer expects; only ``frontier`` asks for it.
        latency_slo_s: the longest that a batch may take, in seconds; None for no limit.
    """

    cap_margin: float = 0.8
    predictions: Predictions | None = None
    latency_slo_s: float | None = None


POLICIES: Mapping[str, Callable[[Space, PolicyOptions], Policy]] = {
    "paper": lambda space, options: PaperPolicy(space.at_full_clock(), cap_margin=options.cap_margin),
    "windowed": lambda space, options: WindowedPolicy(space.at_full_clock(), cap_margin=options.cap_margin),
    "frontier": lambda space, options: FrontierPolicy(
        space, options.predictions or Predictions(), latency_slo_s=options.latency_slo_s
    ),
    "dvfs": lambda space, options: dvfs_policy(space, cap_margin=options.cap_margin),
}
"""Policies by name. Each is wrapped in `GuardedPolicy`."""


def make_policy(policy: str | Policy, space: Space, options: PolicyOptions | None = None) -> Policy:
    """A policy by name, or the one given.

    Raises:
        ValueError: the name is unknown, or an option is out of range or missing.
    """
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}; there are {', '.join(POLICIES)}")
    return GuardedPolicy(POLICIES[policy](space, options or PolicyOptions()), space)
