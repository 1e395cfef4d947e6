"""What Winograd's rounding comes to is measured, reported and bounded."""

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tvm")

import joulec.rounding
from joulec.compiler import compile_model
from joulec.options import CompileOptions
from joulec.passes.graph import Conv2d, MaxPool2d, Node, PooledConv2d, Step, TensorType, Value, literal
from joulec.passes.graph.evaluate import evaluate_node
from joulec.passes.kernels.registry import KERNELS
from joulec.passes.layouts.layout import to_layout
from joulec.passes.relax.workbench import Setup, Workbench
from joulec.passes.verification import VerificationError

OTHERS = tuple(kernel.name for kernel in KERNELS if "conv" in kernel.name)


@pytest.fixture
def model():
    """relu(conv3x3(x) + b), then a strided convolution that no Winograd kernel takes."""
    rng = np.random.default_rng(0)

    def constant(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], "second", strides=[2, 2]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 20, 21])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 9, 10])
    weights = [constant("w", 24, 16, 3, 3), constant("b", 24), constant("v", 16, 24, 3, 3)]
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def options(**changes):
    given = {"objective": "time", "costs": "model", "budget": 0, "exclude_algorithms": OTHERS, "threads": 1}
    return CompileOptions(**{**given, **changes})


def errors(compiled):
    (entry,) = compiled.report["entries"].values()
    return {one["algorithm"].partition("(")[0]: one["relative_error"] for one in entry["assignment"]}


def test_the_error_against_float64_is_reported_and_kept(model, tmp_path):
    compiled = compile_model(model, options())
    with compiled.model as runnable:
        found = errors(compiled)
        runnable.save(tmp_path / "small.joulec")
    assert 1e-9 < found["winograd"] < 1e-5
    assert found["tvm"] is None
    with joulec.load(tmp_path / "small.joulec") as loaded:
        kept = [one.relative_error for one in loaded.entry(1).assignment]
    assert found["winograd"] in kept


def test_of_operators_that_read_and_write_parts_of_a_concat(model):
    nodes = model.graph.node
    del nodes[2]
    rng = np.random.default_rng(1)
    kernel = numpy_helper.from_array(rng.standard_normal((16, 24, 3, 3)).astype(np.float32), "u")
    model.graph.initializer.append(kernel)
    nodes.append(helper.make_node("Conv", ["r", "u"], ["s"], "inner", pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Concat", ["r", "s"], ["y"], "both", axis=1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 40, 20, 21]))
    compiled = compile_model(model, options())
    with compiled.model:
        (entry,) = compiled.report["entries"].values()
    found = {one["node"]: one for one in entry["assignment"]}
    assert found["both"]["algorithm"] == "view"
    assert all(1e-9 < found[name]["relative_error"] < 1e-5 for name in ("first", "inner"))


@pytest.mark.parametrize(("bound", "tiles"), [(None, {2, 4}), (3e-6, {2}), (1e-6, set())])
def test_tiles_that_state_a_larger_error_than_the_bound_are_not_tried(bound, tiles):
    operands = (Value.input("x", TensorType((1, 16, 20, 21))), literal(np.ones((24, 16, 3, 3), np.float32)))
    spec = Node.make(Conv2d(), operands).spec
    with Workbench.open(Setup(costs="model", meter="estimate", threads=1, max_error=bound)) as bench:
        found = [dict(one.params)["tile"] for one in bench.backend.algorithms(spec) if one.family == "winograd"]
    assert set(found) == tiles


def test_an_error_above_the_bound_stops_the_compilation(model, monkeypatch):
    monkeypatch.setattr(joulec.rounding, "_error", lambda node, algorithm, arrays, rng: 0.5)
    with pytest.raises(VerificationError, match=r"first.* error of 0\.5.*--exclude-algorithm winograd"):
        compile_model(model, options())


def test_of_what_is_pooled_on_its_way_out():
    rng = np.random.default_rng(0)
    op = PooledConv2d(Conv2d(padding=(1, 1, 1, 1)), MaxPool2d((2, 2), (2, 2)))
    x = rng.standard_normal((2, 3, 8, 9))
    weights = [literal(rng.standard_normal(shape).astype(np.float32)) for shape in ((4, 3, 3, 3), (4,))]
    node = Node.make(op, (Value.input("x", TensorType(x.shape)), *weights), (Step("bias"), Step("activation", "relu")))
    arrays = [x, *(one.value() for one in weights)]
    (result,) = evaluate_node(node, arrays)
    plain = SimpleNamespace()
    assert joulec.rounding._error(node, plain, [*arrays, result], np.random.default_rng(1)) < 1e-6
    wrong = joulec.rounding._error(node, plain, [*arrays, 1.5 * result], np.random.default_rng(1))
    assert wrong == pytest.approx(0.5, 1e-3)


@pytest.mark.parametrize("blocks", [(0, 0), (8, 0), (0, 8), (8, 8)])
def test_of_blocked_tensors_inside_others(blocks):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 16, 6, 7))
    weight = literal(rng.standard_normal((24, 16, 3, 3)).astype(np.float32))
    other = Value.input("z", TensorType((1, 24, 6, 7)))
    node = Node.make(
        Conv2d(padding=(1, 1, 1, 1)), (Value.input("x", TensorType(x.shape)), weight, other), (Step("add"),)
    )
    z = rng.standard_normal(other.type.shape)
    (result,) = evaluate_node(node, [x, weight.value(), z])

    def inside(array, block):
        return np.concatenate([to_layout(array, block).reshape(-1), rng.standard_normal(100)])

    reads, writes = blocks
    arrays = [inside(x, reads), weight.value(), inside(z, writes), inside(result, writes)]
    algorithm = SimpleNamespace(reads=reads, writes=writes)
    assert joulec.rounding._error(node, algorithm, arrays, rng) < 1e-6
    arrays[-1] = 1.5 * arrays[-1]
    assert joulec.rounding._error(node, algorithm, arrays, rng) == pytest.approx(0.5, 1e-3)
