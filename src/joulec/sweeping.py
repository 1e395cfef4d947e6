"""The driver of ``joulec sweep``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from joulec.options import OptionError, check_artifact
from joulec.profiler.meter import Meter, Occupied
from joulec.profiler.meters.choose import choose_meter
from joulec.profiler.power import idle_power_w
from joulec.runtime.loading import load
from joulec.runtime.manifest import EntryKey
from joulec.runtime.model import Model
from joulec.runtime.scripted import read_script
from joulec.runtime.sweep import CpuUtilization, sweep_size
from joulec.runtime.variant import check_variants

_WARM_UP_S = 0.2


@dataclass(frozen=True)
class SweepOptions:
    """What ``joulec sweep`` was asked for; see its help."""

    batch_sizes: Sequence[int] | None = None
    trace: Sequence[int] = ()
    variants: Sequence[str] | None = None
    duration_s: float = 3.0
    meter: str = "auto"
    threads: int | None = None
    seed: int = 0


def sweep_artifact(
    path: Path, options: SweepOptions, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Run an artifact's batch sizes one after another.

    Returns:
        ``meter``, ``power_source``, ``idle_power_w``, ``sizes`` (one mapping for each batch size and variant) and
        ``traces`` by batch size, or by ``8 frugal`` where there are variants.

    Raises:
        ArtifactError: the artifact cannot be read.
        OptionError: a batch size asked for was not compiled.
        VariantError: a variant asked for was not.
        MeterError: the meter asked for is not to be had, or failed.
    """
    check_artifact(path)
    with load(path, threads=options.threads) as model:
        sizes = _known(model, options.batch_sizes or model.batch_sizes, "--batch-sizes")
        traced = _known(model, options.trace, "--trace")
        check_variants(model.variants, options.variants or ())
        meter, why = _meter(options.meter, model)
        try:
            return _sweep(model, sorted({*sizes, *traced}), traced, meter, why, options, progress)
        finally:
            meter.close()


def _known(model: Model, sizes: Sequence[int], option: str) -> list[int]:
    for size in sizes:
        if size not in model.batch_sizes:
            compiled = ", ".join(map(str, model.batch_sizes))
            raise OptionError(f"{option}: batch size {size} was not compiled; there are {compiled}")
    return sorted(set(sizes))


def _entries(model: Model, sizes: Sequence[int], variants: Sequence[str] | None) -> list[EntryKey]:
    """What is run: each batch size in each of its own variants that were asked for, from fast to frugal."""
    wanted = model.variants if variants is None else [name for name in model.variants if name in variants]
    if not wanted:
        return [(size, None) for size in sizes]
    return [(size, name) for size in sizes for name in wanted if model.entry(size, name).variant == name]


def _meter(name: str, model: Model) -> tuple[Meter, str]:
    if name.startswith("scripted:"):
        return read_script(name.removeprefix("scripted:")), f"simulated: {name}"
    chosen = choose_meter(name, device_kind=model.device_kind, threads=model.threads)
    return chosen.meter, chosen.why


def _sweep(
    model: Model,
    sizes: Sequence[int],
    traced: Sequence[int],
    meter: Meter,
    why: str,
    options: SweepOptions,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    idle_w = idle_power_w(meter)
    utilization = meter.utilization if isinstance(meter, Occupied) else CpuUtilization()
    found, traces = [], {}
    for size, variant in _entries(model, sizes, options.variants):
        name = f"{size}" if variant is None else f"{size} {variant}"
        progress(f"batch size {name}")
        call = partial(model.run_batch, size, model.random_inputs(size, options.seed), variant)
        warm_s = time.perf_counter() + _WARM_UP_S
        call()
        while time.perf_counter() < warm_s:
            call()
        result = sweep_size(
            call,
            size,
            meter,
            variant=variant,
            duration_s=options.duration_s,
            work=model.work(size, variant),
            utilization=utilization,
        )
        row = asdict(result)
        slots = row.pop("slots")
        found.append(row)
        if size in traced:
            traces[name] = slots
    return {"meter": why, "power_source": meter.source, "idle_power_w": idle_w, "sizes": found, "traces": traces}
