"""All kernels, and which of them compute a spec."""

from __future__ import annotations

from joulec.passes.graph import NodeSpec
from joulec.passes.kernels.batch_matmul import Matmul
from joulec.passes.kernels.conv_direct import DirectConv
from joulec.passes.kernels.conv_gemm import GemmConv, Im2colConv
from joulec.passes.kernels.conv_plane import DepthwiseConv, GroupedConv, PlaneConv
from joulec.passes.kernels.conv_pointwise import PointwiseConv
from joulec.passes.kernels.conv_winograd import WinogradConv
from joulec.passes.kernels.elementwise import Elementwise
from joulec.passes.kernels.kernel import CpuTarget, Kernel, Params
from joulec.passes.kernels.matmul import PackedMatmul
from joulec.passes.kernels.movement import Copies, Permute
from joulec.passes.kernels.normalisation import LocalResponseNormKernel, SoftmaxKernel
from joulec.passes.kernels.pooling import GlobalPool, Pool

KERNELS: tuple[Kernel, ...] = (
    WinogradConv(),
    PointwiseConv(),
    DirectConv(),
    GemmConv(),
    DepthwiseConv(),
    GroupedConv(),
    PlaneConv(),
    Im2colConv(),
    PackedMatmul(),
    Matmul(),
    GlobalPool(),
    Pool(),
    Elementwise(),
    Copies(),
    Permute(),
    SoftmaxKernel(),
    LocalResponseNormKernel(),
)
"""Every kernel, the likelier before the more general."""


def kernels_for(spec: NodeSpec, target: CpuTarget) -> list[tuple[Kernel, Params]]:
    """The kernels that compute a spec, each with each of its schedules, likeliest first. None for a view."""
    return [(kernel, params) for kernel in KERNELS for params in kernel.schedules(spec, target)]


def kernel_named(name: str) -> Kernel:
    """A kernel by its name.

    Raises:
        KeyError: there is none of that name.
    """
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    raise KeyError(f"no kernel is called {name!r}; there are {', '.join(kernel.name for kernel in KERNELS)}")
