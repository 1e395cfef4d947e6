"""ONNX files broken on purpose, by seed: what bad disks, bad exporters and bad luck do to a model."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Mutation = Callable[[onnx.ModelProto, random.Random], "bytes | onnx.ModelProto"]


@dataclass(frozen=True)
class BrokenCase:
    """A file to write and how it was broken."""

    seed: int
    how: str

    def write(self, folder: Path) -> Path:
        """The file, and its external weights where it has some."""
        chance = random.Random(self.seed)
        model = network(chance)
        path = folder / "model.onnx"
        if self.how == "external weights":
            _with_external(model, path, chance)
            return path
        broken = MUTATIONS[self.how](model, chance)
        path.write_bytes(broken if isinstance(broken, bytes) else broken.SerializeToString())
        return path


def cases(count: int, begin: int = 0) -> list[BrokenCase]:
    """Every kind of damage in turn, from a seed on."""
    kinds = [*MUTATIONS, "external weights"]
    return [BrokenCase(seed, kinds[seed % len(kinds)]) for seed in range(begin, begin + count)]


def network(chance: random.Random) -> onnx.ModelProto:
    """A sound little network: convolution, activation, reshape by a constant, product, softmax."""
    rng = np.random.default_rng(chance.randrange(1 << 30))
    channels, size = chance.choice([2, 4, 8]), chance.choice([4, 6])
    flat = channels * size * size
    weights = {
        "kernel": rng.standard_normal((channels, 3, 3, 3)).astype("float32"),
        "bias": rng.standard_normal(channels).astype("float32"),
        "shape": np.array([1, flat]),
        "dense": rng.standard_normal((flat, 5)).astype("float32"),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node(chance.choice(["Relu", "HardSwish", "Elu"]), ["a"], ["b"], name="act"),
        helper.make_node("Reshape", ["b", "shape"], ["c"], name="flatten"),
        helper.make_node("MatMul", ["c", "dense"], ["d"], name="dense"),
        helper.make_node("Softmax", ["d"], ["y"], name="softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _truncated(model: onnx.ModelProto, chance: random.Random) -> bytes:
    text = model.SerializeToString()
    return text[: chance.randrange(len(text))]


def _flipped(model: onnx.ModelProto, chance: random.Random) -> bytes:
    text = bytearray(model.SerializeToString())
    for _ in range(chance.choice([1, 4, 64])):
        text[chance.randrange(len(text))] ^= 1 << chance.randrange(8)
    return bytes(text)


def _flipped_structure(model: onnx.ModelProto, chance: random.Random) -> bytes:
    """Bytes outside of the large weights, where they matter."""
    for tensor in model.graph.initializer:
        if tensor.name == "dense":
            tensor.raw_data = tensor.raw_data[:16]
            tensor.dims[:] = [2, 2]
    return _flipped(model, chance)


def _missing_weight(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    del model.graph.initializer[chance.randrange(len(model.graph.initializer))]
    return model


def _short_weight(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    tensor = chance.choice(model.graph.initializer)
    tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data))]
    return model


def _cycle(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    first, second = sorted(chance.sample(range(len(model.graph.node)), 2))
    model.graph.node[first].input[0] = model.graph.node[second].output[0]
    return model


def _shuffled(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    nodes = list(model.graph.node)
    chance.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _wrong_type(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    kinds = [TensorProto.STRING, TensorProto.INT8, TensorProto.BOOL, TensorProto.DOUBLE, TensorProto.UNDEFINED, 77]
    place: Any = chance.choice([*model.graph.initializer, model.graph.input[0], model.graph.output[0]])
    if isinstance(place, onnx.TensorProto):
        place.data_type = chance.choice(kinds)
    else:
        place.type.tensor_type.elem_type = chance.choice(kinds)
    return model


def _wrong_attribute(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    attribute = model.graph.node[0].attribute[0]
    attribute.CopyFrom(
        chance.choice(
            [
                helper.make_attribute("pads", [1 << 40] * 4),
                helper.make_attribute("pads", [-(1 << 40)] * 4),
                helper.make_attribute("pads", "wide"),
                helper.make_attribute("pads", [1]),
                helper.make_attribute("strides", [0, 0]),
                helper.make_attribute("dilations", [1 << 31, 1]),
                helper.make_attribute("group", 0),
                helper.make_attribute("kernel_shape", [7, -1]),
            ]
        )
    )
    return model


def _absurd_shape(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    sizes = [0, -1, -5, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1]
    if chance.random() < 0.5:
        dims: Any = chance.choice(model.graph.initializer).dims
        dims[chance.randrange(len(dims))] = chance.choice(sizes)
    else:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        dims[chance.randrange(len(dims))].dim_value = chance.choice(sizes)
    return model


def _terabytes(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """A small file that asks for more memory than there is."""
    huge = numpy_helper.from_array(np.array([chance.choice([1 << 36, 1 << 40, 1 << 44]), 5]), "huge")
    model.graph.initializer.append(huge)
    kind = chance.choice(["ConstantOfShape", "Expand", "Reshape", "Tile"])
    operands = {"ConstantOfShape": ["huge"], "Tile": ["d", "huge"]}.get(kind, ["d", "huge"])
    model.graph.node.append(helper.make_node(kind, operands, ["big"], name="big"))
    model.graph.node.append(helper.make_node("ReduceMax", ["big"], ["z"], name="top", keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, []))
    return model


def _duplicate_name(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    first, second = chance.sample(range(len(model.graph.node)), 2)
    model.graph.node[first].output[0] = model.graph.node[second].output[0]
    return model


def _unknown_operator(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    node = chance.choice(model.graph.node)
    node.op_type = chance.choice(["Wizardry", "", "relu", "Conv2D"])
    node.domain = chance.choice(["", "com.example", "ai.onnx.ml"])
    return model


def _wrong_opset(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    model.opset_import[0].version = chance.choice([-1, 0, 1, 3, 999, 1 << 40])
    return model


def _too_few_operands(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    node = chance.choice(model.graph.node)
    del node.input[chance.randrange(len(node.input)) :]
    return model


def _no_graph(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    model.ClearField(chance.choice(["graph", "opset_import"]))
    return model


def _other_file(model: onnx.ModelProto, chance: random.Random) -> bytes:
    return chance.choice([b"", b"\x00" * 4096, b"<html></html>", bytes(chance.randrange(256) for _ in range(999))])


def _with_external(model: onnx.ModelProto, path: Path, chance: random.Random) -> None:
    """Weights in a file beside it, which is missing, cut short or said to lie elsewhere."""
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    weights = path.parent / "weights.bin"
    how = chance.choice(["gone", "short", "empty", "offset", "escape"])
    if how == "gone":
        weights.unlink()
    elif how in ("short", "empty"):
        weights.write_bytes(weights.read_bytes()[: 0 if how == "empty" else 40])
    else:
        kept = onnx.load(path, load_external_data=False)
        for tensor in kept.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == ("offset" if how == "offset" else "location"):
                    entry.value = str(1 << 50) if how == "offset" else "../../../../etc/hostname"
        path.write_bytes(kept.SerializeToString())


MUTATIONS: dict[str, Mutation] = {
    "truncated": _truncated,
    "flipped bits": _flipped,
    "flipped bits of the structure": _flipped_structure,
    "missing weight": _missing_weight,
    "short weight": _short_weight,
    "cycle": _cycle,
    "nodes out of order": _shuffled,
    "wrong type": _wrong_type,
    "wrong attribute": _wrong_attribute,
    "absurd shape": _absurd_shape,
    "terabytes": _terabytes,
    "duplicate name": _duplicate_name,
    "unknown operator": _unknown_operator,
    "wrong opset": _wrong_opset,
    "too few operands": _too_few_operands,
    "no graph": _no_graph,
    "another file": _other_file,
}
