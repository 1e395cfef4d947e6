"""Convolution as a matrix product: columns of the input times rows of the kernel, under dlight's matmul."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx
from tvm.s_tir import dlight

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels.conv_tir import Geometry
from joulec.passes.kernels.cuda.kernel import Staged
from joulec.passes.kernels.cuda.stages import Stage, applies, stage
from joulec.passes.kernels.cuda.stages import dlight as rule
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.epilogue import applied, placeholders
from joulec.passes.kernels.kernel import Params
from joulec.profiler.candidate import Work


class CudaIm2col(Staged):
    """Any convolution whose groups have more than one output channel.

    With ``stored=0`` columns exist in shared memory alone, as the product fetches them; with ``stored=1`` a kernel of
    its own writes them first, which pays where windows are large and rows of the product many.
    """

    name = "im2col"

    def schedules(self, spec: NodeSpec, target: CudaTarget) -> Sequence[Params]:
        """Columns fetched, then columns stored; pointwise convolutions have none to store."""
        geometry = Geometry.of(spec)
        if geometry is None:
            return ()
        found: list[Params] = [(("stored", 0),)] if geometry.pointwise else [(("stored", 0),), (("stored", 1),)]
        return [p for p in found if all(applies(one, target.target) for one in self.stages(spec, p))]

    def pack(
        self, spec: NodeSpec, params: Params, target: CudaTarget, index: int, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The kernel as [groups, O/groups, taps]; other operands as they are."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        return array.reshape(_kernel_shape(Geometry.required(spec))) if index == 1 else array

    def stages(self, spec: NodeSpec, params: Params) -> Sequence[Stage]:
        """The product, after the columns where they are stored."""
        geometry = Geometry.required(spec)
        operands = placeholders(spec)
        weight = te.placeholder(_kernel_shape(geometry), "float32", "weight")
        columns = _columns(geometry, operands[0])
        rest = operands[2:]
        if not dict(params)["stored"]:
            result = _product(spec, geometry, columns, weight, rest)
            return (stage([operands[0], weight, *rest], [result], [rule(dlight.gpu.Matmul())]),)
        given = te.placeholder(columns.shape, "float32", "columns")
        result = _product(spec, geometry, given, weight, rest)
        reads = (len(spec.operands), *range(1, len(spec.operands)))
        return (
            stage([operands[0]], [columns], [rule(dlight.gpu.Fallback())], (0,)),
            stage([given, weight, *rest], [result], [rule(dlight.gpu.Matmul())], reads),
        )

    def work(self, spec: NodeSpec, params: Params, target: CudaTarget) -> Work:
        """The convolution's own; stored columns are written and read once more."""
        geometry = Geometry.required(spec)
        plain = super().work(spec, params, target)
        if not dict(params)["stored"]:
            return plain
        columns = 4.0 * geometry.groups * geometry.batch * geometry.positions * geometry.taps
        return plain + Work(0.0, 0.0, 2 * columns)


def padded(geometry: Geometry, data: Any, height: int, width: int) -> Any:
    """The input within zeros, ``height`` rows and ``width`` columns of it, as a stage that is inlined."""

    def one(n: Any, c: Any, i: Any, j: Any) -> Any:
        y, x = i - geometry.top, j - geometry.left
        inside = tirx.all(y >= 0, y < geometry.height, x >= 0, x < geometry.width)
        return tirx.if_then_else(inside, data[n, c, y, x], tirx.const(0.0, "float32"))

    if not geometry.top and not geometry.left and height <= geometry.height and width <= geometry.width:
        return data
    return te.compute((geometry.batch, geometry.channels, height, width), one, "padded")


def _kernel_shape(geometry: Geometry) -> tuple[int, int, int]:
    return geometry.groups, geometry.group_out, geometry.taps


def _columns(geometry: Geometry, data: Any) -> Any:
    """[groups, N * positions, taps]."""
    height, width = geometry.padded
    source = padded(geometry, data, height, width)
    (rows, columns), (down, right), (apart, aside) = geometry.kernel, geometry.strides, geometry.dilation

    def one(g: Any, p: Any, k: Any) -> Any:
        n, place = p // geometry.positions, p % geometry.positions
        i, j = place // geometry.out_width, place % geometry.out_width
        c, tap = k // (rows * columns), k % (rows * columns)
        y, x = i * down + tap // columns * apart, j * right + tap % columns * aside
        return source[n, g * geometry.group_in + c, y, x]

    count = geometry.batch * geometry.positions
    return te.compute((geometry.groups, count, geometry.taps), one, "columns")


def _product(spec: NodeSpec, geometry: Geometry, columns: Any, weight: Any, rest: Sequence[Any]) -> Any:
    """Columns times kernel, then the epilogue, in the result's own layout."""
    k = te.reduce_axis((0, geometry.taps), "k")
    count = geometry.batch * geometry.positions
    product = te.compute(
        (geometry.groups, count, geometry.group_out),
        lambda g, p, o: te.sum(columns[g, p, k] * weight[g, o, k], axis=[k]),
        "product",
    )

    def one(n: Any, c: Any, i: Any, j: Any) -> Any:
        p = (n * geometry.out_height + i) * geometry.out_width + j
        value = product[c // geometry.group_out, p, c % geometry.group_out]
        return applied(spec, value, rest, (n, c, i, j))

    return te.compute(spec.results[0].shape, one, "result")
