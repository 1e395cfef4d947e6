"""A simulated device: how long a batch takes and what it draws, by configuration. `docs/policies.md` has the format."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

from joulec.runtime.policies.protocol import Configuration, Space

_T = TypeVar("_T")
Phase = tuple[float, float]
"""Seconds and watts."""


class DeviceError(ValueError):
    """A device file that cannot be read or does not describe a device."""


@dataclass(frozen=True)
class Curve:
    """A share in (0, 1] by batch size: ``b / (b + half_batch)``, or straight lines between points over log2 of b."""

    half_batch: float = 0.0
    points: tuple[tuple[float, float], ...] = ()

    def at(self, batch: int) -> float:
        if not self.points:
            return batch / (batch + self.half_batch)
        points = self.points
        if batch <= points[0][0]:
            return points[0][1]
        for (low, first), (high, second) in pairwise(points):
            if batch <= high:
                share = math.log2(batch / low) / math.log2(high / low)
                return first + (second - first) * share
        return points[-1][1]


@dataclass(frozen=True)
class Time:
    """Seconds of a batch: ``overhead_s + preparation_s b + work_s b / efficiency(b) (clock_share f_max/f + rest)``."""

    work_s: float
    overhead_s: float = 0.0
    preparation_s: float = 0.0
    clock_share: float = 0.9
    efficiency: Curve = Curve()


@dataclass(frozen=True)
class Power:
    """Watts: ``idle_w`` at rest, ``preparation_w`` while a batch is prepared (transfers and launches), and while it
    computes ``idle_w + (full_w - idle_w) load(b) (f / f_max)^clock_exponent``. Beyond ``max_w`` the device slows down.
    """

    idle_w: float
    full_w: float
    max_w: float
    preparation_w: float = 0.0
    clock_exponent: float = 2.0
    load: Curve = Curve()


@dataclass(frozen=True)
class Variant:
    """A compiled variant: factors on computing time and on power above idle."""

    time: float = 1.0
    power: float = 1.0


@dataclass(frozen=True)
class Temperature:
    """Power grows by ``leakage_per_k`` per kelvin above ambient; the device warms by ``kelvin_per_w`` in the end."""

    kelvin_per_w: float = 0.0
    time_constant_s: float = 60.0
    leakage_per_k: float = 0.0


@dataclass(frozen=True)
class Noise:
    """Standard deviations, as shares: of a batch's time, of true power between readings, and of a reading."""

    time: float = 0.0
    power: float = 0.0
    sensor: float = 0.0


@dataclass(frozen=True)
class Spikes:
    """The first ``share`` of computing draws ``height`` more than its mean (a share of it), the rest less."""

    share: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Sensor:
    """Every ``period_s`` a reading: the mean of the last ``duty`` of a window of ``window_s``, ``delay_s`` later."""

    period_s: float = 0.1
    window_s: float = 0.1
    duty: float = 1.0
    delay_s: float = 0.0


@dataclass(frozen=True)
class Fault:
    """From ``start_s`` to ``end_s``: readings fail (``error``, ``nan``), repeat (``stuck``) or come ``delay_s`` late
    (``delayed``), or batches of ``batch`` rows and more fail (``kernel``)."""

    kind: Literal["error", "nan", "stuck", "delayed", "kernel"]
    start_s: float
    end_s: float
    delay_s: float = 5.0
    batch: int = 1

    def at(self, t_s: float) -> bool:
        return self.start_s <= t_s < self.end_s


@dataclass(frozen=True)
class Device:
    """All of the above. Clocks in hertz, ascending."""

    name: str
    time: Time
    power: Power
    batches: tuple[int, ...]
    clocks_hz: tuple[float, ...]
    variants: tuple[Variant, ...] = (Variant(),)
    temperature: Temperature = Temperature()
    noise: Noise = Noise()
    spikes: Spikes = Spikes()
    sensor: Sensor = Sensor()
    clock_switch_s: float = 0.01
    faults: tuple[Fault, ...] = field(default=())

    @property
    def space(self) -> Space:
        """The knobs."""
        return Space(self.batches, tuple(range(len(self.variants))), self.clocks_hz)

    def phases(self, configuration: Configuration) -> tuple[Phase, Phase, Phase]:
        """A batch's preparation, spike and remainder, when the device is cold: seconds and watts."""
        variant = self.variants[int(configuration.variant)]
        batch, time, power = configuration.batch, self.time, self.power
        clock = (configuration.clock_hz or self.clocks_hz[-1]) / self.clocks_hz[-1]
        slowdown = time.clock_share / clock + 1 - time.clock_share
        busy_s = time.work_s * batch / time.efficiency.at(batch) * slowdown * variant.time
        dynamic_w = (power.full_w - power.idle_w) * power.load.at(batch) * clock**power.clock_exponent * variant.power
        busy_w = power.idle_w + dynamic_w
        if busy_w > power.max_w:
            busy_s, busy_w = busy_s * busy_w / power.max_w, power.max_w
        share, height = self.spikes.share, self.spikes.height
        rest_w = busy_w * (1 - height * share / (1 - share)) if share else busy_w
        preparation_s = time.overhead_s + time.preparation_s * batch
        preparation_w = max(power.preparation_w, power.idle_w)
        return (preparation_s, preparation_w), (share * busy_s, busy_w * (1 + height)), ((1 - share) * busy_s, rest_w)

    def batch_s(self, configuration: Configuration) -> float:
        """Seconds of a batch, without noise."""
        return sum(seconds for seconds, _ in self.phases(configuration))

    def mean_w(self, configuration: Configuration) -> float:
        """Mean watts of a batch, when the device is cold."""
        phases = self.phases(configuration)
        return sum(seconds * watts for seconds, watts in phases) / sum(seconds for seconds, _ in phases)

    def window_w(self, configuration: Configuration) -> float:
        """Highest mean watts over a sensor window while batches run back to back, when the device is cold."""
        phases, window_s = self.phases(configuration), self.sensor.window_s
        whole_s = sum(seconds for seconds, _ in phases)
        edges = [0.0, phases[0][0], phases[0][0] + phases[1][0]]

        def energy_j(t_s: float) -> float:
            periods, left_s = divmod(t_s, whole_s)
            joules = periods * sum(seconds * watts for seconds, watts in phases)
            for seconds, watts in phases:
                part_s = min(left_s, seconds)
                joules, left_s = joules + part_s * watts, left_s - part_s
            return joules

        starts = [*edges] + [(edge - window_s) % whole_s for edge in edges]
        return max(energy_j(start + window_s) - energy_j(start) for start in starts) / window_s


def _table(kind: type[_T], data: Any, where: str) -> _T:
    """A dataclass from a TOML table; unknown keys and what is not a number are refused."""
    if not isinstance(data, dict):
        raise DeviceError(f"{where} must be a table")
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise DeviceError(f"{where} has no field {key!r}; there are {', '.join(known)}")
        if known[key].type == "Curve":
            values[key] = _curve(value, f"{where}.{key}")
        elif key == "kind":
            if value not in ("error", "nan", "stuck", "delayed", "kernel"):
                raise DeviceError(f"{where}.kind must be error, nan, stuck, delayed or kernel, not {value!r}")
            values[key] = value
        else:
            values[key] = _number(value, f"{where}.{key}")
    try:
        return kind(**values)
    except TypeError:
        lacking = ("work_s", "idle_w", "full_w", "max_w", "kind", "start_s", "end_s")
        missing = [name for name in lacking if name in known and name not in values]
        raise DeviceError(f"{where} lacks {', '.join(missing)}") from None


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise DeviceError(f"{where} must be a number from 0 up, not {value!r}")
    return value


def _curve(value: Any, where: str) -> Curve:
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in ("half_batch", "points"):
        raise DeviceError(f"{where} must be {{half_batch = N}} or {{points = [[batch, share], …]}}")
    if "half_batch" in value:
        return Curve(_number(value["half_batch"], where))
    try:
        points = tuple((float(batch), float(share)) for batch, share in value["points"])
    except (TypeError, ValueError):
        raise DeviceError(f"{where}.points must be pairs of batch size and share") from None
    batches = [batch for batch, _ in points]
    if (
        not points
        or batches != sorted(set(batches))
        or batches[0] < 1
        or any(not 0 < share <= 1 for _, share in points)
    ):
        raise DeviceError(f"{where}.points must ascend in batch size, with shares in (0, 1]")
    return Curve(points=points)


def read_device(path: str | Path) -> Device:
    """A device from its file.

    Raises:
        DeviceError: the file cannot be read, or says something impossible; the message has the place.
    """
    file = Path(path)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(f"cannot read the device {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise DeviceError(f"the device {file} is no TOML: {error}") from error
    try:
        return _device(data, file.stem)
    except DeviceError as error:
        raise DeviceError(f"{file}: {error}") from None


def _device(data: dict[str, Any], name: str) -> Device:
    scalars = {"name", "batches", "clocks_mhz", "clock_switch_s"}
    tables = {
        "time": Time, "power": Power, "temperature": Temperature, "noise": Noise, "spikes": Spikes, "sensor": Sensor,
    }  # fmt: skip
    unknown = set(data) - scalars - set(tables) - {"variants", "faults"}
    if unknown:
        raise DeviceError(f"there is no {sorted(unknown)[0]!r} in a device")
    for needed in ("batches", "time", "power"):
        if needed not in data:
            raise DeviceError(f"it lacks {needed!r}")
    batches = data["batches"]
    if not isinstance(batches, list) or not batches or any(type(size) is not int or size < 1 for size in batches):
        raise DeviceError("batches must be whole numbers from 1 up")
    clocks = data.get("clocks_mhz", [1000])
    if not isinstance(clocks, list) or not clocks or any(not _number(clock, "clocks_mhz") > 0 for clock in clocks):
        raise DeviceError("clocks_mhz must be numbers above 0")
    parts: dict[str, Any] = {key: _table(kind, data[key], key) for key, kind in tables.items() if key in data}
    listed = [_table(Variant, item, f"variants[{i}]") for i, item in enumerate(data.get("variants", [{}]))]
    faults = [_table(Fault, item, f"faults[{i}]") for i, item in enumerate(data.get("faults", []))]
    device = Device(
        name=str(data.get("name", name)),
        batches=tuple(sorted(set(batches))),
        clocks_hz=tuple(sorted({clock * 1e6 for clock in clocks})),
        variants=tuple(listed) or (Variant(),),
        faults=tuple(faults),
        clock_switch_s=_number(data.get("clock_switch_s", 0.01), "clock_switch_s"),
        **parts,
    )
    _check(device)
    return device


def _check(device: Device) -> None:
    if not device.time.work_s > 0 or any(not item.time > 0 for item in device.variants):
        raise DeviceError("time.work_s and the variants' time must be above 0")
    if not device.power.idle_w <= device.power.full_w or not device.power.max_w > 0:
        raise DeviceError("power must have idle_w <= full_w, and max_w above 0")
    if not device.sensor.period_s > 0 or not device.sensor.window_s > 0 or not 0 < device.sensor.duty <= 1:
        raise DeviceError("the sensor needs a period and a window above 0, and a duty in (0, 1]")
    if not device.spikes.share < 1 or device.spikes.height * device.spikes.share > 1 - device.spikes.share:
        raise DeviceError("spikes need a share below 1 and must leave the rest of a batch above 0 W")
    if not device.time.clock_share <= 1 or not device.temperature.time_constant_s > 0:
        raise DeviceError("time.clock_share must lie in [0, 1], temperature.time_constant_s above 0")
