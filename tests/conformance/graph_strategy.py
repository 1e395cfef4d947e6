"""Random ONNX graphs: every operator fits its operands, attributes and shapes are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[Any], Any]
OPERATORS = 20
_FLOAT = TensorProto.FLOAT


@dataclass
class Net:
    """A graph under construction: float32 values by name with their shapes."""

    draw: Draw
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    count: int = 0

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, array: Any) -> str:
        name = self.fresh()
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int) -> str:
        """Seeded normal numbers, scaled so that values stay moderate."""
        rng = np.random.default_rng(self.draw(st.integers(0, 99)))
        return self.constant((rng.standard_normal(shape) / math.sqrt(max(math.prod(shape[1:]), 1))).astype("float32"))

    def add(self, kind: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        name = self.fresh()
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.shapes[name] = shape
        return name

    def pick(self, fits: Callable[[tuple[int, ...]], bool] = lambda shape: True) -> tuple[str, tuple[int, ...]] | None:
        """A value whose shape fits, a late one more likely."""
        fitting = [name for name, shape in self.shapes.items() if fits(shape)]
        if not fitting:
            return None
        name = fitting[-1 - self.draw(st.integers(0, min(len(fitting), 4) - 1))]
        return name, self.shapes[name]


def _unary(net: Net, x: str, shape: tuple[int, ...]) -> None:
    plain = ["Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Softsign", "HardSwish", "Softplus", "Erf", "Ceil", "Sin"]
    kind = net.draw(st.sampled_from(plain))
    net.add(kind, [x], shape)


def _parametric(net: Net, x: str, shape: tuple[int, ...]) -> None:
    kind = net.draw(st.sampled_from(["LeakyRelu", "Elu", "HardSigmoid", "ThresholdedRelu", "Celu"]))
    net.add(kind, [x], shape, alpha=net.draw(st.sampled_from([0.1, 0.5, 1.5])))


def _clip(net: Net, x: str, shape: tuple[int, ...]) -> None:
    bounds = sorted(net.draw(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 6.0]), min_size=2, max_size=2)))
    net.add("Clip", [x, *(net.constant(np.float32(bound)) for bound in bounds)], shape)


def _binary(net: Net, x: str, shape: tuple[int, ...]) -> None:
    kind = net.draw(st.sampled_from(["Add", "Mul", "Sub", "Max", "Min"]))
    other = net.pick(lambda own: own == shape)
    if other is not None and net.draw(st.booleans()):
        net.add(kind, [x, other[0]], shape)
        return
    kept = [size if net.draw(st.booleans()) else 1 for size in shape]
    net.add(kind, [x, net.weight(*kept[net.draw(st.integers(0, len(shape))) :])], shape)


def _matmul(net: Net, x: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        return
    columns = net.draw(st.integers(1, 6))
    net.add("MatMul", [x, net.weight(shape[-1], columns)], (*shape[:-1], columns))


def _window(net: Net, sizes: tuple[int, ...]) -> tuple[list[int], list[int], list[int], list[int]] | None:
    kernel = [net.draw(st.integers(1, min(3, size))) for size in sizes]
    strides = [net.draw(st.integers(1, 2)) for _ in sizes]
    pads = [net.draw(st.integers(0, k - 1)) for k in kernel] + [net.draw(st.integers(0, k - 1)) for k in kernel]
    rank = len(sizes)
    out = [(sizes[d] + pads[d] + pads[d + rank] - kernel[d]) // strides[d] + 1 for d in range(rank)]
    return kernel, strides, pads, out


def _conv(net: Net, x: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4):
        return
    kernel, strides, pads, out = _window(net, shape[2:])
    groups = shape[1] if net.draw(st.booleans()) and net.draw(st.booleans()) else 1
    outputs = shape[1] if groups > 1 else net.draw(st.integers(1, 5))
    inputs = [x, net.weight(outputs, shape[1] // groups, *kernel)]
    if net.draw(st.booleans()):
        inputs.append(net.weight(outputs))
    net.add("Conv", inputs, (shape[0], outputs, *out), pads=pads, strides=strides, group=groups)


def _pool(net: Net, x: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4):
        return
    kernel, strides, pads, out = _window(net, shape[2:])
    kind = net.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    extra = {"count_include_pad": net.draw(st.integers(0, 1))} if kind == "AveragePool" else {}
    net.add(kind, [x], (*shape[:2], *out), kernel_shape=kernel, strides=strides, pads=pads, **extra)


def _reshape(net: Net, x: str, shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    first = net.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
    target = (first, size // first) if len(shape) > 2 else (1, first, size // first)
    written = [*target[:-1], -1] if net.draw(st.booleans()) else list(target)
    net.add("Reshape", [x, net.constant(np.array(written))], target)


def _transpose(net: Net, x: str, shape: tuple[int, ...]) -> None:
    order = net.draw(st.permutations(range(len(shape))))
    net.add("Transpose", [x], tuple(shape[axis] for axis in order), perm=order)


def _concat(net: Net, x: str, shape: tuple[int, ...]) -> None:
    axis = net.draw(st.integers(0, len(shape) - 1))
    other = net.pick(
        lambda own: len(own) == len(shape) and own[:axis] == shape[:axis] and own[axis + 1 :] == shape[axis + 1 :]
    )
    assert other is not None
    joined = (*shape[:axis], shape[axis] + other[1][axis], *shape[axis + 1 :])
    if math.prod(joined) < 4096:
        net.add("Concat", [x, other[0]], joined, axis=axis - len(shape) * net.draw(st.integers(0, 1)))


def _slice(net: Net, x: str, shape: tuple[int, ...]) -> None:
    axis = net.draw(st.integers(0, len(shape) - 1))
    begin = net.draw(st.integers(0, shape[axis] - 1))
    end = net.draw(st.integers(begin + 1, shape[axis]))
    step = net.draw(st.integers(1, 2))
    bounds = [[begin - (shape[axis] if net.draw(st.booleans()) else 0)], [end], [axis], [step]]
    size = -(-(end - begin) // step)
    net.add("Slice", [x, *(net.constant(np.array(b)) for b in bounds)], (*shape[:axis], size, *shape[axis + 1 :]))


def _pad(net: Net, x: str, shape: tuple[int, ...]) -> None:
    mode = net.draw(st.sampled_from(["constant", "edge", "reflect"]))
    most = [min(2, size - 1) if mode == "reflect" else 2 for size in shape]
    pads = [net.draw(st.integers(0, limit)) for limit in [*most, *most]]
    rank = len(shape)
    out = tuple(size + pads[d] + pads[d + rank] for d, size in enumerate(shape))
    if math.prod(out) < 4096:
        net.add("Pad", [x, net.constant(np.array(pads))], out, mode=mode)


def _softmax(net: Net, x: str, shape: tuple[int, ...]) -> None:
    net.add(net.draw(st.sampled_from(["Softmax", "LogSoftmax"])), [x], shape, axis=net.draw(_axis(shape)))


def _axis(shape: tuple[int, ...]) -> Any:
    return st.integers(-len(shape), len(shape) - 1)


def _reduce(net: Net, x: str, shape: tuple[int, ...]) -> None:
    kind = net.draw(st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceLogSumExp"]))
    axis = net.draw(_axis(shape))
    keep = 1 if len(shape) < 2 else net.draw(st.integers(0, 1))
    place = axis % len(shape)
    out = (*shape[:place], *([1] if keep else []), *shape[place + 1 :])
    net.add(kind, [x, net.constant(np.array([axis]))], out, keepdims=keep)


def _gather(net: Net, x: str, shape: tuple[int, ...]) -> None:
    axis = net.draw(_axis(shape))
    place = axis % len(shape)
    index = net.draw(st.lists(st.integers(-shape[place], shape[place] - 1), min_size=1, max_size=3))
    net.add("Gather", [x, net.constant(np.array(index))], (*shape[:place], len(index), *shape[place + 1 :]), axis=axis)


def _layer_norm(net: Net, x: str, shape: tuple[int, ...]) -> None:
    if shape[-1] < 2:
        return
    net.add("LayerNormalization", [x, net.weight(shape[-1]), net.weight(shape[-1])], shape)


def _batch_norm(net: Net, x: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        return
    rng = np.random.default_rng(shape[1])
    variance = net.constant(rng.uniform(0.5, 2, shape[1]).astype("float32"))
    statistics = [net.weight(shape[1]) for _ in range(3)]
    net.add("BatchNormalization", [x, *statistics, variance], shape)


def _resize(net: Net, x: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 4 or math.prod(shape) > 1024:
        return
    scale = net.draw(st.sampled_from([1, 2]))
    mode = net.draw(st.sampled_from(["nearest", "linear"]))
    how = net.draw(st.sampled_from(["half_pixel", "asymmetric", "pytorch_half_pixel"]))
    extra = {"nearest_mode": "floor"} if mode == "nearest" else {}
    scales = net.constant(np.array([1, 1, scale, scale], "float32"))
    out = (*shape[:2], shape[2] * scale, shape[3] * scale)
    net.add("Resize", [x, "", scales], out, mode=mode, coordinate_transformation_mode=how, **extra)


def _where(net: Net, x: str, shape: tuple[int, ...]) -> None:
    other = net.pick(lambda own: own == shape)
    assert other is not None
    mask = net.fresh()
    net.nodes.append(helper.make_node("Greater", [x, net.constant(np.float32(0.1))], [mask]))
    net.add("Where", [mask, x, other[0]], shape)


def _counted(net: Net, x: str, shape: tuple[int, ...]) -> None:
    """Cumulated sums."""
    axis = net.constant(np.array(net.draw(_axis(shape))))
    net.add("CumSum", [x, axis], shape, exclusive=net.draw(st.integers(0, 1)), reverse=net.draw(st.integers(0, 1)))


STEPS = (
    _unary, _parametric, _clip, _binary, _binary, _matmul, _conv, _conv, _pool, _reshape, _transpose, _concat, _slice,
    _pad, _softmax, _reduce, _gather, _layer_norm, _batch_norm, _resize, _where, _counted,
)  # fmt: skip


@st.composite
def models(draw: Draw) -> onnx.ModelProto:
    """A model of up to `OPERATORS` steps with several outputs."""
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 6)) for _ in range(rank))
    net = Net(draw, shapes={"x": shape})
    for _ in range(draw(st.integers(1, OPERATORS))):
        picked = net.pick(lambda own: len(own) > 0 and math.prod(own) > 0)
        assert picked is not None
        draw(st.sampled_from(STEPS))(net, *picked)
    read = {name for node in net.nodes for name in node.input}
    ends = [name for name in net.shapes if name not in read and name != "x"] or list(net.shapes)[-1:]
    if ends == ["x"]:
        ends = [net.add("Identity", ["x"], shape)]
    outputs = [helper.make_tensor_value_info(name, _FLOAT, net.shapes[name]) for name in ends[-4:]]
    graph = helper.make_graph(
        net.nodes, "generated", [helper.make_tensor_value_info("x", _FLOAT, shape)], outputs, net.weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
