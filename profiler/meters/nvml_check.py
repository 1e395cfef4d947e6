"""Which of a GPU's sensors to trust: its energy counter is checked against its power readings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from joulec.profiler.meter import Every, MeterError, every_in_thread
from joulec.profiler.meters.nvml import POLL_S, NvmlMeter, Sensor, averaging
from joulec.profiler.meters.series import readings, staircase

CHECK_S = 2.0
AGREEMENT = 0.05
_ATTEMPTS = 3
_UNSTEADY = 0.1


@dataclass(frozen=True)
class SensorChoice:
    """The sensor to use, and one sentence that says why."""

    sensor: Sensor
    why: str


def check_sensors(
    index: int = 0,
    *,
    load: Callable[[float], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    every: Every = every_in_thread,
) -> SensorChoice:
    """Compare a GPU's sensors over two seconds of steady load.

    The counter is used where it agrees with the integrated power to within 5%, because it misses nothing. Where they
    differ, instant power (a third sensor) says which of the two to believe; where there is none, a counter that
    moved gives way to the readings, and one that stands still or went backwards anyway. Where the load was not steady
    (another process, a job that ended), it is tried again, three times in all.

    Args:
        index: which GPU.
        load: keeps the GPU busy for so many seconds; its present load, idle included, when omitted.
        clock: monotonic seconds.
        sleep: waits.
        every: calls a function again and again beside the load.

    Raises:
        MeterError: the GPU has no sensor that can be read.
    """
    meter = NvmlMeter(index, clock)
    try:
        sensors = _available(meter)
        if sensors == ["power"]:
            return SensorChoice("power", "power readings: this GPU has no energy counter")
        watts: dict[Sensor, float | None] = {}
        for _ in range(_ATTEMPTS):
            watts, steady = _compare(meter, sensors, load or sleep, clock, every)
            if steady:
                return _choose(watts)
        choice = _choose(watts)
        return SensorChoice(choice.sensor, f"{choice.why} (the load was not steady: the check is uncertain)")
    finally:
        meter.close()


def _available(meter: NvmlMeter) -> list[Sensor]:
    found: list[Sensor] = ["counter"] if meter.has_counter() else []
    refusal: MeterError | None = None
    for sensor in ("power", "instant"):
        try:
            meter.read(sensor)
        except MeterError as error:
            refusal = error
        else:
            found.append(sensor)
    if not found and refusal is not None:
        raise refusal
    return found


def _compare(
    meter: NvmlMeter,
    sensors: list[Sensor],
    load: Callable[[float], object],
    clock: Callable[[], float],
    every: Every,
) -> tuple[dict[Sensor, float | None], bool]:
    """Mean watts by sensor (None of a counter that did not count), and whether the load was steady."""
    samples: dict[Sensor, list[tuple[float, float]]] = {sensor: [] for sensor in sensors}
    failures: list[MeterError] = []

    def poll() -> None:
        for sensor in sensors:
            before_s = clock()
            try:
                value = meter.read(sensor)
            except MeterError as error:
                failures.append(error)
                return
            samples[sensor].append(((before_s + clock()) / 2, value))

    poll()
    start_s = clock()
    stop = every(POLL_S, poll)
    load(CHECK_S)
    stop()
    poll()
    if failures:
        raise failures[0]
    end_s = max(points[-1][0] for points in samples.values())
    watts: dict[Sensor, float | None] = {}
    steady = True
    for sensor, points in samples.items():
        if sensor == "counter":
            watts[sensor] = _counted_w(points, start_s, end_s)
            continue
        update_s, average_s = averaging(meter.capability, sensor)
        own = [value for moment, value in points if moment >= start_s + update_s + average_s]
        watts[sensor] = readings(points, start_s, end_s, update_s, average_s).joules / (end_s - start_s)
        steady = steady and max(own) - min(own) <= _UNSTEADY * max(own)
    return watts, steady


def _counted_w(points: list[tuple[float, float]], start_s: float, end_s: float) -> float | None:
    values = [value for _, value in points]
    if values[-1] <= values[0] or any(b < a for a, b in itertools.pairwise(values)):
        return None
    return staircase(points, start_s, end_s).joules / (end_s - start_s)


def _choose(watts: dict[Sensor, float | None]) -> SensorChoice:
    counted, power, instant = (watts.get(sensor) for sensor in ("counter", "power", "instant"))
    fallback: Sensor = "power" if power is not None else "instant"
    if "counter" not in watts:
        return SensorChoice(fallback, f"{_NAMES[fallback]}: this GPU has no energy counter")
    if counted is None:
        if power is None and instant is None:
            raise MeterError("the GPU's energy counter stands still or went backwards, and it has no other sensor")
        return SensorChoice(fallback, f"{_NAMES[fallback]}: the energy counter stood still or went backwards")
    if power is None:
        return SensorChoice("counter", "energy counter: power cannot be read, so nothing could be compared")
    said = f"the energy counter gives {counted:.1f} W, power readings {power:.1f} W"
    if _near(counted, power):
        return SensorChoice("counter", f"energy counter: {said}, which agree within {AGREEMENT:.0%}")
    if instant is None:
        return SensorChoice("power", f"power readings: {said}, and no third sensor says which is right")
    said += f", instant power {instant:.1f} W"
    if _near(counted, instant):
        return SensorChoice("counter", f"energy counter: {said}")
    if _near(power, instant):
        return SensorChoice("power", f"power readings: {said}")
    return SensorChoice(
        "power", f"power readings: {said}; no two agree within {AGREEMENT:.0%}, so treat them with care"
    )


_NAMES = {"power": "power readings", "instant": "instant power"}


def _near(first_w: float, second_w: float) -> bool:
    return abs(first_w - second_w) <= AGREEMENT * second_w
