"""Loaded by every Python of a command whose PYTHONPATH names this folder: makes candidates misbehave in its worker.

While the file that JOULEC_TEST_MISBEHAVE names is there, the packed product with N columns does what `DEEDS` says.
Everything else, the command, its worker and its database, is as users have it, but for a shorter limit on a hang.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys


def segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def loop() -> None:
    while True:
        pass


def allocate() -> None:
    import numpy

    blocks = []
    while True:
        blocks.append(numpy.empty(1 << 30, "uint8"))  # never touched: its limit, not the machine's memory, ends it


DEEDS = {4: segfault, 5: loop, 6: allocate, 7: "overrun"}


def _spoil(workload) -> None:
    build = workload.build

    def spoilt(payload):
        built = build(payload)
        deed = DEEDS.get(payload.spec.results[0].shape[-1])
        if payload.kernel != "packed_matmul" or not os.path.exists(os.environ["JOULEC_TEST_MISBEHAVE"]) or deed is None:
            return built
        run = built.run

        def misbehave(calls: int) -> None:
            run(calls)
            if deed == "overrun":
                result = built._fence._results[0][0]
                result.after[4] ^= 0xFF
            else:
                deed()

        built.run = misbehave
        return built

    workload.build = spoilt


def _hurry(process) -> None:
    process.Limits.__init__.__defaults__ = tuple(
        2.0 if value == 60.0 and name == "run_s" else value
        for name, value in zip(
            ("build_s", "run_s", "start_s", "memory_bytes"), process.Limits.__init__.__defaults__, strict=True
        )
    )


class _Hook(importlib.abc.MetaPathFinder):
    changes = {"joulec.passes.kernels.workload": _spoil, "joulec.profiler.process": _hurry}  # noqa: RUF012

    def find_spec(self, name, path, target=None):
        change = self.changes.get(name)
        if change is None:
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        load = found.loader.exec_module

        def exec_module(module) -> None:
            load(module)
            change(module)

        found.loader.exec_module = exec_module
        return found


if "JOULEC_TEST_MISBEHAVE" in os.environ:
    sys.meta_path.insert(0, _Hook())
