"""A session's meter and clocks: opened by name, watched over, and closed where they are its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from joulec.profiler.meter import Meter
from joulec.profiler.meters.choose import DeviceKind, choose_meter
from joulec.runtime.clock_records import restore_left
from joulec.runtime.clocks import ClockError, ClockKnob, NvmlClocks
from joulec.runtime.runner import ModelRunner, Runner
from joulec.runtime.scripted import read_script
from joulec.runtime.watch import SENSORS, WatchedMeter
from joulec.runtime.window import BatchAware

_log = logging.getLogger(__name__)


class Instruments:
    """Finds meter and clocks. What comes as an object stays the caller's to close.

    Args:
        runner: what the session runs.
        say: receives what the user should know.
    """

    def __init__(self, runner: Runner, say: Callable[[str], None]) -> None:
        self._runner = runner
        self._say = say
        self._close: list[Callable[[], None]] = []

    def meter(self, meter: Meter | str | None) -> Meter:
        """A meter by name (None: ``auto``), or the one given; a sensor's calls cannot hold up a batch.

        Raises:
            MeterError: the meter named is not there.
        """
        if meter is not None and not isinstance(meter, str):
            return self._watched(meter, own=False)
        name = meter or "auto"
        if name.startswith("scripted:"):
            return self._watched(read_script(name.removeprefix("scripted:")), own=True)
        kind: DeviceKind = "cuda" if name == "nvml" else "cpu"  # a callable may run on either
        if isinstance(self._runner, ModelRunner) and self._runner.device_kind == "cuda":
            kind = "cuda"
        elif isinstance(self._runner, ModelRunner) and kind == "cuda":
            self._say("the model runs on the CPU, and the meter nvml reads the power of GPU 0")
        chosen = choose_meter(name, device_kind=kind, threads=self._runner.threads)
        _log.info("meter: %s", chosen.why)
        return self._watched(chosen.meter, own=True)

    def _watched(self, meter: Meter, *, own: bool) -> Meter:
        if meter.source not in SENSORS or isinstance(meter, BatchAware):  # a simulated one never hangs
            if own:
                self._close.append(meter.close)
            return meter
        watched = WatchedMeter(meter)
        self._close.append(watched.close if own else watched.release)
        return watched

    def clocks(self, clocks: ClockKnob | Literal["nvml"] | None) -> ClockKnob | None:
        """The knob given, or that of GPU 0; None, and said so, where it cannot be had."""
        restore_left(self._say)
        if clocks != "nvml":
            return clocks
        try:
            knob = NvmlClocks()
        except ClockError as error:
            self._say(f"{error}; the clock stays as it is, the other knobs are used")
            return None
        self._close.append(knob.close)
        return knob

    def close(self) -> None:
        """Close what is the session's own. Idempotent."""
        while self._close:
            self._close.pop()()
