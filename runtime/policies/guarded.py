"""What holds for every policy when the sensor, the cap or a kernel fails."""

from __future__ import annotations

import math
from dataclasses import replace

from joulec.runtime.policies.protocol import Decision, Policy, Space, Telemetry

_STUCK = 25  # equal readings in a row, from a sensor whose readings used to differ
_STALE_WINDOWS = 10.0
_STALE_S = 1.0
_BACK_OFF_S = 5.0
_LONGEST_BACK_OFF_S = 60.0


class GuardedPolicy:
    """Lets a policy decide while what it is told can be believed, and keeps to the safest configuration otherwise.

    Not believed: a meter that fails, readings that are not finite watts above zero, readings too old (ten sensor
    windows and three batches), equal for 25 in a row from a sensor whose readings used to differ; a cap that is not
    above zero. A batch size whose kernel failed is left out, with all larger ones, for 5 s, then 10 s, up to a minute.
    The policy decides again with the first telemetry that can be believed.

    Args:
        policy: the policy.
        space: what there is to choose from.
    """

    def __init__(self, policy: Policy, space: Space) -> None:
        self._policy = policy
        self._space = space
        self._last_w: float | None = None
        self._equal = 0
        self._varied = 0
        self._sensor_fault: str | None = None
        self._banned: tuple[int, float] | None = None  # batch size, until when
        self._back_off_s = _BACK_OFF_S
        self.decision = policy.decision

    @property
    def name(self) -> str:
        """The policy's."""
        return self._policy.name

    def step(self, telemetry: Telemetry, cap_w: float) -> Decision:
        fault = self._fault(telemetry, cap_w)
        if fault is not None:
            self.decision = Decision(self._space.safest, "held", fault, fault)
            return self.decision
        broken = self._kernels(telemetry)
        if self._banned is not None:
            smaller = [size for size in self._space.batches if size < self._banned[0]]
            largest = min(smaller[-1] if smaller else self._space.batches[0], telemetry.largest or self._banned[0])
            telemetry = replace(telemetry, largest=largest)
        if telemetry.failed:
            telemetry = replace(telemetry, configuration=None, power_w=None, peak_w=None, readings=0)
        decision = self._policy.step(telemetry, cap_w)
        if broken is not None:
            decision = replace(decision, fault=broken)
            if decision.batch >= self._banned[0] if self._banned else False:
                decision = Decision(self._space.safest, "held", broken, broken)
        self.decision = decision
        return decision

    def _fault(self, telemetry: Telemetry, cap_w: float) -> str | None:
        if not math.isfinite(cap_w) or cap_w <= 0:
            return f"the power cap of {cap_w:g} W cannot be kept"
        fault = self._sensor(telemetry)
        watts = telemetry.highest_w
        if fault is None and self._sensor_fault is not None and watts is None:
            return self._sensor_fault  # until a reading that can be believed
        self._sensor_fault = fault
        return fault

    def _sensor(self, telemetry: Telemetry) -> str | None:
        """What is wrong with the sensor, as far as this telemetry tells."""
        if not telemetry.valid:
            return "the power meter fails"
        watts = telemetry.highest_w
        if watts is not None:
            if not math.isfinite(watts) or watts <= 0:
                return f"the power meter reads {watts:g} W"
            self._compare(watts, telemetry.readings)
        if self._equal >= _STUCK and self._varied >= _STUCK:
            return f"the power meter is stuck at {self._last_w:.4g} W"
        limit_s = max(_STALE_S, _STALE_WINDOWS * telemetry.sensor_window_s, 3 * (telemetry.batch_s or 0.0))
        if telemetry.age_s > limit_s:
            return f"the newest power reading is {telemetry.age_s:.3g} s old"
        return None

    def _compare(self, watts: float, readings: int) -> None:
        if self._last_w == watts:
            self._equal += max(readings, 1)
        else:
            self._varied = min(self._varied + 1, _STUCK) if self._equal < _STUCK else self._varied
            self._equal = 0
        self._last_w = watts

    def _kernels(self, telemetry: Telemetry) -> str | None:
        ran = telemetry.configuration
        if telemetry.failed and ran is not None:
            self._banned = ran.batch, telemetry.t_s + self._back_off_s
            self._back_off_s = min(2 * self._back_off_s, _LONGEST_BACK_OFF_S)
        elif self._banned is not None and telemetry.t_s >= self._banned[1]:
            self._banned = None
        if self._banned is None:
            return None
        return f"batches of {self._banned[0]} rows fail; smaller ones run"
