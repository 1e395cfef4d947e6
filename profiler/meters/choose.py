"""Which meter to use, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from joulec.profiler.cpu import cpu_facts, default_threads
from joulec.profiler.meter import Meter, MeterError
from joulec.profiler.meters.estimate import EstimateMeter, load_constants
from joulec.profiler.meters.rapl import POWERCAP_ROOT, RaplMeter
from joulec.profiler.meters.recorded import RecordingMeter, ReplayMeter, start_recording
from joulec.profiler.meters.zeus import ZeusMeter
from joulec.profiler.patience import answered

if TYPE_CHECKING:
    from joulec.profiler.meters.nvml_check import SensorChoice

DeviceKind = Literal["cpu", "cuda"]

_OPENING_S = 30.0
"""The check of a GPU's sensors takes six seconds at most, where its load is not steady."""
_SENSORS = {"cpu": "rapl", "cuda": "nvml"}


@dataclass(frozen=True)
class ChosenMeter:
    """A meter, opened, with the reason for it.

    Attributes:
        meter: ready to use; the caller closes it.
        why: one sentence for the user.
        factory: opens the same meter again in another process (it can be pickled); the harness takes it.
    """

    meter: Meter
    why: str
    factory: Callable[[], Meter]


def choose_meter(
    name: str = "auto",
    *,
    device_kind: DeviceKind = "cpu",
    index: int = 0,
    threads: int | None = None,
    rapl_root: Path = POWERCAP_ROOT,
    constants_file: Path | None = None,
    check_gpu: Callable[[int], SensorChoice] | None = None,
) -> ChosenMeter:
    """Open the meter named, or for ``auto`` the device's sensor where it can be read and else the estimate.

    Args:
        name: ``auto``, ``nvml``, ``rapl``, ``zeus`` (AMD, Apple, Jetson), ``estimate``, ``record:FILE`` (what ``auto``
            finds, recorded) or ``replay:FILE``.
        device_kind: what is to be measured; RAPL sees CPUs alone, NVML sees GPUs alone.
        index: which GPU.
        threads: busy threads, for the estimate; all that the process may use when omitted.
        rapl_root: where the powercap tree is.
        constants_file: constants of the estimate in place of the shipped ones (`load_constants`).
        check_gpu: finds the GPU sensor to trust; `check_sensors`, which takes two seconds, when omitted.

    Raises:
        MeterError: a meter named is unknown, does not measure this kind of device, is not there, or needs no constants.
    """
    if constants_file is not None and name.partition(":")[0] in ("nvml", "rapl", "zeus", "replay"):
        raise MeterError(f"--energy-constants is for the estimate, --meter {name} needs none: leave one of both out")
    kind, _, file = name.partition(":")
    if kind in ("record", "replay"):
        if not file:
            raise MeterError(f"--meter {kind} needs a file: {kind}:FILE")
        if kind == "replay":
            replay = partial(ReplayMeter, Path(file))
            return ChosenMeter(replay(), f"replay: windows recorded in {file}", replay)
        inner = choose_meter(
            device_kind=device_kind, index=index, threads=threads, rapl_root=rapl_root,
            constants_file=constants_file, check_gpu=check_gpu,
        )  # fmt: skip
        start_recording(Path(file), inner.meter)
        recording = partial(_recording, inner.factory, Path(file))
        return ChosenMeter(RecordingMeter(inner.meter, Path(file)), f"{inner.why}; recorded in {file}", recording)
    if name == "zeus":
        zeus = partial(ZeusMeter, index)
        return ChosenMeter(zeus(), "zeus: asked for", zeus)
    if name not in ("auto", "nvml", "rapl", "estimate"):
        known = "auto, nvml, rapl, zeus, estimate, record:FILE or replay:FILE"
        raise MeterError(f"there is no meter `{name}`; choose {known}")
    sensor = _SENSORS[device_kind]
    if name in ("nvml", "rapl") and name != sensor:
        raise MeterError(f"the meter {name} does not measure a {device_kind} target; choose auto, {sensor} or estimate")
    missing = ""
    if name != "estimate":
        try:
            factory, which = answered(lambda: _sensor_factory(sensor, index, rapl_root, check_gpu), sensor, _OPENING_S)
            meter = answered(factory, sensor, _OPENING_S)
        except MeterError as error:
            if name != "auto":
                raise
            missing = str(error)
        else:
            why = "asked for" if name == sensor else f"the {device_kind} target has a readable {sensor.upper()} sensor"
            return ChosenMeter(meter, f"{sensor}: {why}{which}", factory)
    isa = "cuda" if device_kind == "cuda" else cpu_facts().isa
    constants = load_constants(isa, threads or default_threads(), constants_file)
    estimate = partial(EstimateMeter, constants)
    whose = "orders of magnitude" if constants_file is None else f"of {constants_file}"
    why = f"estimate ({constants.target_class} constants, {whose})"
    return ChosenMeter(estimate(), f"{why}: {missing or 'asked for'}", estimate)


def _recording(factory: Callable[[], Meter], file: Path) -> Meter:
    return RecordingMeter(factory(), file)


def _sensor_factory(
    sensor: str, index: int, rapl_root: Path, check_gpu: Callable[[int], SensorChoice] | None
) -> tuple[Callable[[], Meter], str]:
    """What opens the sensor, and what is to be said of it."""
    if sensor == "rapl":
        return partial(RaplMeter, rapl_root), ""
    from joulec.profiler.meters.nvml import NvmlMeter  # costs 0.1 s to import: only where a GPU is the target
    from joulec.profiler.meters.nvml_check import check_sensors

    choice = (check_gpu or check_sensors)(index)
    return partial(NvmlMeter, index, sensor=choice.sensor), f"; {choice.why}"
