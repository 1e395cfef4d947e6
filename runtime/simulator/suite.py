"""Policies on many jobs, each against the same oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from joulec.runtime.policies import PolicyOptions, make_policy
from joulec.runtime.simulator.jobs import Job, prior
from joulec.runtime.simulator.oracle import fixed_throughput, oracle_throughput
from joulec.runtime.simulator.simulation import Outcome, Simulation

SIMULATED_POLICIES = ("paper", "windowed", "frontier", "dvfs")
JOB_SECONDS = 600.0


@dataclass(frozen=True)
class Result:
    """One policy on one job.

    Attributes:
        job: its name.
        policy: its name.
        outcome: what was reached.
        oracle_throughput: rows per second of the best over all knobs, the cap and the device known.
        fixed_throughput: rows per second of the best fixed batch size that keeps to the cap; 0 where none does.
        late_drops: falls of the cap after which power was above it for longer than two sensor windows and the batch in
            flight, though some configuration fitted.
        drops: falls of the cap.
        steady: whether neither cap nor load changed.
    """

    job: str
    policy: str
    outcome: Outcome
    oracle_throughput: float
    fixed_throughput: float
    late_drops: int
    drops: int
    steady: bool

    def to_json(self) -> dict[str, float | int | str]:
        """A JSON-able mapping."""
        return {
            "job": self.job,
            "policy": self.policy,
            "throughput": self.outcome.throughput,
            "oracle_throughput": self.oracle_throughput,
            "seconds_above_cap": self.outcome.seconds_above_cap,
            "seconds": self.outcome.seconds,
            "mean_batch": self.outcome.mean_batch,
            "batch_changes": self.outcome.batch_changes,
        }


def run_job(
    job: Job,
    policies: Sequence[str] = SIMULATED_POLICIES,
    *,
    seed: int = 0,
    duration_s: float = JOB_SECONDS,
    latency_slo_s: float | None = None,
) -> list[Result]:
    """Run policies on a job. Noise and the errors of the prior come from the seed."""
    best = oracle_throughput(job.device, job.cap_w, duration_s, arrivals=job.arrivals, latency_slo_s=latency_slo_s)
    fixed = fixed_throughput(job.device, job.cap_w, duration_s, arrivals=job.arrivals)
    results = []
    for name in policies:
        options = PolicyOptions(predictions=prior(job.device, seed + 1), latency_slo_s=latency_slo_s)
        policy = make_policy(name, job.device.space, options)
        outcome = Simulation(job.device, job.cap_w, job.arrivals, seed=seed).run(policy, duration_s)
        late, drops = _drops(job, outcome, duration_s)
        results.append(Result(job.name, name, outcome, best, fixed, late, drops, job.steady))
    return results


def run_jobs(
    jobs: Iterable[Job], policies: Sequence[str] = SIMULATED_POLICIES, *, seed: int = 0, processes: int = 1
) -> Iterator[Result]:
    """Run policies on jobs, in order; each job has noise of its own."""
    numbered = [(job, seed + 1000 * number) for number, job in enumerate(jobs)]
    work: Callable[[tuple[Job, int]], list[Result]] = partial(_run_numbered, tuple(policies))
    if processes == 1:
        for item in numbered:
            yield from work(item)
        return
    with ProcessPoolExecutor(processes) as pool:
        for results in pool.map(work, numbered):
            yield from results


def _run_numbered(policies: tuple[str, ...], item: tuple[Job, int]) -> list[Result]:
    return run_job(item[0], policies, seed=item[1])


def _drops(job: Job, outcome: Outcome, duration_s: float) -> tuple[int, int]:
    """Falls of the cap, and those after which power stayed above for too long.

    Judged where some configuration fits a hot device, and the cap holds long enough to tell.
    """
    device, cap = job.device, job.cap_w
    least_w = min(device.window_w(item) for item in device.space)
    hot = 1 + device.temperature.leakage_per_k * device.temperature.kelvin_per_w * device.power.full_w
    late = drops = 0
    for index in range(1, len(cap.times_s)):
        t_s, value = cap.times_s[index], cap.values[index]
        if value >= cap.values[index - 1] or least_w * hot > value or t_s >= duration_s:
            continue
        until_s = cap.times_s[index + 1] if index + 1 < len(cap.times_s) else duration_s
        flying = [step for step in outcome.timeline if step.t_s <= t_s < step.t_s + step.seconds]
        batch_s = max((device.batch_s(step.configuration) for step in flying), default=0.0)
        due_s = t_s + batch_s * (1 + 4 * device.noise.time) + 2 * device.sensor.window_s + outcome.grid_s
        drops += 1
        late += any(due_s < moment <= min(due_s + device.sensor.window_s, until_s) for moment in outcome.above)
    return late, drops
