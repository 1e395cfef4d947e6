"""Running an artifact: once on given inputs, timed, or for a while beneath a power cap."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from joulec.options import OptionError
from joulec.profiler.meters.choose import choose_meter
from joulec.runtime.drive import drive
from joulec.runtime.inputs import InputError
from joulec.runtime.model import Model, load

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RunOptions:
    """What ``joulec run`` was asked for; see its help."""

    inputs: Path | None = None
    outputs: Path | None = None
    repeat: int = 20
    print_time: bool = False
    power_cap_w: float | None = None
    cap_file: Path | None = None
    policy: str = "paper"
    cap_margin: float = 0.8
    latency_slo_s: float | None = None
    duration_s: float | None = None
    meter: str | None = None
    threads: int | None = None
    seed: int = 0

    @property
    def in_session(self) -> bool:
        """Whether a session drives the model."""
        return self.duration_s is not None


def run_artifact(path: Path, options: RunOptions) -> dict[str, Any]:
    """Run an artifact.

    Returns:
        ``outputs`` (shape and dtype by name) and, where asked for, ``time``; or ``session`` after a run of a duration.

    Raises:
        ArtifactError: the artifact cannot be read.
        InputError: the inputs do not fit, or cannot be read.
        OptionError: options do not go together.
        MeterError, CapError: the meter or cap asked for is not to be had.
    """
    capped = options.power_cap_w is not None or options.cap_file is not None
    if capped and not options.in_session:
        raise OptionError("a power cap needs --duration: how long to run beneath it, e.g. --duration 20s")
    if options.in_session and options.outputs is not None:
        raise OptionError("--outputs goes with a single run, not with --duration")
    with load(path, threads=options.threads) as model:
        given = None if options.inputs is None else _read_inputs(options.inputs, model)
        if options.in_session:
            return {"session": _session(model, given, options)}
        return _once(model, given, options)


def _once(model: Model, given: list[_Array] | None, options: RunOptions) -> dict[str, Any]:
    smallest = model.batch_sizes[0]
    arrays = given or model.random_inputs(smallest, options.seed)
    results = model.run(arrays)
    named = dict(zip(model.output_names, results, strict=True))
    if options.outputs is not None:
        _write_outputs(options.outputs, named)
    report: dict[str, Any] = {
        "outputs": {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in named.items()}
    }
    if options.print_time:
        report["time"] = _time(model, arrays, options)
    return report


def _time(model: Model, arrays: list[_Array], options: RunOptions) -> dict[str, Any]:
    rows = arrays[0].shape[0] if model.batched and arrays else None
    batch = rows if rows in model.batch_sizes and rows is not None else model.batch_sizes[0]
    chosen = choose_meter(options.meter or "auto", threads=model.threads)
    try:
        timing = model.time(batch, repeats=options.repeat, seed=options.seed, meter=chosen.meter)
    finally:
        chosen.meter.close()
    return {
        "batch": batch,
        "mean_s": timing.mean_s,
        "median_s": timing.median_s,
        "min_s": timing.min_s,
        "calls": timing.calls,
        "energy_j": timing.budget.energy_j,
        "energy_source": timing.budget.energy_source,
    }


def _session(model: Model, given: list[_Array] | None, options: RunOptions) -> dict[str, Any]:
    assert options.duration_s is not None
    cap = options.cap_file if options.cap_file is not None else options.power_cap_w
    result = drive(
        model,
        duration_s=options.duration_s,
        inputs=given,
        seed=options.seed,
        power_cap_w=cap,
        meter=options.meter,
        policy=options.policy,
        cap_margin=options.cap_margin,
        latency_slo_s=options.latency_slo_s,
    )
    return result.to_json()


def _read_inputs(path: Path, model: Model) -> list[_Array]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(
            f"cannot read inputs from {path}: {error}; write them with numpy.savez(path, name=array)"
        ) from error
    missing = [name for name in model.input_names if name not in found]
    if missing:
        raise InputError(
            f"{path} lacks the input {missing[0]!r}; it holds {', '.join(found) or 'nothing'}, "
            f"the model takes {', '.join(model.input_names)}"
        )
    return [np.ascontiguousarray(found[name]) for name in model.input_names]


def _write_outputs(path: Path, named: dict[str, _Array]) -> None:
    try:
        with path.open("wb") as file:
            np.savez(file, **named)  # type: ignore[arg-type]
    except OSError as error:
        raise OptionError(f"cannot write outputs to {path}: {error.strerror}") from error
