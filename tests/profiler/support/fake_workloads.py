"""Workloads without a compiler; the measuring worker imports this module by name."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from joulec.profiler.candidate import NO_WORK
from joulec.profiler.meter import MeterError, Reading
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter

CONSTANTS = EnergyConstants("test", 10.0, 1e-12, 0.0, 0.0, 0.0)


def meter():
    return EstimateMeter(CONSTANTS)


def no_meter():
    raise MeterError("the sensor is gone: plug it in")


def faulty_meter_factory():
    raise KeyError("not a meter")


class CountingMeter:
    """A sensor that reads 3 W whatever happens, and fails in every window if told to."""

    name = "rapl"
    source = "rapl"
    window_s = 0.01

    def __init__(self, fails=False):
        self.fails = fails

    def begin(self):
        self.start_s = time.perf_counter()

    def end(self, work=NO_WORK):
        if self.fails:
            raise MeterError("the sensor stopped: reboot")
        seconds = time.perf_counter() - self.start_s
        return Reading(seconds, 3.0 * seconds, "rapl")

    def close(self):
        pass


def failing_sensor():
    return CountingMeter(fails=True)


class Busy:
    """Each call spins for some seconds."""

    def __init__(self, seconds):
        self.seconds = seconds

    def run(self, calls):
        end_s = time.perf_counter() + calls * self.seconds
        while time.perf_counter() < end_s:
            pass

    def overhead_s(self):
        return 0.0


def busy(seconds):
    return Busy(seconds)


def reports_environment(names):
    raise ValueError(repr({name: os.environ.get(name) for name in names}))


def reports_main(_):
    main = sys.modules["__main__"]
    raise ValueError(f"main is {getattr(main, '__file__', None)}, marker {hasattr(main, 'MARKER')}")


def reports_pid(file):
    Path(file).write_text(str(os.getpid()))
    return Busy(1e-4)


def reports_pid_late(payload):
    """Once a file is there, which another candidate writes."""
    file, awaited = payload
    end_s = time.monotonic() + 20.0
    while not Path(awaited).exists() and time.monotonic() < end_s:
        time.sleep(0.01)
    return reports_pid(file)


def fails_to_build(text):
    raise ValueError(text)


def noisy_crash(_):
    sys.stdout.write("on standard output: \x00\xff\n")
    sys.stdout.flush()
    sys.stderr.write("last words\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def exits(code):
    sys.exit(code)


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs_while_building(_):
    time.sleep(3600)


def chatty(_):
    sys.stdout.write("x" * 1_000_000)
    sys.stdout.flush()
    os.write(1, b"y" * 1_000_000)
    return Busy(1e-4)


class _Acting(Busy):
    def __init__(self, action):
        super().__init__(1e-4)
        self.action = action

    def run(self, calls):
        self.action()


def _raise():
    raise ArithmeticError("no convergence")


def _hog():
    blocks = []
    while True:
        blocks.append(bytearray(64 << 20))


def _forever():
    while True:
        pass


def _bad_alloc():
    raise RuntimeError("TVMError: std::bad_alloc")


def fails_to_run(_):
    return _Acting(_raise)


def memory_hog(_):
    return _Acting(_hog)


def bad_alloc(_):
    return _Acting(_bad_alloc)


def crashes_while_running(_):
    return _Acting(lambda: os.kill(os.getpid(), signal.SIGSEGV))


def runs_forever(file):
    if file:
        Path(file).write_text(str(os.getpid()))
    return _Acting(_forever)


def _writes_outside():
    block = ctypes.create_string_buffer(64)
    ctypes.memset(ctypes.addressof(block) - (1 << 20), 0xA5, 1 << 30)


def writes_outside(_):
    return _Acting(_writes_outside)


def builds_beside_another(payload):
    """Is built only if the other is being built at the same time; notes its process."""
    mine, other, limit_s = payload
    Path(mine).write_text(str(os.getpid()))
    end_s = time.monotonic() + limit_s
    while not Path(other).exists():
        if time.monotonic() > end_s:
            raise ValueError("alone")
        time.sleep(0.005)
    return Busy(1e-4)


def fails_until(file):
    """Fails to build until the file is there."""
    if not Path(file).exists():
        raise ValueError("not yet")
    return Busy(1e-5)


class _Noting(Busy):
    def __init__(self, file, name):
        super().__init__(1e-4)
        self.file, self.name = file, name

    def run(self, calls):
        with open(self.file, "a") as log:
            log.write(self.name)
        super().run(calls)


def noting(payload):
    """Writes its name to a file whenever it runs."""
    return _Noting(*payload)


class _CrashesLater(Busy):
    def __init__(self):
        super().__init__(1e-4)
        self.runs = 0

    def run(self, calls):
        self.runs += 1
        if self.runs > 10:
            os.kill(os.getpid(), signal.SIGSEGV)
        super().run(calls)


def crashes_later(_):
    """Crashes after it has run for a while, unless it is built anew."""
    return _CrashesLater()


class _InterruptsParent(Busy):
    def __init__(self, file):
        super().__init__(2e-2)
        self.file, self.runs = file, 0

    def run(self, calls):
        self.runs += 1
        if self.runs > 10:
            Path(self.file).write_text(str(os.getpid()))
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(60)
        super().run(calls)


def interrupts_parent(file):
    """After some rounds it does to its parent what a user's Ctrl-C does."""
    return _InterruptsParent(file)
