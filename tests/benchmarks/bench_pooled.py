"""Times poolings inside convolutions beside the two apart: ``python tests/benchmarks/bench_pooled.py squeezenet vgg``.

Prints per layer the best convolution, its pooling, both in one, and the ratio; all on all threads and turn by turn.
"""

from __future__ import annotations

import argparse
import json
import os

import numpy as np
import tvm

from joulec.passes.graph import Conv2d, MaxPool2d, Node, PooledConv2d, Step, TensorType, Value, Weight, literal
from joulec.passes.kernels.blocks import ends
from joulec.passes.kernels.conv_direct import DirectConv
from joulec.passes.kernels.conv_plane import PlaneConv
from joulec.passes.kernels.conv_pooled import PooledConv
from joulec.passes.kernels.conv_winograd import WinogradConv
from joulec.passes.kernels.pipeline import PIPELINE
from joulec.passes.kernels.pooling import Pool
from joulec.passes.kernels.target import cpu_target

THREADS = len(os.sched_getaffinity(0))
TARGET = cpu_target(None, THREADS)
STEPS = (Step("bias"), Step("activation", "relu"))

# (input channels, input size, output channels, kernel, stride, padding), (window, stride, padding)
NETWORKS = {
    "squeezenet": [((3, 224, 64, 3, 2, 0), (3, 2, 0))],
    "resnet50": [((3, 224, 64, 7, 2, 3), (3, 2, 1))],
    "vgg": [((c, s, c, 3, 1, 1), (2, 2, 0)) for c, s in [(64, 224), (128, 112), (256, 56), (512, 28), (512, 14)]],
}


def timers(node, kernels):
    """A function per row-major schedule that times it once on random data, in seconds."""
    rng = np.random.default_rng(1)
    found = []
    for kernel in kernels:
        for params in kernel.schedules(node.spec, TARGET):
            if any(ends(params)):
                continue
            function = kernel.build(node.spec, params, TARGET).with_attr("global_symbol", "main")
            module = tvm.IRModule({"main": function})
            built = tvm.compile(module, target=tvm.target.Target(json.loads(TARGET.target)), tir_pipeline=PIPELINE)
            arrays = [
                kernel.pack(node.spec, params, TARGET, index, operand.value())
                if isinstance(operand, Weight)
                else rng.standard_normal(operand.type.shape, np.float32)
                for index, operand in enumerate(node.operands)
            ]
            tensors = [tvm.runtime.tensor(array) for array in arrays]
            tensors.append(tvm.runtime.empty(node.spec.results[0].shape, "float32"))
            timer = built.mod.time_evaluator("main", tvm.cpu(), number=1, repeat=5)
            found.append(lambda timer=timer, tensors=tensors: timer(*tensors).min)
    return found


def layers(conv, pool):
    """The convolution, the pooling, and both in one."""
    channels, size, out, kernel, stride, padding = conv
    rng = np.random.default_rng(0)
    weights = literal(rng.standard_normal((out, channels, kernel, kernel), np.float32) / 50)
    data = Value.input("data", TensorType((1, channels, size, size)))
    given = (data, weights, literal(rng.standard_normal(out, np.float32)))
    first, second = Conv2d((stride, stride), (padding,) * 4), MaxPool2d((pool[0],) * 2, (pool[1],) * 2, (pool[2],) * 4)
    apart = Node.make(first, given, STEPS)
    return apart, Node.make(second, apart.outputs), Node.make(PooledConv2d(first, second), given, STEPS)


def main() -> None:
    """Parse the command line and print a line per layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="network", help=f"of {', '.join(NETWORKS)}; all when omitted")
    parser.add_argument("--turns", type=int, default=4)
    arguments = parser.parse_args()
    tvm.get_global_func("runtime.config_threadpool")(1, THREADS)
    for network in arguments.networks or NETWORKS:
        for conv, pool in NETWORKS[network]:
            kinds = [(DirectConv(), PlaneConv(), WinogradConv()), (Pool(),), (PooledConv(), WinogradConv())]
            rivals = [timers(node, kernels) for node, kernels in zip(layers(conv, pool), kinds, strict=True)]
            least = [float("inf")] * 3
            for _ in range(arguments.turns):
                least = [min(best, *(timer() for timer in of)) for best, of in zip(least, rivals, strict=True)]
            apart, pooling, joined = (1e3 * seconds for seconds in least)
            print(
                f"{network:10} {conv!s:26} {apart:7.3f} ms, pooling {pooling:6.3f} ms; in one {joined:7.3f} ms: "
                f"{joined / (apart + pooling):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
