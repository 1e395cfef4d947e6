"""Loop nests written out by hand: what the kernels of this folder share.

Kernels that need full control of their registers are emitted statement by statement rather than scheduled. All
buffers are seen flat (row-major), so that an index is one expression and a vector one contiguous run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from joulec.passes.graph import NodeSpec, TensorType
from joulec.passes.kernels.epilogue import applied, finished
from joulec.passes.kernels.kernel import CpuTarget

SERIAL_BELOW_BYTES = 32 * 1024
"""Below this traffic starting the worker threads costs more than the work itself."""
PARALLEL_FROM_BYTES = 256 * 1024
"""From this traffic on it is likelier that all threads pay than that they do not."""
PARALLEL_ABOVE_BYTES = 1024 * 1024
"""From this traffic on all threads always pay."""
TASKS_PER_THREAD = 4
"""Tasks that a parallel loop should have per thread, where the work can be cut so."""
RUNS_PER_THREAD = 4
"""Into how many runs the tasks of a thread are cut, so that more threads than were compiled for find work too."""

Body = Callable[[Sequence[Any], Sequence[Any]], None]


def prim_func(operands: Sequence[TensorType], results: Sequence[TensorType], body: Body) -> Any:
    """A finished PrimFunc of the operands, then the results.

    Args:
        operands: types of the operands as the kernel reads them (constants packed).
        results: types of the results.
        body: emits the statements; receives the operands' and the results' buffers, all flat.
    """
    with IRBuilder() as builder, T.prim_func(private=True):
        arguments = [
            T.arg(f"{kind}{index}", T.buffer(type.shape, type.dtype))
            for kind, types in (("operand", operands), ("result", results))
            for index, type in enumerate(types)
        ]
        flat = [
            T.decl_buffer((type.size,), type.dtype, data=argument.data)
            for argument, type in zip(arguments, (*operands, *results), strict=True)
        ]
        body(flat[: len(operands)], flat[len(operands) :])
    return finished(builder.get())


def f32(value: float) -> Any:
    """A float32 constant."""
    return tirx.const(value, "float32")


def i32(value: int) -> Any:
    """An int32 constant."""
    return tirx.const(value, "int32")


def local(size: int, dtype: str = "float32") -> Any:
    """A buffer of the enclosing task: in registers where all its indices are constant, else on the stack."""
    return T.alloc_buffer((size,), dtype, scope="local")


def workspace(size: int, dtype: str = "float32") -> Any:
    """A buffer of the enclosing task that may be too large for the stack."""
    return T.alloc_buffer((size,), dtype)


def store(buffer: Any, index: Any, value: Any) -> None:
    """``buffer[index] = value``."""
    T.buffer_store(buffer, value, [index])


def run(begin: Any, width: int) -> Any:
    """The index of ``width`` consecutive elements."""
    return tirx.Ramp(begin, 1, width) if width > 1 else begin


def splat(value: Any, width: int) -> Any:
    """A vector of one value."""
    return tirx.Broadcast(value, width) if width > 1 else value


def typed(dtype: str, width: int) -> str:
    """The dtype of a vector."""
    return f"{dtype}x{width}" if width > 1 else dtype


def bind(value: Any) -> Any:
    """The value under a name: statements that use it stay small, and quick to compile."""
    return value if isinstance(value, int) else T.Bind(value)


def repeat(count: int, body: Callable[[Any], None], parallel: bool = False) -> None:
    """``body(i)`` for i in 0..count, on all threads where asked."""
    if count == 1:
        body(0)
    elif count > 1:
        with (T.parallel if parallel else T.serial)(0, count) as index:
            body(index)


def in_runs(threads: int, extents: Sequence[int], body: Callable[..., None]) -> None:
    """``body(*indices)`` for all indices, the last fastest, shared by threads in runs of tasks.

    What the body allocates is allocated once per run (see `joulec.passes.kernels.conv_tir.parallel`).
    """
    total, runs = math.prod(extents), RUNS_PER_THREAD * threads
    if threads == 1 or total <= runs:
        repeat(total, lambda index: body(*unravel(index, extents)), parallel=threads > 1)
        return
    with T.parallel(0, runs) as run:
        begin, end = run * total // runs, (run + 1) * total // runs
        with T.serial(0, end - begin) as index:
            body(*unravel(begin + index, extents))


def vectors(extent: int, lanes: int, body: Callable[[Any], None]) -> None:
    """``body(i)`` for i in 0..extent in whole vectors, the rest in one narrower vector."""
    whole, rest = divmod(extent, lanes)

    def vector(begin: Any, width: int) -> None:
        if width == 1:
            body(begin)
            return
        with T.vectorized(0, width) as lane:
            body(begin + lane)

    repeat(whole, lambda chunk: vector(chunk * lanes, lanes))
    if rest:
        vector(whole * lanes, rest)


def runs(extent: int, lanes: int, body: Callable[[Any, int], None]) -> None:
    """``body(begin, width)`` for an extent in whole vectors, the rest in one narrower vector.

    Unlike `vectors`, for what TVM does not vectorise by itself: the body loads, computes and stores vectors.
    """
    whole, rest = divmod(extent, lanes)
    repeat(whole, lambda chunk: body(chunk * lanes, lanes))
    if rest:
        body(whole * lanes, rest)


def pieces(extent: int, size: int, index: Any, body: Callable[[Any, int], None]) -> None:
    """``body(begin, length)`` for piece ``index`` of an extent cut into pieces of one size and a shorter last one."""
    whole, rest = divmod(extent, size)
    either(
        index,
        [
            (whole, lambda piece: body(piece * size, size)),
            (1 if rest else 0, lambda piece: body(whole * size, rest)),
        ],
    )


def either(index: Any, ranges: Sequence[tuple[int, Callable[[Any], None]]]) -> None:
    """The body of the range, out of consecutive ones of the given lengths, in which the index lies."""
    ranges = [entry for entry in ranges if entry[0]]
    if len(ranges) == 1:
        ranges[0][1](index)
        return
    (length, body), *others = ranges
    with T.If(index < length):
        with T.Then():
            body(index)
        with T.Else():
            either(index - length, others)


def fold(accumulator: Any, width: int, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine all of an accumulator's elements (a power of two of them) in a tree; the total."""
    while width > 1:
        width //= 2
        with T.vectorized(0, width) as lane:
            store(accumulator, lane, combine(accumulator[lane], accumulator[width + lane]))
    return accumulator[0]


def ravel(indices: Sequence[Any], strides: Sequence[int]) -> Any:
    """The flat index of indices under strides (in elements)."""
    total: Any = 0
    for index, stride in zip(indices, strides, strict=True):
        if stride:
            total = total + index * stride
    return total


def unravel(index: Any, extents: Sequence[int]) -> list[Any]:
    """The indices, last fastest, of a flat index over extents."""
    indices: list[Any] = []
    for extent in reversed(extents):
        indices.append(index % extent if extent > 1 else 0)
        index = index // extent
    return indices[::-1]


def row_major(shape: Sequence[int]) -> list[int]:
    """Strides in elements of a contiguous tensor."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def after_epilogue(spec: NodeSpec, value: Any, buffers: Sequence[Any], offset: Any, channel: Any) -> Any:
    """The anchor's result after the spec's epilogue.

    Args:
        spec: whose epilogue is applied.
        value: the anchor's result.
        buffers: flat buffers of the epilogue's operands, in the order of the steps.
        offset: flat index of the value in the first result.
        channel: its index along the channel axis (axis 1 of a 4-d result, the last otherwise).
    """
    steps = [step for step in spec.epilogue if step.operands]
    reads = [
        (lambda *_, buffer=buffer, index=channel if step.kind == "bias" else offset: buffer[index])
        for step, buffer in zip(steps, buffers, strict=True)
    ]
    return applied(spec, value, reads, (channel, channel))


def finish_vector(spec: NodeSpec, value: Any, buffers: Sequence[Any], place: tuple[Any, Any, Any], lanes: int) -> None:
    """Store a vector of an anchor's results, channels along it, after the spec's epilogue.

    Args:
        spec: whose epilogue is applied.
        value: the vector.
        buffers: flat buffers of the epilogue's operands, in the order of the steps, in the result's layout.
        place: the result's flat buffer, the flat index of the first element, and its channel.
        lanes: elements of the vector.
    """
    result, offset, channel = place
    if not spec.epilogue:
        store(result, run(offset, lanes), value)
        return
    held = local(lanes)
    store(held, run(0, lanes), value)
    with T.vectorized(0, lanes) as lane:
        store(result, offset + lane, after_epilogue(spec, held[lane], buffers, offset + lane, channel + lane))


def epilogue_buffers(spec: NodeSpec, operands: Sequence[Any]) -> Sequence[Any]:
    """The part of all operands that the epilogue consumes."""
    return operands[len(spec.anchor_operands) :]


def spread(target: CpuTarget, moved_bytes: int) -> list[int]:
    """Whether to run on all threads (1) or one (0), the likelier first; both where only measuring can tell."""
    if target.threads == 1 or moved_bytes < SERIAL_BELOW_BYTES:
        return [0]
    if moved_bytes > PARALLEL_ABOVE_BYTES:
        return [1]
    return [1, 0] if moved_bytes >= PARALLEL_FROM_BYTES else [0, 1]


def piece_size(extent: int, outer: int, lanes: int, threads: int) -> int:
    """Into what pieces to cut an extent that is computed ``outer`` times, so that all threads have enough tasks."""
    wanted = -(-TASKS_PER_THREAD * threads // outer)
    if threads == 1 or wanted <= 1:
        return extent
    return min(extent, -(-extent // wanted // lanes) * lanes or lanes)
