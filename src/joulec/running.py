"""Running an artifact: once on given inputs, timed, or for a while beneath a power cap."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulec.npz import described, read_inputs, write_outputs
from joulec.options import OptionError, check_artifact
from joulec.profiler.meters.choose import choose_meter
from joulec.runtime.drive import drive
from joulec.runtime.loading import load
from joulec.runtime.model import Model
from joulec.runtime.policies import POLICIES
from joulec.runtime.session import Session


@dataclass(frozen=True)
class RunOptions:
    """What ``joulec run`` was asked for; see its help."""

    inputs: Path | None = None
    outputs: Path | None = None
    repeat: int = 20
    print_time: bool = False
    profile: bool = False
    power_cap_w: float | None = None
    cap_file: Path | None = None
    policy: str | None = None
    cap_margin: float = 0.8
    latency_slo_s: float | None = None
    duration_s: float | None = None
    meter: str | None = None
    metrics_port: int | None = None
    clocks: str | None = None
    variant: str | None = None
    threads: int | None = None
    seed: int = 0

    @property
    def in_session(self) -> bool:
        """Whether a session drives the model."""
        return self.duration_s is not None


_TOLD_EVERY_S = 0.5


def run_artifact(path: Path, options: RunOptions, stage: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Run an artifact.

    Args:
        path: the artifact.
        options: what to do with it.
        stage: told of each stage, and during a session how far it is.

    Returns:
        ``outputs`` (shape and dtype by name) and, where asked for, ``time`` and ``profile``; or ``session`` after a
        run of a duration.

    Raises:
        ArtifactError: the artifact cannot be read.
        InputError: the inputs do not fit, or cannot be read.
        OptionError: options do not go together, or the artifact is a model.
        VariantError: the artifact has no such variant.
        MeterError, CapError: the meter or cap asked for is not to be had.
    """
    _check(options)
    check_artifact(path)
    stage("loading the artifact")
    with load(path, threads=options.threads, variant=options.variant) as model:
        given = None if options.inputs is None else read_inputs(options.inputs, model)
        if options.in_session:
            return {"session": _session(model, given, options, stage)}
        return _once(model, given, options, stage)


def _check(options: RunOptions) -> None:
    """Refuse options that would be ignored."""
    if options.in_session:
        alone = {
            "--outputs": options.outputs is not None,
            "--print-time": options.print_time,
            "--profile": options.profile,
        }
        name = next((name for name, asked in alone.items() if asked), None)
        if name is not None:
            raise OptionError(f"{name} goes with a single run, not with --duration")
        if options.policy is not None and options.policy not in POLICIES:
            raise OptionError(f"unknown policy {options.policy!r}; there are {', '.join(POLICIES)}")
        if options.clocks not in (None, "nvml"):
            raise OptionError(f"--clocks {options.clocks}: only those of a GPU, through nvml, can be set")
        if not 0 < options.cap_margin <= 1:
            raise OptionError(f"--cap-margin must lie in (0, 1], not {options.cap_margin:g}")
        return
    if options.power_cap_w is not None or options.cap_file is not None:
        raise OptionError("a power cap needs --duration: how long to run beneath it, e.g. --duration 20s")
    if options.clocks is not None:
        raise OptionError("--clocks needs --duration: clocks are chosen while requests come in")
    if options.metrics_port is not None:
        raise OptionError("--metrics-port needs --duration: a single run is over before anybody asks")
    if options.latency_slo_s is not None:
        raise OptionError("--latency-slo needs --duration: it chooses among batch sizes while requests come in")
    if options.meter is not None and not options.print_time:
        raise OptionError("--meter needs --print-time or --duration: a single run is not metered")
    if options.meter is not None and options.meter.startswith("scripted:"):
        raise OptionError("a scripted meter needs --duration: it follows the batch sizes of a session")


def _once(model: Model, given: list[Any] | None, options: RunOptions, stage: Callable[[str], None]) -> dict[str, Any]:
    smallest = model.batch_sizes[0]
    arrays = given or model.random_inputs(smallest, options.seed)
    stage("running")
    results = model.run(arrays)
    named = dict(zip(model.output_names, results, strict=True))
    if options.outputs is not None:
        write_outputs(options.outputs, named)
    forms = {one.name: one.dtype for one in model.manifest.outputs}
    report: dict[str, Any] = {"outputs": {name: described(value, forms[name]) for name, value in named.items()}}
    if options.print_time:
        stage(f"timing {options.repeat} calls")
        report["time"] = _time(model, arrays, options)
    if options.profile:
        stage(f"timing the operators of {options.repeat} calls")
        report["profile"] = _profile(model, arrays, options)
    return report


def _fitting(model: Model, arrays: list[Any]) -> tuple[int, list[Any] | None]:
    """The batch size that the arrays have exactly, with them; else the smallest, for which random ones are made."""
    if model.manifest.parts is not None:
        return model.batch_sizes[0], arrays
    shapes = [array.shape for array in arrays]
    fitting = (e.batch for e in model.manifest.entries if [tensor.shape for tensor in e.inputs] == shapes)
    fits = next(fitting, None)
    return (model.batch_sizes[0], None) if fits is None else (fits, arrays)


def _profile(model: Model, arrays: list[Any], options: RunOptions) -> dict[str, Any]:
    batch, given = _fitting(model, arrays)
    try:
        steps = model.profile(batch, repeats=options.repeat, seed=options.seed, inputs=given)
    except RuntimeError as error:
        raise OptionError(f"--profile: {error}") from error
    listed = [
        {
            "node": step.assigned and step.assigned.node,
            "operator": step.assigned and step.assigned.operator,
            "algorithm": step.algorithm,
            "function": step.function,
            "time_s": step.time_s,
            "predicted_s": step.assigned and step.assigned.time_s,
            "flops": step.assigned and step.assigned.flops,
            "dram_bytes": step.assigned and step.assigned.dram_bytes,
        }
        for step in steps
    ]
    return {"batch": batch, "calls": options.repeat, "time_s": sum(step.time_s for step in steps), "steps": listed}


def _time(model: Model, arrays: list[Any], options: RunOptions) -> dict[str, Any]:
    batch, given = _fitting(model, arrays)
    chosen = choose_meter(options.meter or "auto", device_kind=model.device_kind, threads=model.threads)
    try:
        timing = model.time(batch, repeats=options.repeat, seed=options.seed, meter=chosen.meter, inputs=given)
    finally:
        chosen.meter.close()
    return {
        "batch": batch,
        "variant": model.entry(batch).variant,
        "time_s": timing.budget.time_s,
        "mean_s": timing.mean_s,
        "median_s": timing.median_s,
        "min_s": timing.min_s,
        "calls": timing.calls,
        "windows": timing.windows,
        "spread": timing.spread,
        "energy_j": timing.budget.energy_j,
        "energy_source": timing.budget.energy_source,
    }


def _session(
    model: Model, given: list[Any] | None, options: RunOptions, stage: Callable[[str], None]
) -> dict[str, Any]:
    assert options.duration_s is not None
    begun_s = told_s = time.monotonic()

    def tell(session: Session) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s >= _TOLD_EVERY_S:
            told_s = now_s
            stage(f"running, {now_s - begun_s:.0f} of {options.duration_s:.0f} s")

    stage("running")
    clocks = options.clocks or ("nvml" if options.policy == "dvfs" and options.meter == "nvml" else None)
    cap = options.cap_file if options.cap_file is not None else options.power_cap_w
    result = drive(
        model,
        duration_s=options.duration_s,
        inputs=given,
        seed=options.seed,
        power_cap_w=cap,
        meter=options.meter,
        policy=options.policy,
        clocks=clocks,
        cap_margin=options.cap_margin,
        latency_slo_s=options.latency_slo_s,
        metrics_port=options.metrics_port,
        each=tell,
    )
    return result.to_json()
