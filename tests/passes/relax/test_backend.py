"""The Relax back end: what it offers, and that a key holds all that decides a cost."""

from __future__ import annotations

import importlib
import inspect
import pickle
from dataclasses import replace

import numpy as np
import onnx
import onnx.helper
import pytest

from joulec.passes.digest import source_digest
from joulec.passes.graph import (
    Activation,
    Add,
    Conv2d,
    MatMul,
    MaxPool2d,
    Node,
    Opaque,
    Reshape,
    Split,
    Step,
    TensorType,
    Value,
    literal,
)
from joulec.passes.kernels.registry import KERNELS
from joulec.passes.kernels.target import cpu_target
from joulec.passes.onnx import engines
from joulec.passes.relax.backend import TVM_OWN
from joulec.profiler.cpu import cpu_facts
from joulec.profiler.device import local_cpu

X = Value.input("x", TensorType((1, 16, 8, 8)))
KERNEL = literal(np.ones((16, 16, 3, 3), "float32"))
BIAS = literal(np.ones(16, "float32"))
RELU, TANH = Step("activation", "relu"), Step("activation", "tanh")


def conv(op=None, x=X, kernel=KERNEL, extra=(), epilogue=()):
    return Node.make(op or Conv2d(padding=(1, 1, 1, 1)), (x, kernel, *extra), epilogue).spec


BASE = conv()
WIDER = Value.input("x", TensorType((2, 16, 8, 8)))
OTHER_SPECS = {
    "strides": conv(Conv2d((2, 2), (1, 1, 1, 1))),
    "padding": conv(Conv2d(padding=(1, 1, 1, 2))),
    "dilation": conv(Conv2d(padding=(1, 1, 1, 1), dilation=(2, 1))),
    "batch": conv(x=WIDER),
    "kernel shape": conv(kernel=literal(np.ones((16, 16, 1, 1), "float32"))),
    "kernel from outside": conv(kernel=Value.input("w", KERNEL.type)),
    "epilogue": conv(epilogue=(RELU,)),
    "other epilogue": conv(epilogue=(TANH,)),
    "bias": conv(extra=(BIAS,), epilogue=(Step("bias"),)),
    "bias and activation": conv(extra=(BIAS,), epilogue=(Step("bias"), RELU)),
    "clip": conv(epilogue=(Step("activation", "clip", (0.0, 6.0)),)),
    "other clip": conv(epilogue=(Step("activation", "clip", (0.0, 5.0)),)),
    "operator": Node.make(MaxPool2d((3, 3), padding=(1, 1, 1, 1)), (X,)).spec,
}


def determinants(text=b"a"):
    """An operator that nothing native computes for matrices of this size; `text` tells two of them apart."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Det", ["x"], ["y"])],
        text.decode(),
        [value("x", 1, X.type.shape)],
        [value("y", 1, (1, 16))],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return Opaque("Det", "onnx", model.SerializeToString(), (X.type,), (TensorType((1, 16)),))


def ids_of(backend, spec):
    return [backend.key(spec, algorithm).id for algorithm in backend.algorithms(spec)]


def test_keys_differ_wherever_the_spec_does(tools):
    backend = tools.back_end()
    seen = {"base": set(ids_of(backend, BASE))}
    for what, spec in OTHER_SPECS.items():
        found = set(ids_of(backend, spec))
        for other, known in seen.items():
            assert not found & known, f"{what} and {other} share a key"
        seen[what] = found


def test_keys_differ_between_algorithms_and_schedules(tools):
    backend = tools.back_end()
    for spec in (BASE, *OTHER_SPECS.values()):
        algorithms = backend.algorithms(spec)
        assert len(set(ids_of(backend, spec))) == len(algorithms) == len({one.name for one in algorithms})
    assert any(algorithm.params for algorithm in backend.algorithms(BASE))


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cpu|other"},
        {"compiler": "tvm-0.28.0"},
        {"energy_source": "rapl"},
        {"protocol": "paper-1"},
        {"target": cpu_target("llvm -mcpu=haswell", 1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_keys_differ_wherever_the_surroundings_do(tools, change):
    here, there = tools.back_end(), tools.back_end(**change)
    assert not set(ids_of(here, BASE)) & set(ids_of(there, BASE))


def test_keys_differ_between_numbers_of_threads():
    assert local_cpu(1).fingerprint != local_cpu(2).fingerprint


def test_keys_differ_between_power_limits_and_clocks():
    facts = cpu_facts()
    limited = replace(facts, power_limit_w=(facts.power_limit_w or 0) + 5)
    clocked = replace(facts, max_hz=(facts.max_hz or 0) + 1e9)
    assert len({local_cpu(1, one).fingerprint for one in (facts, limited, clocked)}) == 3


def test_keys_ignore_names_and_contents_of_weights(tools):
    backend = tools.back_end()
    other = conv(x=Value.input("y", X.type), kernel=literal(np.zeros((16, 16, 3, 3), "float32")))
    assert ids_of(backend, other) == ids_of(backend, BASE)


def test_every_field_of_a_key_counts(tools):
    backend = tools.back_end()
    key = backend.key(BASE, backend.algorithms(BASE)[0])
    fields = key.__dataclass_fields__
    assert len({replace(key, **{name: f"{getattr(key, name)}?"}).id for name in fields} | {key.id}) == len(fields) + 1


def test_opaque_keys_follow_the_definition(tools):
    backend = tools.back_end()

    def spec(definition, dialect="relax", kind="thing"):
        op = Opaque(kind, dialect, definition, (X.type,), (X.type,))
        op = determinants(definition) if dialect == "onnx" else op
        return Node.make(op, (X,)).spec

    for dialect in ("relax", "onnx"):
        first, same, second = (ids_of(backend, spec(text, dialect)) for text in (b"a", b"a", b"b"))
        assert first == same
        assert len(first) == 1
        assert first != second


class TestDigests:
    """An edited kernel never meets a stale row."""

    @pytest.fixture
    def edited(self, monkeypatch):
        """Pretends that a module's source was edited."""
        real = inspect.getsource

        def edit(name):
            module = importlib.import_module(name)
            monkeypatch.setattr(
                inspect, "getsource", lambda thing: real(thing) + ("# edited" if thing is module else "")
            )
            source_digest.cache_clear()

        yield edit
        monkeypatch.undo()
        source_digest.cache_clear()

    @pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
    def test_editing_a_kernel_changes_its_digest(self, edited, kernel):
        module = type(kernel).__module__
        before = source_digest(module)
        edited(module)
        assert source_digest(module) != before

    def test_editing_what_a_kernel_is_built_from_changes_it_too(self, edited):
        direct = "joulec.passes.kernels.conv_direct"
        helpers = [
            name
            for name in (
                "joulec.passes.kernels.epilogue",
                "joulec.passes.kernels.conv_tir",
                "joulec.passes.kernels.loops",
            )
            if name in {getattr(value, "__module__", "") for value in vars(importlib.import_module(direct)).values()}
        ]
        assert helpers
        before = source_digest(direct)
        for name in helpers:
            edited(name)
            assert source_digest(direct) != before
            edited(direct)

    def test_editing_another_kernel_changes_nothing(self, edited):
        before = source_digest("joulec.passes.kernels.pooling")
        edited("joulec.passes.kernels.conv_plane")
        assert source_digest("joulec.passes.kernels.pooling") == before

    @pytest.mark.parametrize("name", ["emit", "definition", "pipeline"])
    def test_editing_the_lowering_changes_tvms_own(self, edited, tools, name):
        backend = tools.back_end()
        own = backend.algorithms(BASE)[-1]
        before = backend.key(BASE, own).id
        edited(f"joulec.passes.relax.{name}")
        assert backend.key(BASE, own).id != before

    def test_it_is_equal_between_processes_and_short(self):
        first = source_digest("joulec.passes.kernels.pooling")
        source_digest.cache_clear()
        assert source_digest("joulec.passes.kernels.pooling") == first
        assert len(first) == 16

    def test_external_calls_follow_their_engine(self, tools, monkeypatch):
        backend = tools.back_end()
        spec = Node.make(determinants(), (X,)).spec
        (algorithm,) = backend.algorithms(spec)
        assert algorithm.name in ("onnxruntime", "onnx.reference")
        before = backend.key(spec, algorithm)
        monkeypatch.setattr(engines.metadata, "version", lambda name: "9.9")
        assert backend.key(spec, algorithm).digest.startswith(f"{algorithm.name}-9.9")
        assert backend.key(spec, algorithm).id != before.id


class TestAlgorithms:
    """What computes a spec."""

    def test_tvms_own_lowering_comes_last(self, tools):
        for spec in (BASE, *OTHER_SPECS.values()):
            *own, last = tools.back_end().algorithms(spec)
            assert own or spec is OTHER_SPECS["kernel from outside"], f"no kernel of ours computes {spec}"
            assert last.family == TVM_OWN
            assert all(algorithm.kernel is not None for algorithm in own)

    def test_families_can_be_excluded_but_the_last(self, tools):
        families = {algorithm.family for algorithm in tools.back_end().algorithms(BASE)}
        excluded = frozenset(families)
        assert [one.family for one in tools.back_end(excluded=excluded).algorithms(BASE)] == [TVM_OWN]

    def test_other_dtypes_are_left_to_tvm(self, tools):
        wide = Value.input("x", TensorType((1, 16, 8, 8), "float64"))
        spec = Node.make(Activation("relu"), (wide,)).spec
        assert [one.family for one in tools.back_end().algorithms(spec)] == [TVM_OWN]

    def test_candidates_are_picklable_and_carry_their_key(self, tools):
        backend = tools.back_end()
        for spec in (BASE, *OTHER_SPECS.values()):
            for algorithm in backend.algorithms(spec):
                candidate = backend.candidate(spec, algorithm)
                again = pickle.loads(pickle.dumps(candidate))
                assert again == candidate
                assert again.key == backend.key(spec, algorithm)
                assert algorithm.name in candidate.label
                assert candidate.work == algorithm.work(spec)

    def test_no_lower_bound_is_above_another_devices_that_is_faster(self, tools):
        slow, fast = tools.back_end(), tools.back_end(roofline=replace(tools.back_end().roofline, flops_per_s=1e13))
        for spec in (BASE, *OTHER_SPECS.values()):
            for one, two in zip(slow.algorithms(spec), fast.algorithms(spec), strict=True):
                assert 0 < two.lower_bound_s(spec) <= one.lower_bound_s(spec)


class TestFuses:
    """Which epilogues a node takes."""

    def test_convolutions_and_products_take_bias_add_activation_in_this_order(self, tools):
        fuses = tools.back_end().fuses
        data = Value.input("m", TensorType((4, 16)))
        product = Node.make(MatMul(), (data, literal(np.ones((16, 16), "float32")))).spec
        for spec in (BASE, product):
            for step in (Step("bias"), Step("add"), RELU):
                assert fuses(spec, step)
        biased = OTHER_SPECS["bias"]
        assert not fuses(biased, Step("bias"))
        assert fuses(biased, Step("add"))
        assert not fuses(OTHER_SPECS["epilogue"], Step("add"))
        assert not fuses(OTHER_SPECS["epilogue"], RELU)

    def test_others_take_an_activation_at_most(self, tools):
        fuses = tools.back_end().fuses
        pool = OTHER_SPECS["operator"]
        assert fuses(pool, RELU)
        assert not fuses(pool, Step("add"))
        assert not fuses(pool, Step("bias"))

    def test_some_take_none(self, tools):
        fuses = tools.back_end().fuses
        opaque = Opaque("Thing", "onnx", b"a", (X.type,), (X.type,))
        wide = Value.input("x", TensorType((1, 16, 8, 8), "float64"))
        for spec in (
            Node.make(opaque, (X,)).spec,
            Node.make(Reshape((16, 64)), (X,)).spec,
            Node.make(Split(1, (8, 8)), (X,)).spec,
            Node.make(Activation("relu"), (X,)).spec,
            Node.make(Add(), (wide, wide)).spec,
        ):
            assert not fuses(spec, RELU), spec
