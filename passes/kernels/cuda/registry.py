"""All algorithms for CUDA targets."""

from __future__ import annotations

from joulec.passes.kernels.cuda.conv import CudaIm2col
from joulec.passes.kernels.cuda.kernel import CudaKernel
from joulec.passes.kernels.cuda.ruled import CudaFallback, CudaGemv, CudaMatmul, CudaReduction, CudaTranspose
from joulec.passes.kernels.cuda.winograd import CudaWinograd

CUDA_KERNELS: tuple[CudaKernel, ...] = (
    CudaWinograd(),
    CudaIm2col(),
    CudaGemv,
    CudaMatmul,
    CudaReduction,
    CudaTranspose,
    CudaFallback,
)
"""Every algorithm, the likelier before the more general."""
