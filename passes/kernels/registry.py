"""All kernels, and which of them compute a spec."""

from __future__ import annotations

from typing import Any

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels.batch_matmul import Matmul
from joulec.passes.kernels.conv_direct import DirectConv
from joulec.passes.kernels.conv_gemm import GemmConv, Im2colConv
from joulec.passes.kernels.conv_plane import DepthwiseConv, GroupedConv, PlaneConv
from joulec.passes.kernels.conv_pointwise import PointwiseConv
from joulec.passes.kernels.conv_pooled import PooledConv
from joulec.passes.kernels.conv_winograd import WinogradConv
from joulec.passes.kernels.cuda.kernel import CudaKernel
from joulec.passes.kernels.cuda.target import CudaTarget
from joulec.passes.kernels.dynamic_quantize import DynamicQuantize
from joulec.passes.kernels.elementwise import Elementwise
from joulec.passes.kernels.integer_conv import IntegerConv
from joulec.passes.kernels.integer_matmul import IntegerMatmul
from joulec.passes.kernels.kernel import CpuTarget, Kernel, Params
from joulec.passes.kernels.linear_quantize import LinearQuantize
from joulec.passes.kernels.matmul import PackedMatmul
from joulec.passes.kernels.movement import Copies, Permute
from joulec.passes.kernels.normalisation import LocalResponseNormKernel, SoftmaxKernel
from joulec.passes.kernels.pooling import GlobalPool, Pool
from joulec.passes.kernels.relayout import RelayoutKernel

AnyKernel = Kernel | CudaKernel

KERNELS: tuple[Kernel, ...] = (
    WinogradConv(),
    PointwiseConv(),
    DirectConv(),
    GemmConv(),
    DepthwiseConv(),
    GroupedConv(),
    PlaneConv(),
    Im2colConv(),
    PooledConv(),
    PackedMatmul(),
    Matmul(),
    GlobalPool(),
    Pool(),
    Elementwise(),
    Copies(),
    Permute(),
    SoftmaxKernel(),
    LocalResponseNormKernel(),
    RelayoutKernel(),
    IntegerConv(),
    IntegerMatmul(),
    DynamicQuantize(),
    LinearQuantize(),
)
"""Every kernel for CPUs, the likelier before the more general."""


def kernels_of(target: CpuTarget | CudaTarget) -> tuple[AnyKernel, ...]:
    """Every kernel for targets of that kind; those for CUDA are loaded when first asked for."""
    if isinstance(target, CpuTarget):
        return KERNELS
    from joulec.passes.kernels.cuda.registry import CUDA_KERNELS

    return CUDA_KERNELS


def kernels_for(spec: NodeSpec, target: CpuTarget | CudaTarget) -> list[tuple[Any, Params]]:
    """The kernels that compute a spec, each with each of its schedules, likeliest first. None for a view."""
    kernels: tuple[Any, ...] = kernels_of(target)
    return [(kernel, params) for kernel in kernels for params in kernel.schedules(spec, target)]


def kernel_named(name: str, target: CpuTarget | CudaTarget) -> Any:
    """A kernel for targets of that kind by its name.

    Raises:
        KeyError: there is none of that name.
    """
    kernels = kernels_of(target)
    for kernel in kernels:
        if kernel.name == name:
            return kernel
    raise KeyError(f"no kernel is called {name!r}; there are {', '.join(kernel.name for kernel in kernels)}")
