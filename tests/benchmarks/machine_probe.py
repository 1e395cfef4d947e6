"""What the processor can do at most: fused multiply-adds from registers, and bytes read from memory.

Run alone it prints both: ``python tests/benchmarks/machine_probe.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

THREADS = len(os.sched_getaffinity(0))
os.environ["TVM_NUM_THREADS"] = str(THREADS)
os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np  # noqa: E402
import tvm  # noqa: E402

from joulec.passes.graph import TensorType  # noqa: E402
from joulec.passes.kernels import loops  # noqa: E402
from joulec.passes.kernels.kernel import CpuTarget  # noqa: E402
from joulec.passes.kernels.target import cpu_target, last_level_bytes  # noqa: E402

ROUNDS = 2_000_000
SPANS = 5
"""Last-level caches that the memory probe reads, so that little of it is found there."""
REPEATS = 9


@dataclass(frozen=True)
class Machine:
    """What all threads together reach.

    Attributes:
        flops_per_s: float32 operations, a multiply-add counting two.
        bytes_per_s: bytes read from memory.
        threads: with how many threads.
    """

    flops_per_s: float
    bytes_per_s: float
    threads: int


def probe(threads: int = THREADS) -> Machine:
    """Measure this machine: the best of some runs, since neighbours only ever slow one down."""
    target = cpu_target(None, threads)
    tvm.get_global_func("runtime.config_threadpool")(1, threads)
    return Machine(_flops_per_s(target), _bytes_per_s(target), threads)


def _flops_per_s(target: CpuTarget) -> float:
    """Independent chains of multiply-adds, as many as hide their latency, all in registers."""
    chains = 12
    width = chains * target.lanes

    def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
        def task(index: Any) -> None:
            sums = loops.local(width)

            def each(action: Callable[[Any], None]) -> None:
                for chain in range(chains):
                    action(loops.run(chain * target.lanes, target.lanes))

            factor, term = (loops.bind(operands[0][loops.run(i * target.lanes, target.lanes)]) for i in (0, 1))
            each(lambda at: loops.store(sums, at, loops.splat(loops.f32(1), target.lanes)))
            loops.repeat(ROUNDS, lambda _: each(lambda at: loops.store(sums, at, sums[at] * factor + term)))
            loops.vectors(width, target.lanes, lambda i: loops.store(results[0], index * width + i, sums[i]))

        loops.repeat(target.threads, task, parallel=target.threads > 1)

    operand, result = TensorType((2 * target.lanes,)), TensorType((target.threads * width,))
    seconds = _seconds(loops.prim_func([operand], [result], body), target, [operand, result])
    return 2.0 * ROUNDS * width * target.threads / seconds


def _bytes_per_s(target: CpuTarget) -> float:
    """Each thread sums a stretch of its own, in four streams of vectors."""
    step = 4 * target.lanes
    share = SPANS * last_level_bytes() // 4 // target.threads // step * step

    def body(operands: Sequence[Any], results: Sequence[Any]) -> None:
        def task(index: Any) -> None:
            sums = loops.local(step)
            loops.vectors(step, step, lambda i: loops.store(sums, i, loops.f32(0)))

            def add(at: Any) -> None:
                loops.vectors(
                    step,
                    step,
                    lambda i: loops.store(sums, i, sums[i] + operands[0][index * share + at * step + i]),
                )

            loops.repeat(share // step, add)
            loops.vectors(step, step, lambda i: loops.store(results[0], index * step + i, sums[i]))

        loops.repeat(target.threads, task, parallel=target.threads > 1)

    operand, result = TensorType((share * target.threads,)), TensorType((target.threads * step,))
    seconds = _seconds(loops.prim_func([operand], [result], body), target, [operand, result])
    return operand.bytes / seconds


def _seconds(function: Any, target: CpuTarget, types: Sequence[TensorType]) -> float:
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    built = tvm.compile(module, target=tvm.target.Target(json.loads(target.target)))
    arrays = [tvm.runtime.tensor(np.full(type.shape, 0.5, type.dtype)) for type in types]
    timer = built.mod.time_evaluator("main", tvm.cpu(), number=1, repeat=REPEATS)
    timer(*arrays)
    return float(timer(*arrays).min)


def main() -> None:
    """Print what was found."""
    found = probe()
    print(
        f"{found.threads} threads: {found.flops_per_s / 1e9:.0f} GFLOP/s of multiply-adds, "
        f"{found.bytes_per_s / 1e9:.1f} GB/s read from memory"
    )


if __name__ == "__main__":
    main()
