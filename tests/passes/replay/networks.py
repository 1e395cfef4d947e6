"""The networks of the tests: those that the rows' authors published, and Inception-v3."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx
import pytest

from joulec.passes.replay.networks import Layers, Pair, read_network

DATA = Path(__file__).parents[4] / "shared" / "data"
ROWS = DATA / "mlsys20_costs.txt"
COSTS = f"mlsys20:{ROWS}"

needs_rows = pytest.mark.skipif(not ROWS.exists(), reason=f"the measured rows are not at {ROWS}")


@cache
def network(name: str) -> onnx.ModelProto:
    """``squeezenet`` or ``resnet50`` as the rows' authors optimised them."""
    return read_network(DATA / f"graph_{name}.json")


@cache
def inception() -> onnx.ModelProto:
    """Inception-v3 (94 convolutions) with the concats as the rows have them: two inputs, nested, where possible."""
    net = Layers(3)
    x = _conv(net, "data", 32, (3, 3), (2, 2), (0, 0))
    x = _conv(net, x, 32, (3, 3), (1, 1), (0, 0))
    x = _conv(net, x, 64, (3, 3))
    x = net.pool(x, "MaxPool", (3, 3), (2, 2))
    x = _conv(net, x, 80, (1, 1))
    x = _conv(net, x, 192, (3, 3), (1, 1), (0, 0))
    x = net.pool(x, "MaxPool", (3, 3), (2, 2))
    for width in (32, 64, 64):
        x = _block_35(net, x, width)
    long = _conv(net, _conv(net, _conv(net, x, 64, (1, 1)), 96, (3, 3)), 96, (3, 3), (2, 2), (0, 0))
    x = net.concat(
        net.concat(_conv(net, x, 384, (3, 3), (2, 2), (0, 0)), long), net.pool(x, "AveragePool", (3, 3), (2, 2))
    )
    for width in (128, 160, 160, 192):
        x = _block_17(net, x, width)
    short = _conv(net, _conv(net, x, 192, (1, 1)), 320, (3, 3), (2, 2), (0, 0))
    long = _conv(net, _conv(net, _conv(net, x, 192, (1, 1)), 192, (1, 7)), 192, (7, 1))
    x = net.concat(short, _conv(net, long, 192, (3, 3), (2, 2), (0, 0)), net.pool(x, "MaxPool", (3, 3), (2, 2)))
    for _ in range(2):
        x = _block_8(net, x)
    return net.model("inception", (1, 3, 299, 299), net.pool(x, "AveragePool", (8, 8), (1, 1)))


def _conv(net: Layers, x: str, out: int, kernel: Pair, strides: Pair = (1, 1), pads: Pair | None = None) -> str:
    return net.relu(net.conv(x, out, kernel, strides, pads))


def _block_35(net: Layers, x: str, width: int) -> str:
    middle = _conv(net, _conv(net, x, 48, (1, 1)), 64, (5, 5))
    long = _conv(net, _conv(net, _conv(net, x, 64, (1, 1)), 96, (3, 3)), 96, (3, 3))
    pooled = _conv(net, net.relu(net.pool(x, "AveragePool", (3, 3), (1, 1), (1, 1))), width, (1, 1))
    return net.concat(net.concat(_conv(net, x, 64, (1, 1)), middle), net.concat(long, pooled))


def _block_17(net: Layers, x: str, width: int) -> str:
    middle = _conv(net, _conv(net, _conv(net, x, width, (1, 1)), width, (1, 7)), 192, (7, 1))
    long = _conv(net, x, width, (1, 1))
    for out, kernel in ((width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))):
        long = _conv(net, long, out, kernel)
    pooled = _conv(net, net.relu(net.pool(x, "AveragePool", (3, 3), (1, 1), (1, 1))), 192, (1, 1))
    return net.concat(net.concat(_conv(net, x, 192, (1, 1)), middle), net.concat(long, pooled))


def _block_8(net: Layers, x: str) -> str:
    middle = _conv(net, x, 384, (1, 1))
    long = _conv(net, _conv(net, x, 448, (1, 1)), 384, (3, 3))
    pairs = [net.concat(_conv(net, part, 384, (1, 3)), _conv(net, part, 384, (3, 1))) for part in (middle, long)]
    pooled = _conv(net, net.pool(x, "MaxPool", (3, 3), (1, 1), (1, 1)), 192, (1, 1))
    return net.concat(_conv(net, x, 320, (1, 1)), *pairs, pooled)
