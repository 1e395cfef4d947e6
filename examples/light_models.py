"""Nine well-known networks with weights worth computing with.

The onnx package ships the architectures (``light_*.onnx``) with constant fills for weights, under which all outputs are
equal. Here the kernels become He-normal, the statistics plausible, and the logits before a last softmax the output.

    python examples/light_models.py squeezenet squeezenet.onnx --inputs in.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.backend.test
import onnx.helper
import onnx.numpy_helper

FILES = {
    "alexnet": "light_bvlc_alexnet.onnx",
    "densenet121": "light_densenet121.onnx",
    "inception_v1": "light_inception_v1.onnx",
    "inception_v2": "light_inception_v2.onnx",
    "resnet50": "light_resnet50.onnx",
    "shufflenet": "light_shufflenet.onnx",
    "squeezenet": "light_squeezenet.onnx",
    "vgg19": "light_vgg19.onnx",
    "zfnet512": "light_zfnet512.onnx",
}

PIXEL_STD = 64.0
"""Standard deviation of an input: that of pixels from 0 to 255 with their mean taken off."""

OFFSET_STD = 0.05 * PIXEL_STD
"""Standard deviation of biases, shifts and means: enough to be seen in the output, too little to drown the input."""

Array = npt.NDArray[Any]

_BATCH_NORM = ("gain", "shift", "mean", "variance")


def prepare(name: str, seed: int = 0) -> onnx.ModelProto:
    """A network with seeded random weights, held as initializers only.

    Args:
        name: a key of `FILES`.
        seed: decides all weights.

    Raises:
        KeyError: there is no network of this name.
    """
    folder = Path(onnx.backend.test.__file__).parent / "data" / "light"
    model = onnx.load(folder / FILES[name])
    graph = model.graph
    shapes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fills = {
        node.output[0]: tuple(int(size) for size in shapes[node.input[0]])
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    roles = _roles(graph)
    rng = np.random.default_rng(seed)
    weights = [
        onnx.numpy_helper.from_array(_weight(rng, roles[output], shape), output) for output, shape in fills.items()
    ]
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    outputs = list(graph.output)
    if nodes[-1].op_type == "Softmax":
        logits = nodes.pop().input[0]
        dims = [dim.dim_value for dim in outputs[0].type.tensor_type.shape.dim]
        outputs = [onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, dims)]
    used = {operand for node in nodes for operand in node.input}
    weights += [tensor for tensor in graph.initializer if tensor.name in used]
    known = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in known]
    prepared = onnx.helper.make_graph(nodes, name, inputs, outputs, weights)
    return onnx.helper.make_model(prepared, opset_imports=model.opset_import, ir_version=8, producer_name="joulec")


def example_input(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    """Random inputs of pixel magnitude, by name."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = np.asarray(PIXEL_STD * rng.standard_normal(shape, np.float32), np.float32)
    return feeds


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """What each constant is for, told by the node that reads it, looking through reshapes of weights."""
    roles: dict[str, str] = {}
    for node in reversed(graph.node):
        operands = node.input[1:]
        if node.op_type in ("Reshape", "Unsqueeze") and node.output[0] in roles:
            roles[node.input[0]] = roles[node.output[0]]
        elif node.op_type == "Conv":
            roles.update(zip(operands, ("kernel", "bias"), strict=False))
        elif node.op_type == "Gemm":
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            roles.update(zip(operands, ("kernel" if transposed else "matrix", "bias"), strict=False))
        elif node.op_type == "BatchNormalization":
            roles.update(zip(operands, _BATCH_NORM, strict=True))
        elif node.op_type in ("Mul", "Add"):
            roles[operands[0]] = "gain" if node.op_type == "Mul" else "shift"
    return roles


def _weight(rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> Array:
    """A weight for its role; kernels are He-normal: variance 2 / fan-in keeps activations at one magnitude."""
    noise = rng.standard_normal(shape, np.float32)
    if role in ("kernel", "matrix"):
        # a matrix that is reshaped before use may have leading axes of size one
        fan_in = np.prod(shape[1:]) if role == "kernel" else shape[0]
        if shape[0] == 1:
            fan_in = shape[-1]
        return np.asarray(noise * np.sqrt(2.0 / fan_in), np.float32)
    if role in ("gain", "variance"):
        return np.asarray(np.exp(0.1 * noise), np.float32)
    return np.asarray(OFFSET_STD * noise, np.float32)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Write a well-known network with seeded random weights as ONNX.")
    parser.add_argument("name", choices=sorted(FILES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=Path, help="also write random inputs of pixel magnitude to this .npz")
    arguments = parser.parse_args()
    model = prepare(arguments.name, arguments.seed)
    onnx.save(model, arguments.out)
    if arguments.inputs:
        feeds: dict[str, Any] = dict(example_input(model, arguments.seed))
        np.savez(arguments.inputs, **feeds)
    print(f"{arguments.out}: {len(model.graph.node)} nodes, {model.ByteSize() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
