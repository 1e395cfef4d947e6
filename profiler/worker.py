"""The process in which candidates are built and timed: ``python -m joulec.profiler.worker``. Started by the harness.

It knows nothing of its parent's ``__main__``, takes orders from one pipe and answers on another, and ends with its
parent.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pickle
import platform
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from joulec.costdb.cost import FailureKind
from joulec.profiler.candidate import Workload
from joulec.profiler.meter import Meter, MeterError, Watching
from joulec.profiler.meters.estimate import EstimateMeter
from joulec.profiler.patience import answered
from joulec.profiler.power import idle_power_w
from joulec.profiler.protocol import MeasurementProtocol, Paper
from joulec.profiler.stand import Gauge, LocalStand
from joulec.profiler.wire import (
    Broken,
    Build,
    Built,
    Call,
    Channel,
    Drop,
    Failed,
    Look,
    Ready,
    Returned,
    Setup,
    Whole,
)

_PR_SET_PDEATHSIG = 1
_REASON_LENGTH = 2000
_OPENING_S = 30.0
_UNMETERED = ("estimated", "replay", "simulated")


def main(arguments: list[str]) -> int:
    """Serve until the harness closes the pipe.

    Args:
        arguments: file descriptors to read from and write to, and the parent's process id.
    """
    read_fd, write_fd, parent = map(int, arguments)
    _end_with(parent)
    for fd in (read_fd, write_fd):
        os.set_inheritable(fd, False)
    channel = Channel(read_fd, write_fd)
    try:
        _serve(channel)
    except (EOFError, BrokenPipeError):
        return 0  # the harness is gone or wants no more
    return 0


def _end_with(parent: int) -> None:
    """Die when the parent does, even if it is killed; on systems without prctl, at the next order that cannot come."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it died before the line above


def _volunteer_for_the_oom_killer() -> None:
    """If memory runs out, let the kernel end this process and not the one that searches."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError as error:
        print(f"cannot raise oom_score_adj: {error}", file=sys.stderr)  # noqa: T201


def _serve(channel: Channel) -> None:
    setup = channel.receive()
    if not isinstance(setup, Setup):
        raise TypeError(f"expected Setup, got {setup!r}")
    _volunteer_for_the_oom_killer()
    if setup.memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
    try:
        factory, protocol = pickle.loads(setup.tools)
        meter: Meter = answered(factory, "of the measuring worker", _OPENING_S)
        idle_w = None if meter.source in _UNMETERED else answered(lambda: idle_power_w(meter), meter.name)
    except MeterError as error:
        channel.send(Broken(str(error), meter=True))
        return
    except Exception as error:  # noqa: BLE001 - whatever the caller's factory raises
        channel.send(Broken(f"the meter factory or the protocol cannot be loaded: {_text(error)}"))
        return
    channel.send(Ready(Gauge.of(meter, idle_w)))
    try:
        _Bench(meter, protocol, idle_w).serve(channel)
    finally:
        meter.close()


class _Bench:
    """The stands of this process, and the meter that they share."""

    def __init__(self, meter: Meter, protocol: MeasurementProtocol, idle_w: float | None) -> None:
        self._meter, self._protocol, self._idle_w = meter, protocol, idle_w
        self._stands: dict[int, tuple[LocalStand, Workload]] = {}

    def serve(self, channel: Channel) -> None:
        while True:
            order = channel.receive()
            if isinstance(order, Drop):
                self._stands.clear()
            else:
                channel.send(self._carry_out(order))

    def _carry_out(self, order: object) -> Built | Returned | Failed | Broken:
        if isinstance(order, Build):
            return self._build(order)
        if isinstance(order, Call | Whole) and order.stand in self._stands:
            return self._call(order)
        if isinstance(order, Look):
            return Returned({**_circumstances(), **_device_state(self._meter, self._idle_w)})
        raise TypeError(f"unexpected order {order!r}")

    def _build(self, order: Build) -> Built | Failed | Broken:
        try:
            builder = _resolve(order.builder)
            payload = pickle.loads(order.payload)
        except MemoryError as error:
            return Failed("memory", f"while loading: {_text(error)}")
        except Exception as error:  # noqa: BLE001 - whatever an import or an unpickling raises
            return Broken(f"`{order.builder}` or its payload cannot be loaded: {_text(error)}")
        try:
            workload = builder(payload)
            stand = LocalStand(workload, self._meter, order.work)
        except Exception as error:  # noqa: BLE001 - whatever the builder raises becomes a stored failure
            return Failed(_kind(error, "build"), _text(error))
        self._stands[order.stand] = stand, workload
        return Built(stand.overhead_s)

    def _call(self, order: Call | Whole) -> Returned | Failed | Broken:
        stand, workload = self._stands[order.stand]
        gc.disable()
        try:
            if isinstance(order, Call):
                return Returned(getattr(stand, order.method)(*order.arguments))
            protocol = self._protocol
            if not isinstance(protocol, Paper):
                raise TypeError(f"{protocol!r} measures in turns")
            return Returned(stand.guarded(lambda: protocol.measure(workload, self._meter, stand.work), thorough=True))
        except MeterError as error:
            return Broken(str(error), meter=True)
        except Exception as error:  # noqa: BLE001 - whatever the workload raises becomes a stored failure
            return Failed(_kind(error, "run"), _text(error))
        finally:
            gc.enable()


def _resolve(name: str) -> Callable[[Any], Workload]:
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"a builder is named `module:function`, not `{name}`")
    found: Callable[[Any], Workload] = getattr(importlib.import_module(module), function)
    return found


def _kind(error: Exception, otherwise: FailureKind) -> FailureKind:
    out_of_memory = isinstance(error, MemoryError) or "bad_alloc" in str(error)
    return "memory" if out_of_memory else otherwise


def _text(error: Exception) -> str:
    """The error in at most 2000 characters; the middle of longer ones is left out."""
    text = f"{type(error).__name__}: {error}"
    half = _REASON_LENGTH // 2
    return text if len(text) <= _REASON_LENGTH else f"{text[:half]} … {text[-half:]}"


def _circumstances() -> Mapping[str, str]:
    """Host, date, and as far as Linux shows them the load of the machine and clock and temperature of the CPU."""
    found = {"host": platform.node(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    files = {
        "load": Path("/proc/loadavg"),
        "clock_khz": Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "temperature_millicelsius": Path("/sys/class/thermal/thermal_zone0/temp"),
    }
    for name, file in files.items():
        try:
            found[name] = file.read_text(encoding="ascii").strip()
        except OSError:
            continue  # not every machine has the file
    return found


def _device_state(meter: Meter, idle_w: float | None) -> Mapping[str, str]:
    """Idle power before the first candidate, and what the meter knows of its device, as far as known."""
    found = {} if idle_w is None else {"idle_w": f"{idle_w:.6g}"}
    if isinstance(meter, EstimateMeter):
        found["energy_constants"] = str(meter.constants)
    if isinstance(meter, Watching):
        state = meter.conditions()
        values = {"device_celsius": state.temperature_c, "device_clock_mhz": state.clock_mhz}
        found |= {name: f"{value:g}" for name, value in values.items() if value is not None}
        found |= {"throttled": state.throttled} if state.throttled else {}
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
