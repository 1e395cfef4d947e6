"""What the policies reach on the paper's twenty jobs and on devices drawn from a seed; how long a decision takes.

python tests/benchmarks/bench_policies.py [--devices 200] [--seed 9] [--processes 2]
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Sequence

import numpy as np

from joulec.runtime.policies import PolicyOptions, make_policy
from joulec.runtime.simulator.generator import draw_job
from joulec.runtime.simulator.jobs import paper_jobs, prior
from joulec.runtime.simulator.simulation import Simulation
from joulec.runtime.simulator.suite import Result, run_jobs


def shares(results: Sequence[Result]) -> np.ndarray:
    return np.array([r.outcome.throughput / max(r.oracle_throughput, 1e-9) for r in results])


def line(label: str, values: np.ndarray, bound: float) -> None:
    if len(values):
        print(
            f"{label:58s} n {len(values):3d}  mean {values.mean():.4f}  median {np.median(values):.4f}  "
            f"least {values.min():.4f}  within {np.mean(values >= bound):.3f}  (wanted {bound})"
        )


def report(title: str, results: Sequence[Result]) -> None:
    print(f"\n{title}")
    frontier = [r for r in results if r.policy == "frontier"]
    steady, changing = [r for r in frontier if r.steady], [r for r in frontier if not r.steady]
    line("frontier of the oracle, steady", shares(steady), 0.97)
    line("frontier of the oracle, caps or loads that change", shares(changing), 0.93)
    if steady:
        above = np.array([r.outcome.seconds_above_cap / r.outcome.seconds for r in steady])
        print(
            f"{'frontier: share of time above the cap, steady':58s} mean {above.mean():.5f}  most {above.max():.5f}  "
            f"within {np.mean(above <= 0.005):.3f}  (wanted at most 0.005)"
        )
    drops = sum(r.drops for r in frontier)
    if drops:
        late = [f"{r.job}: {r.late_drops}" for r in frontier if r.late_drops]
        print(f"frontier: cap drops {drops}, late {sum(r.late_drops for r in frontier)} {late}")
    windowed = [r for r in results if r.policy == "windowed" and r.fixed_throughput > 0]
    line(
        "windowed of the best fixed batch size, steady",
        np.array([r.outcome.throughput / r.fixed_throughput for r in windowed if r.steady]),
        0.95,
    )
    line(
        "windowed of the best fixed batch size, caps or loads that change",
        np.array([r.outcome.throughput / r.fixed_throughput for r in windowed if not r.steady]),
        0.95,
    )
    changes = {r.job: round(r.outcome.last_change_s) for r in windowed if r.steady and r.outcome.last_change_s > 60}
    print(f"windowed: steady jobs with a change of batch size after 60 s: {len(changes)}; the last at (s): {changes}")
    for name in dict.fromkeys(r.policy for r in results):
        mean = np.mean([r.outcome.throughput for r in results if r.policy == name])
        print(f"{name}: mean throughput {mean:.1f} rows/s")
    worst = sorted(frontier, key=lambda r: r.outcome.throughput / max(r.oracle_throughput, 1e-9))[:6]
    print("least of frontier:", [(r.job, round(float(shares([r])[0]), 3)) for r in worst])


def decisions() -> None:
    """How long a step takes. The collector of garbage is off: what it walks over is the simulation's."""
    print("\ndecisions (microseconds)")
    gc.disable()
    job = paper_jobs()[12]
    for name in ("paper", "windowed", "frontier", "dvfs"):
        policy = make_policy(name, job.device.space, PolicyOptions(predictions=prior(job.device, 1)))
        inner, times = policy.step, []

        def timed(telemetry, cap_w, inner=inner, times=times):
            start = time.perf_counter()
            decision = inner(telemetry, cap_w)
            times.append(time.perf_counter() - start)
            return decision

        policy.step = timed
        Simulation(job.device, job.cap_w, seed=1).run(policy, 600.0)
        micros = np.array(times) * 1e6
        print(
            f"{name:10s} n {len(micros):5d}  mean {micros.mean():6.1f}  median {np.median(micros):6.1f}  "
            f"p99 {np.percentile(micros, 99):6.1f}"
        )
    gc.enable()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=("decisions", "jobs", "devices"), help="one part alone")
    options = parser.parse_args()
    if options.only in (None, "decisions"):
        decisions()
    if options.only in (None, "jobs"):
        paper = list(run_jobs(paper_jobs(), seed=options.seed, processes=options.processes))
        report("the paper's twenty jobs (a model of its card)", paper)
    if options.only in (None, "devices"):
        start = time.perf_counter()
        jobs = [draw_job(options.seed * 100_000 + number) for number in range(options.devices)]
        drawn = list(run_jobs(jobs, ("windowed", "frontier"), seed=options.seed, processes=options.processes))
        report(f"{options.devices} devices drawn from seed {options.seed}", drawn)
        print(f"{time.perf_counter() - start:.0f} s for {options.devices} devices")


if __name__ == "__main__":
    main()
