"""Times the convolution kernels on this machine, one thread: ``python tests/benchmarks/bench_conv.py squeezenet``.

Prints one line per schedule (milliseconds, GFLOP/s, seconds to compile), then per network the total of the best.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np

os.environ.setdefault("TVM_NUM_THREADS", "1")

import tvm

from joulec.passes.graph import Conv2d, Node, Step, TensorType, Value, Weight, literal
from joulec.passes.kernels.conv_direct import DirectConv
from joulec.passes.kernels.conv_gemm import GemmConv, Im2colConv
from joulec.passes.kernels.conv_plane import DepthwiseConv, GroupedConv, PlaneConv
from joulec.passes.kernels.target import cpu_target

KERNELS = (DirectConv(), GemmConv(), DepthwiseConv(), GroupedConv(), PlaneConv(), Im2colConv())

# (how often, input channels, input size, output channels, kernel, stride, padding, groups)
NETWORKS = {
    "squeezenet": [
        (1, 3, 224, 64, 3, 2, 0, 1),
        *((1, c, s, q, 1, 1, 0, 1) for c, s, q in [(64, 55, 16), (128, 55, 16), (128, 27, 32), (256, 27, 32)]),
        *((1, c, 13, q, 1, 1, 0, 1) for c, q in [(256, 48), (384, 48), (384, 64), (512, 64)]),
        *((2, q, s, 4 * q, k, 1, k // 2, 1) for q, s in [(16, 55), (32, 27), (48, 13), (64, 13)] for k in (1, 3)),
        (1, 512, 13, 1000, 1, 1, 0, 1),
    ],
    "resnet50": [
        (1, 3, 224, 64, 7, 2, 3, 1),
        (1, 64, 56, 64, 1, 1, 0, 1),
        *((n, q, s, q, 3, 1, 1, 1) for n, q, s in [(3, 64, 56), (3, 128, 28), (5, 256, 14), (2, 512, 7)]),
        *((n, q, s, 4 * q, 1, 1, 0, 1) for n, q, s in [(4, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)]),
        *((n, 4 * q, s, q, 1, 1, 0, 1) for n, q, s in [(2, 64, 56), (3, 128, 28), (5, 256, 14), (2, 512, 7)]),
        *((1, 2 * q, 2 * s, q, 1, 1, 0, 1) for q, s in [(128, 28), (256, 14), (512, 7)]),
        *((1, q, 2 * s, q, 3, 2, 1, 1) for q, s in [(128, 28), (256, 14), (512, 7)]),
        *((1, 2 * q, 2 * s, 4 * q, 1, 2, 0, 1) for q, s in [(128, 28), (256, 14), (512, 7)]),
    ],
    "depthwise": [
        (1, 32, 112, 32, 3, 1, 1, 32),
        (1, 96, 112, 96, 3, 2, 1, 96),
        (1, 144, 56, 144, 3, 1, 1, 144),
        (1, 384, 14, 384, 3, 1, 1, 384),
        (1, 960, 7, 960, 3, 1, 1, 960),
        (1, 240, 14, 240, 5, 1, 2, 240),
        (1, 240, 28, 240, 1, 1, 0, 4),
        (1, 128, 56, 128, 3, 1, 1, 32),
    ],
}


def node(channels: int, size: int, out: int, kernel: int, stride: int, pad: int, groups: int) -> Node:
    """A convolution with bias and ReLU on random data."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((out, channels // groups, kernel, kernel)).astype(np.float32)
    op = Conv2d((stride, stride), (pad,) * 4, groups=groups)
    data = Value.input("data", TensorType((1, channels, size, size)))
    operands = (data, literal(weights), literal(weights[:, 0, 0, 0].copy()))
    return Node.make(op, operands, (Step("bias"), Step("activation", "relu")))


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--target", default="llvm")
    parser.add_argument("--repeat", type=int, default=30)
    arguments = parser.parse_args()
    target = cpu_target(arguments.target, 1)
    rng = np.random.default_rng(1)
    for network in arguments.networks:
        total, flops = 0.0, 0.0
        for count, *numbers in NETWORKS[network]:
            subject = node(*numbers)
            best = (float("inf"), "")
            for kernel in KERNELS:
                for params in kernel.schedules(subject.spec, target):
                    begun = time.perf_counter()
                    func = kernel.build(subject.spec, params, target).with_attr("global_symbol", "main")
                    built = tvm.compile(
                        tvm.IRModule({"main": func}), target=tvm.target.Target(json.loads(target.target))
                    )
                    compile_s = time.perf_counter() - begun
                    arrays = [
                        kernel.pack(subject.spec, params, target, index, operand.value())
                        if isinstance(operand, Weight)
                        else rng.standard_normal(operand.type.shape).astype(np.float32)
                        for index, operand in enumerate(subject.operands)
                    ]
                    arguments_ = [tvm.runtime.tensor(array) for array in arrays]
                    arguments_.append(tvm.runtime.empty(subject.spec.results[0].shape, "float32"))
                    timer = built.mod.time_evaluator("main", tvm.cpu(), number=2, repeat=arguments.repeat)
                    time_s = timer(*arguments_).min
                    label = f"{kernel.name}({', '.join(f'{name}={value}' for name, value in params)})"
                    best = min(best, (time_s, label))
                    rate = subject.spec.flops / time_s / 1e9
                    print(f"  {numbers!s:38} {label:52} {time_s * 1e3:8.3f} ms {rate:6.1f} GFLOP/s {compile_s:.2f} s")
            total += count * best[0]
            flops += count * subject.spec.flops
            rate = subject.spec.flops / best[0] / 1e9
            print(f"* {count}x {numbers!s:35} {best[1]:52} {best[0] * 1e3:8.3f} ms {rate:6.1f} GFLOP/s", flush=True)
        print(f"{network}: {total * 1e3:.2f} ms, {flops / total / 1e9:.1f} GFLOP/s\n")


if __name__ == "__main__":
    main()
