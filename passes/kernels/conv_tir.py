"""What the convolution kernels share: geometry, loops and buffers of TIR, the padded copy of the input.

The kernels are written as loop nests in TIR with the kind of each loop given (parallel, vectorised, unrolled): the
accumulators of a tile live in a ``local`` buffer whose indices are constants after unrolling, so that LLVM keeps them
in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from joulec.passes.graph import Conv2d, NodeSpec
from joulec.passes.kernels.blocks import ends, operand_types, result_types
from joulec.passes.kernels.epilogue import applied, can_apply, finished
from joulec.passes.kernels.kernel import CpuTarget, Params

Stmt = Any
Expr = Any

RUNS_PER_THREAD = 4
"""Into how many runs the tasks of a thread are cut, so that more threads than were compiled for find work too."""
SERIAL_BELOW_FLOPS = 400_000
"""Below this arithmetic a convolution stays on the calling thread: waking others costs more than they save."""


def ceil_div(a: int, b: int) -> int:
    """Quotient rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class Geometry:
    """The numbers of a convolution x[N,C,H,W] * w[O,C/groups,kH,kW] -> [N,O,outH,outW]."""

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    top: int
    left: int
    groups: int

    @staticmethod
    def of(spec: NodeSpec) -> Geometry | None:
        """The geometry of a float32 convolution with a constant kernel and an epilogue that kernels know, else None."""
        if not isinstance(spec.op, Conv2d) or not spec.operands[1].constant or not can_apply(spec):
            return None
        op, (_, _, kernel_height, kernel_width) = spec.op, spec.operands[1].type.shape
        batch, channels, height, width = spec.operands[0].type.shape
        _, out_channels, out_height, out_width = spec.results[0].shape
        return Geometry(
            batch=batch,
            channels=channels,
            height=height,
            width=width,
            out_channels=out_channels,
            out_height=out_height,
            out_width=out_width,
            kernel=(kernel_height, kernel_width),
            strides=op.strides,
            dilation=op.dilation,
            top=op.padding[0],
            left=op.padding[1],
            groups=op.groups,
        )

    @staticmethod
    def required(spec: NodeSpec) -> Geometry:
        """The geometry of a spec for which a kernel named schedules.

        Raises:
            ValueError: it is no such convolution.
        """
        geometry = Geometry.of(spec)
        if geometry is None:
            raise ValueError(f"no float32 convolution with a constant kernel: {spec}")
        return geometry

    @property
    def group_in(self) -> int:
        """Input channels of a group."""
        return self.channels // self.groups

    @property
    def group_out(self) -> int:
        """Output channels of a group."""
        return self.out_channels // self.groups

    @property
    def positions(self) -> int:
        """Positions of an output plane."""
        return self.out_height * self.out_width

    @property
    def taps(self) -> int:
        """Multiply-adds per result."""
        return self.group_in * self.kernel[0] * self.kernel[1]

    def team(self, target: CpuTarget) -> CpuTarget:
        """The target with as many threads as the convolution is worth."""
        small = 2 * self.batch * self.out_channels * self.positions * self.taps < SERIAL_BELOW_FLOPS
        return replace(target, threads=1) if small else target

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the part of the padded input that some window touches."""
        return (self.touched(0, self.out_height), self.touched(1, self.out_width))

    def touched(self, axis: int, outputs: int) -> int:
        """Length along an axis (0 vertical, 1 horizontal) that ``outputs`` neighbouring windows span."""
        return (outputs - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1

    @property
    def needs_padding(self) -> bool:
        """Whether some window touches the padding."""
        height, width = self.padded
        return self.top > 0 or self.left > 0 or height > self.height or width > self.width

    @property
    def pointwise(self) -> bool:
        """Whether it is a matrix product on the input as it stands: 1x1, stride 1, unpadded."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not self.needs_padding


def loop(extent: int, body: Callable[[Expr], Stmt], kind: str = "serial") -> Stmt:
    """``for i in range(extent): body(i)``; kind is serial, parallel, vectorized or unrolled."""
    if extent == 1:
        return body(const(0))
    variable = tirx.Var("i", "int32")
    return tirx.For(variable, const(0), const(extent), tirx.ForKind[kind.upper()], body(variable))


def nest(extents: Sequence[int], body: Callable[..., Stmt], kind: str = "serial") -> Stmt:
    """Nested loops of one kind, the first extent outermost."""
    if not extents:
        return body()
    return loop(extents[0], lambda i: nest(extents[1:], lambda *rest: body(i, *rest), kind), kind)


def vector_loop(extent: int, lanes: int, body: Callable[[Expr], Stmt]) -> Stmt:
    """``for i in range(extent): body(i)`` in whole vectors, then one narrower vector."""
    whole, rest = divmod(extent, lanes)
    tail = [loop(rest, lambda i: body(whole * lanes + i), "vectorized")] if rest else []
    if not whole:
        return tail[0]
    return block(loop(whole, lambda v: loop(lanes, lambda i: body(v * lanes + i), "vectorized")), *tail)


def parallel(target: CpuTarget, extents: Sequence[int], body: Callable[..., Stmt]) -> Stmt:
    """One loop over all index tuples, the last index fastest, shared by the target's threads.

    Threads take runs of tasks: what the body of a parallel loop allocates comes from TVM's workspace, which would cost
    as much as a small task does; around the loop of a run it is allocated once.
    """
    total = int(np.prod(extents))

    def split(flat: Expr) -> Stmt:
        indices: list[Expr] = []
        for extent in reversed(extents):
            indices.append(flat % extent if extent > 1 else const(0))
            flat = flat // extent
        return body(*reversed(indices))

    runs = RUNS_PER_THREAD * target.threads
    if target.threads == 1 or total <= runs:
        return loop(total, split, "parallel" if target.threads > 1 else "serial")

    def run(index: Expr) -> Stmt:
        begin, end = index * total // runs, (index + 1) * total // runs
        task = tirx.Var("task", "int32")
        return tirx.For(task, const(0), end - begin, tirx.ForKind.SERIAL, split(begin + task))

    return loop(runs, run, "parallel")


def const(value: int) -> Expr:
    """An int32 constant."""
    return tirx.const(value, "int32")


def zero() -> Expr:
    """0.0f."""
    return tirx.const(0.0, "float32")


def buffer(shape: Sequence[int], name: str, scope: str = "global", dtype: str = "float32") -> Any:
    """A row-major buffer."""
    return tirx.decl_buffer(tuple(shape), dtype, name, scope=scope)


def store(target: Any, value: Expr, *indices: Expr) -> Stmt:
    """``target[indices] = value``."""
    return tirx.BufferStore(target, value, list(indices))


def block(*statements: Stmt | None) -> Stmt:
    """Statements one after another; None stands for nothing."""
    present = [statement for statement in statements if statement is not None]
    return present[0] if len(present) == 1 else tirx.SeqStmt(present)


def allocate(target: Any) -> Stmt:
    """Room for a buffer for the rest of the enclosing block."""
    return tirx.AllocBuffer(target)


def start(index: Expr, extent: int, step: int) -> Expr:
    """Where tile ``index`` of ``step`` elements begins; the last is moved back so that it ends with the extent."""
    if extent <= step:
        return const(0)
    return index * step if extent % step == 0 else tirx.min(index * step, const(extent - step))


def spread(extent: int, most: int) -> int:
    """The tile size <= most that covers the extent in the fewest tiles of equal size."""
    return ceil_div(extent, ceil_div(extent, most))


def accumulators(target: CpuTarget) -> int:
    """Accumulators in a register tile: few enough that LLVM's scheduling spills none, enough to hide the latency."""
    return 16 if target.registers >= 32 else 12


def chosen(params: Params) -> dict[str, int]:
    """A schedule's parameters by name."""
    return dict(params)


@dataclass(frozen=True)
class Signature:
    """The parameters of a kernel's PrimFunc.

    Attributes:
        spec: what it computes.
        data: the input buffer.
        weights: the packed kernel.
        rest: the epilogue's operands.
        result: the output buffer.
        writes: channels in a block of the output, 0 where it is row-major.
    """

    spec: NodeSpec
    data: Any
    weights: Any
    rest: tuple[Any, ...]
    result: Any
    writes: int

    @staticmethod
    def of(spec: NodeSpec, packed: Sequence[int], params: Params = ()) -> Signature:
        """Buffers for a spec whose kernel has the packed shape, in the layouts that the schedule says."""
        data, _, *rest = operand_types(spec, params)
        others = tuple(buffer(type.shape, f"operand{i}") for i, type in enumerate(rest, 2))
        result = buffer(result_types(spec, params)[0].shape, "result")
        return Signature(spec, buffer(data.shape, "data"), buffer(packed, "weights"), others, result, ends(params)[1])

    def finish(self, value: Expr, *indices: Expr) -> Stmt:
        """Store a result at (batch, channel, row, column) after the epilogue."""

        def reader(operand: Any) -> Callable[..., Expr]:
            return lambda *where: tirx.BufferLoad(operand, list(self._place(where)))

        readers = [reader(operand) for operand in self.rest]
        return store(self.result, applied(self.spec, value, readers, indices), *self._place(indices))

    def _place(self, indices: Sequence[Expr]) -> Sequence[Expr]:
        """Where an element lies in the layout of the result; channels alone stay."""
        if not self.writes or len(indices) == 1:
            return indices
        n, channel, row, column = indices
        return n, channel // self.writes, row, column, channel % self.writes

    def function(self, *statements: Stmt | None) -> Any:
        """The finished PrimFunc."""
        body = block(*statements)
        return finished(tirx.PrimFunc([self.data, self.weights, *self.rest, self.result], body))


def padded_copy(geometry: Geometry, target: CpuTarget, data: Any, copy: Any) -> Stmt:
    """Fill copy[N,C,padded height,padded width] with the input and zeros around it, planes shared by the threads."""
    height, width = geometry.padded
    columns = min(geometry.width, width - geometry.left)

    def row(n: Expr, c: Expr, h: Expr) -> Stmt:
        def zeros(first: int, count: int) -> Stmt | None:
            return None if count <= 0 else loop(count, lambda j: store(copy, zero(), n, c, h, first + j))

        inside = block(
            zeros(0, geometry.left),
            loop(columns, lambda j: store(copy, data[n, c, h - geometry.top, j], n, c, h, geometry.left + j)),
            zeros(geometry.left + columns, width - geometry.left - columns),
        )
        if geometry.top == 0 and height <= geometry.height:
            return inside
        within = tirx.all(h >= geometry.top, h < geometry.top + geometry.height)
        return tirx.IfThenElse(within, inside, zeros(0, width))

    planes = (geometry.batch, geometry.channels)
    return parallel(target, planes, lambda n, c: loop(height, lambda h: row(n, c, h)))


def padded_source(geometry: Geometry, target: CpuTarget, signature: Signature) -> tuple[Any, list[Stmt]]:
    """What the windows read (the input, or a padded copy of it) and the statements that make it."""
    if not geometry.needs_padding:
        return signature.data, []
    source = buffer((geometry.batch, geometry.channels, *geometry.padded), "padded")
    return source, [allocate(source), padded_copy(geometry, target, signature.data, source)]


def padded_channels(array: npt.NDArray[Any], groups: int, multiple: int) -> npt.NDArray[Any]:
    """A kernel [O,I,kH,kW] as [groups, blocks, multiple, I, kH, kW], each group's output channels filled with zeros."""
    out_channels, *inner = array.shape
    grouped = array.reshape(groups, out_channels // groups, *inner)
    blocks = ceil_div(out_channels // groups, multiple)
    missing = blocks * multiple - out_channels // groups
    grouped = np.pad(grouped, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)))
    return grouped.reshape(groups, blocks, multiple, *inner)
