"""Algorithms for CUDA targets on a real GPU, against numpy: ``make test-gpu``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

import joulec
from joulec.passes.graph import Weight
from joulec.passes.graph.evaluate import evaluate_node
from joulec.passes.kernels.cuda.target import cuda_target
from joulec.passes.kernels.registry import kernels_for
from joulec.passes.kernels.workload import KernelPayload
from joulec.passes.relax.cuda_workload import build, open_gpu, own_executable
from joulec.profiler.gpu import local_gpu

sys.path.append(str(Path(__file__).parents[1] / "passes/kernels/support"))

from cuda_cases import CASES

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def target():
    return cuda_target("cuda", local_gpu(0).isa)


@pytest.fixture(scope="module")
def device(target):
    return open_gpu(target)


def arrays_of(node):
    rng = np.random.default_rng(7)
    return [
        operand.value() if isinstance(operand, Weight) else rng.standard_normal(operand.type.shape).astype("float32")
        for operand in node.operands
    ]


def assert_close(results, node, arrays):
    expected = evaluate_node(node, [array.astype(np.float64) for array in arrays])
    for result, value in zip(results, expected, strict=True):
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(result, value, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("label", CASES)
def test_every_algorithm_computes_what_numpy_does(label, target, device):
    node = CASES[label]
    arrays = arrays_of(node)
    for kernel, params in kernels_for(node.spec, target):
        packed = [
            kernel.pack(node.spec, params, target, index, array) if isinstance(operand, Weight) else array
            for index, (operand, array) in enumerate(zip(node.operands, arrays, strict=True))
        ]
        function = kernel.build(node.spec, params, target).with_attr("global_symbol", "main")
        compiled = tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(target.options))
        results = [tvm.runtime.tensor(np.full(type.shape, np.nan, type.dtype), device) for type in node.spec.results]
        compiled["main"](*(tvm.runtime.tensor(array, device) for array in packed), *results)
        device.sync()
        assert_close([result.numpy() for result in results], node, arrays)


@pytest.mark.parametrize("label", CASES)
def test_what_tvm_itself_does_computes_what_numpy_does(label, target, device):
    node = CASES[label]
    arrays = arrays_of(node)
    machine = relax.VirtualMachine(own_executable(node.spec, tvm.target.Target(target.options)), device)
    result = machine["main"](*(tvm.runtime.tensor(array, device) for array in arrays))
    parts = [result] if len(node.spec.results) == 1 else list(result)
    assert_close([part.numpy() for part in parts], node, arrays)


@pytest.mark.parametrize("label", ["3x3", "dense", "softmax"])
def test_candidates_run_as_often_as_they_are_told(label, target, device):
    spec = CASES[label].spec
    for name, params in [(kernel.name, params) for kernel, params in kernels_for(spec, target)] + [("tvm", ())]:
        workload = build(KernelPayload(spec, name, params, target))
        workload.run(5)
        assert workload.overhead_s() == 0.0


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    rng = np.random.default_rng(0)

    def weight(name, *shape):
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype("float32"), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "w2"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [weight("w1", 16, 3, 3, 3), weight("w2", 32, 16, 3, 3), weight("w3", 10, 32)],
    )
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_a_model_is_profiled_compiled_verified_saved_and_run(model_file, tmp_path):
    """`joulec.compile` compares with the original by itself."""
    costs = f"sqlite:///{tmp_path / 'costs.db'}"
    model = joulec.compile(model_file, target="cuda", objective="time", batch_sizes=[1, 4], costs=costs)
    assert model.device_kind == "cuda"
    x = np.random.default_rng(1).standard_normal((4, 3, 32, 32)).astype("float32")
    y = model(x)
    model.save(tmp_path / "small.joulec")
    with joulec.load(tmp_path / "small.joulec") as again:
        np.testing.assert_array_equal(again(x), y)
    with joulec.compile(model_file, batch_sizes=[4], costs="model", measure=False) as on_cpu:
        np.testing.assert_allclose(on_cpu(x), y, rtol=1e-3, atol=1e-4)
    for entry in model.manifest.entries:
        assert entry.measured is not None
        assert entry.measured.time_s
