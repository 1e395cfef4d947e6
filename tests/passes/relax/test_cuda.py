"""The Relax back end for GPUs: what it offers, builds and refuses. Nothing here needs a GPU or nvcc."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax, te

from joulec.costdb.cost import Cost
from joulec.passes.graph import (
    Conv2d,
    Graph,
    MatMul,
    MaxPool2d,
    Node,
    Opaque,
    Reshape,
    Softmax,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.kernels.workload import KernelPayload
from joulec.passes.module_errors import BuildError
from joulec.passes.onnx.importer import import_onnx
from joulec.passes.relax import cuda_workload
from joulec.passes.relax.backend import RelaxBackEnd
from joulec.passes.relax.build import build_library
from joulec.passes.relax.cuda_pipeline import cuda_pipeline
from joulec.passes.relax.cuda_workload import OnDevice, own_executable
from joulec.passes.relax.export import Exporter
from joulec.passes.search.choices import Choice
from joulec.profiler.roofline import Roofline

sys.path.append(str(Path(__file__).parents[1] / "kernels/support"))

from cuda_cases import target

A100 = target("sm_80")
COST = Cost(1.0, 1.0, "estimated", "estimated")


def back_end(**options):
    return RelaxBackEnd(A100, "gpu", "tvm", "nvml", "adaptive", Roofline(1e15, 1e15), **options)


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)

    def weight(*shape):
        return literal(rng.standard_normal(shape).astype("float32"))

    x = Value.input("x", TensorType((1, 16, 14, 14)))
    fused = (Step("bias"), Step("activation", "relu"))
    first = Node.make(Conv2d((1, 1), (1, 1, 1, 1)), (x, weight(16, 16, 3, 3), weight(16)), fused)
    pooled = Node.make(MaxPool2d((2, 2), (2, 2)), first.outputs)
    flat = Node.make(Reshape((1, 784)), pooled.outputs)
    dense = Node.make(MatMul(), (*flat.outputs, weight(784, 10)))
    last = Node.make(Softmax(1), dense.outputs)
    return Graph.build((x,), last.outputs, (first, pooled, flat, dense, last))


def built(network, folder, pick):
    back = back_end()
    exporter = Exporter()
    choices = {node: Choice(pick(back.algorithms(node.spec)), COST) for node in network.nodes}
    exporter.add("main_b1", network, choices)
    build_library(exporter.finish().module, A100, folder / "library.so")
    return (folder / "library.so").read_bytes()


def test_a_library_holds_the_kernels_of_the_algorithms(network, tmp_path):
    library = built(network, tmp_path, lambda algorithms: algorithms[0])
    for kernel in (
        b"conv2d_winograd_kernel_2(",
        b"max_pool2d_reduction_kernel(",
        b"matmul_gemv_kernel(",
        b"softmax_reduction_kernel(",
    ):
        assert kernel in library


def test_a_library_can_be_what_tvm_itself_does(network, tmp_path):
    library = built(network, tmp_path, lambda algorithms: algorithms[-1])
    assert b"__global__" in library
    assert b"winograd" not in library


def test_families_can_be_left_out_and_rounding_bounded(network):
    spec = network.nodes[0].spec
    assert {one.family for one in back_end().algorithms(spec)} == {"winograd", "im2col", "fallback", "tvm"}
    assert "winograd" not in {one.family for one in back_end(excluded=frozenset({"winograd"})).algorithms(spec)}
    strict = [one.name for one in back_end(max_error=5e-6).algorithms(spec)]
    assert "winograd(tile=2)" in strict
    assert "winograd(tile=4)" not in strict


def test_keys_and_candidates_name_algorithm_and_architecture(network):
    back, spec = back_end(), network.nodes[0].spec
    algorithm = back.algorithms(spec)[0]
    key, candidate = back.key(spec, algorithm), back.candidate(spec, algorithm)
    assert (key.algorithm, key.parameters) == ("winograd", "tile=4")
    assert "sm_80" in key.compiler
    assert candidate.builder == "joulec.passes.relax.cuda_workload:build"
    assert candidate.payload == KernelPayload(spec, "winograd", (("tile", 4),), A100, seed=0)
    assert len({back.key(spec, one) for one in back.algorithms(spec)}) == len(back.algorithms(spec))


def test_what_only_an_engine_on_the_host_computes_has_no_algorithm(monkeypatch):
    monkeypatch.setattr("joulec.passes.relax.backend.lowers", lambda op: False)
    monkeypatch.setattr("joulec.passes.relax.backend.engine_for", lambda op: "onnxruntime")
    type = TensorType((4,))
    op = Opaque("NonZero", "onnx", b"definition", (type,), (type,))
    assert back_end().algorithms(Node.make(op, (Value.input("x", type),)).spec) == ()


def test_functions_scheduled_for_cpus_are_refused():
    x = te.placeholder((4,), "float32", "x")
    doubled = te.create_prim_func([x, te.compute((4,), lambda i: x[i] * 2.0)]).with_attr("tirx.is_scheduled", True)
    builder = relax.BlockBuilder()
    data = relax.Var("data", relax.TensorType((4,), "float32"))
    with builder.function("main", [data]):
        known = builder.add_func(doubled.without_attr("global_symbol"), "doubled")
        call = relax.op.call_tir(known, relax.Tuple([data]), relax.TensorType((4,), "float32"))
        builder.emit_func_output(builder.emit(call))
    with tvm.target.Target({"kind": "cuda", "arch": "sm_80"}), pytest.raises(BuildError, match="doubled is scheduled"):
        cuda_pipeline()(builder.get())


def test_a_workload_takes_its_turns_and_waits_for_the_device():
    seen, waits = [], []

    class Device:
        def sync(self):
            waits.append(len(seen))

    workload = OnDevice(lambda *turn: seen.append(turn), [(1, 2), (3, 4)], Device())
    workload.run(3)
    workload.run(1)
    assert seen == [(1, 2), (3, 4), (1, 2), (3, 4)]
    assert waits == [3, 4]
    assert workload.overhead_s() == 0.0


def test_without_a_gpu_a_candidate_says_so(network):
    if tvm.cuda(0).exist:
        pytest.skip("there is a GPU")
    back, spec = back_end(), network.nodes[0].spec
    with pytest.raises(RuntimeError, match="finds no GPU"):
        cuda_workload.build(back.candidate(spec, back.algorithms(spec)[0]).payload)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers_are_not_scheduled_for_cpus(kind, tmp_path):
    gates, hidden, depth = {"LSTM": 4, "GRU": 3}[kind], 16, 24
    rng = np.random.default_rng(0)
    weights = {"w": (1, gates * hidden, depth), "r": (1, gates * hidden, hidden)}
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *weights], ["y"], hidden_size=hidden)],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(rng.standard_normal(shape).astype("float32"), name)
            for name, shape in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    graph = import_onnx(model, {}, None).graph
    (layer,) = [node for node in graph.nodes if isinstance(node.op, Opaque)]
    assert b"__global__" in built(graph, tmp_path, lambda algorithms: algorithms[-1])
    assert own_executable(layer.spec, tvm.target.Target(A100.options)) is not None
