"""Comparing with the original, and finding what is at fault: piece by piece, and through the whole compiler."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from joulec.options import CompileOptions
from joulec.passes.graph import Conv2d, Node, Rewrite, Step, TensorType, Value
from joulec.passes.rules import RULES, Match
from joulec.passes.verification import (
    Reference,
    VerificationError,
    first_fault,
    largest_error,
    random_inputs,
    relative_error,
    verify,
)

NAN, INF = math.nan, math.inf


def array(*values, dtype="float32"):
    return np.array(values, dtype)


class TestRelativeError:
    """Norm of the difference over norm of the original."""

    @pytest.mark.parametrize(
        ("found", "wanted", "error"),
        [
            (array(1, 2), array(1, 2), 0.0),
            (array(3, 4.5), array(3, 4), 0.1),
            (array(0, 0), array(0, 0), 0.0),
            (array(1e-30, 0), array(0, 0), INF),
            (array(0, 0), array(3, 4), 1.0),
            (array(), array(), 0.0),
            (array(1, 2), array(1, 2, 3), INF),
            (array(1, 2), array([1, 2]), INF),
            (array(NAN, 3), array(NAN, 3), 0.0),
            (array(NAN, 3.3), array(NAN, 3), 0.1),
            (array(NAN, 3), array(2, 3), INF),
            (array(2, 3), array(NAN, 3), INF),
            (array(INF, 3), array(INF, 3), 0.0),
            (array(-INF, 3), array(INF, 3), INF),
            (array(NAN, 3), array(INF, 3), INF),
            (array(1e38), array(-1e38), 2.0),
            (array(1e300, dtype="float64"), array(-1e300, dtype="float64"), INF),
            (array(True, False, dtype=bool), array(True, True, dtype=bool), 1 / math.sqrt(2)),
            (array(3, 4, dtype="int64"), array(3, 4, dtype="int64"), 0.0),
            (np.float32(2.0).reshape(()), np.float32(1.0).reshape(()), 1.0),
        ],
    )
    def test_values(self, found, wanted, error):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            assert relative_error(found, wanted) == pytest.approx(error, rel=1e-5)

    def test_the_worst_output_counts(self):
        one = array(1, 2)
        assert largest_error([one, array(3.3)], [one, array(3)]) == pytest.approx(0.1, rel=1e-4)
        assert largest_error([one], [one, one]) == INF
        assert largest_error([], []) == 0.0


class TestVerify:
    """`verify` and the inputs it is given."""

    REFERENCE = Reference("twice", lambda given: [2 * given["x"]])

    def test_counts_inputs_and_tells_the_largest_error(self):
        off = {1.0: 0.0, 2.0: 0.01, 3.0: 0.001}
        inputs = [{"x": array(size)} for size in off]
        outcome = verify(self.REFERENCE, lambda g: [2 * g["x"] * (1 + off[float(g["x"][0])])], inputs, 0.02)
        assert outcome.inputs == 3
        assert outcome.max_relative_error == pytest.approx(0.01, rel=1e-3)
        assert outcome.reference == "twice"

    def test_one_input_that_differs_is_enough(self):
        inputs = [{"x": array(1)}, {"x": array(50)}]
        with pytest.raises(VerificationError, match=r"\(twice\) by 0\.98.* tolerance 0\.0001"):
            verify(self.REFERENCE, lambda g: [np.minimum(2 * g["x"], 2)], inputs, 1e-4)

    @pytest.mark.parametrize("wrong", [NAN, INF])
    def test_results_that_are_no_numbers_are_differences(self, wrong):
        with pytest.raises(VerificationError, match="inf"):
            verify(self.REFERENCE, lambda g: [np.full_like(g["x"], wrong)], [{"x": array(1)}], 1e9)

    def test_a_quantised_original_is_met_to_within_its_own_steps(self):
        """Near the middle between two levels of 1, rounding decides which of them it is."""
        middle = np.float32(2**20 + 0.5) * np.ones(64, "float32")
        levels = Reference("levels", lambda given: [np.round(given["x"] / 3) - 2**20 / 3 + 1], rounds=True)
        x = {"x": middle}
        wanted = levels.run(x)[0]
        outcome = verify(levels, lambda g: [wanted * 1.001], [x], 1e-4)
        assert 1e-3 < outcome.own_error <= 0.1
        assert outcome.max_relative_error == pytest.approx(1e-3, rel=0.01)
        with pytest.raises(VerificationError, match="more than the tolerance"):
            verify(replace(levels, rounds=False), lambda g: [wanted * 1.001], [x], 1e-4)
        with pytest.raises(VerificationError, match="more than the tolerance"):
            verify(levels, lambda g: [wanted * 1.5], [x], 1e-4)

    def test_a_quantised_original_that_is_steady_is_met_to_the_tolerance(self):
        steady = Reference("steady", lambda given: [np.round(given["x"]) + 0], rounds=True)
        with pytest.raises(VerificationError, match="more than the tolerance"):
            verify(steady, lambda g: [steady.run(g)[0] * 1.001], [{"x": array(1, 2, 3)}], 1e-4)

    def test_inputs_are_seeded_and_cover_magnitudes(self):
        values = [
            Value.input("x", TensorType((100, 100))),
            Value.input("i", TensorType((50,), "int64")),
            Value.input("b", TensorType((50,), "bool")),
            Value.input("h", TensorType((3,), "float16")),
        ]
        sets = random_inputs(values, seed=3)
        for one, two in zip(sets, random_inputs(values, seed=3), strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], two[name])
        assert not np.array_equal(sets[0]["x"], random_inputs(values, seed=4)[0]["x"])
        assert [round(float(one["x"].std())) for one in sets] == [1, 16, 64]
        for one in sets:
            assert {name: str(part.dtype) for name, part in one.items()} == {
                value.name: value.type.dtype for value in values
            }
            assert set(np.unique(one["i"])) <= {0, 1}


class TestFirstFault:
    """Bisection."""

    @given(st.integers(1, 40), st.data())
    @settings(max_examples=100, deadline=None, derandomize=True)
    def test_finds_the_first_bad_step(self, count, data):
        bad = data.draw(st.integers(0, count - 1))
        asked = []

        def agrees(done):
            asked.append(done)
            return done <= bad

        assert first_fault([f"step {index}" for index in range(count)], agrees) == f"step {bad}"
        assert len(asked) <= 2 + math.ceil(math.log2(count)) + 1

    @given(st.lists(st.booleans(), min_size=1, max_size=20))
    @settings(max_examples=100, deadline=None, derandomize=True)
    def test_whatever_it_names_turned_right_into_wrong(self, outcomes):
        """Also where errors come and go: the step named has agreement before it and none after it."""
        agreed = [True, *outcomes]
        steps = [str(index) for index in range(len(outcomes))]
        found = first_fault(steps, lambda done: agreed[done])
        if agreed[-1]:
            assert found is None
        else:
            assert agreed[int(found)]
            assert not agreed[int(found) + 1]

    def test_none_where_the_start_differs_or_nothing_does(self):
        assert first_fault(["a", "b"], lambda done: False) is None
        assert first_fault(["a", "b"], lambda done: True) is None
        assert first_fault([], lambda done: True) is None
        assert first_fault([], lambda done: False) is None


@dataclass(frozen=True)
class DropBias:
    """conv(x) + b = conv(x), which is wrong."""

    name: str = "drop-bias"
    anchor: type = Conv2d

    def matches(self, graph, node) -> Iterator[Match]:
        if node.epilogue[:1] and node.epilogue[0].kind == "bias":
            yield Match((node,))

    def rewrite(self, graph, match) -> Rewrite:
        (node,) = match.nodes
        kept = (*node.operands[:2], *node.operands[3:])
        return Rewrite((node,), (Node.make(node.op, kept, node.epilogue[1:], outputs=node.outputs),))


def write_model(path, branches):
    """Biased convolutions of one input, which rules can merge, an activation after each, concat and pool."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for index in range(branches):
        for name, shape in (("w", (8, 4, 3, 3)), ("b", (8,))):
            weights.append(numpy_helper.from_array(rng.standard_normal(shape).astype("f") + 0.5, f"{name}{index}"))
        nodes.append(helper.make_node("Conv", ["x", f"w{index}", f"b{index}"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Tanh" if index else "Relu", [f"c{index}"], [f"t{index}"]))
    nodes.append(helper.make_node("Concat", [f"t{index}" for index in range(branches)], ["joined"], axis=1))
    nodes.append(helper.make_node("MaxPool", ["joined"], ["y"], kernel_shape=[2, 2], strides=[2, 2]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 8 * branches, 3, 3])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def model(tmp_path):
    """Two branches."""
    return write_model(tmp_path / "net.onnx", 2)


@pytest.fixture
def small(tmp_path):
    """One branch."""
    return write_model(tmp_path / "small.onnx", 1)


OPTIONS = CompileOptions(costs="model", threads=1, budget=3, exclude_algorithms=("pooled_conv",))
"""The pooling stays an operator of its own, whatever vectors the machine has."""


class TestWhatIsAtFault:
    """Deliberate mistakes are named, and nothing comes out."""

    def test_a_wrong_rule(self, model, monkeypatch):
        from joulec import compiler
        from joulec.passes import workbench

        monkeypatch.setattr(workbench, "RULES", (*RULES, DropBias()))
        with pytest.raises(VerificationError, match=r"batch 1: .*the rule drop-bias is at fault.*nothing was written"):
            compiler.compile_model(model, OPTIONS)

    def test_a_wrong_kernel(self, small, monkeypatch):
        """Its build computes another activation than was asked for."""
        from joulec import compiler
        from joulec.passes.kernels.pooling import Pool

        real = Pool.build

        def build(self, spec, params, target):
            shifted = replace(spec.op, padding=(1, 1, 1, 1), strides=(3, 3))
            assert shifted.infer([operand.type for operand in spec.operands]) == spec.results
            return real(self, replace(spec, op=shifted), params, target)

        monkeypatch.setattr(Pool, "build", build)
        name = Pool.name
        with pytest.raises(VerificationError, match=rf"the algorithm {name}[^ ]* on max_pool2d is at fault"):
            compiler.compile_model(small, OPTIONS)

    def test_a_kernel_that_is_wrong_for_large_inputs_only(self, small, monkeypatch):
        """The first inputs agree; bisection must use those that do not."""
        from joulec import compiler
        from joulec.passes.kernels.pooling import Pool

        real = Pool.build
        clipped = Step("activation", "clip", (-1e9, 200.0))
        monkeypatch.setattr(
            Pool, "build", lambda self, spec, *given: real(self, replace(spec, epilogue=(clipped,)), *given)
        )
        with pytest.raises(VerificationError, match="on max_pool2d is at fault"):
            compiler.compile_model(small, OPTIONS)

    def test_nothing_is_written(self, small, monkeypatch, capsys):
        from joulec.__main__ import main
        from joulec.passes import workbench

        monkeypatch.setattr(workbench, "RULES", (*RULES, DropBias()))
        out = small.with_suffix(".joulec")
        words = ["compile", str(small), "-o", str(out), "--costs", "model", "--threads", "1", "--budget", "2"]
        words += ["--exclude-algorithm", "pooled_conv"]
        monkeypatch.setattr(sys, "argv", ["joulec", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert "drop-bias is at fault" in capsys.readouterr().err
        assert list(small.parent.iterdir()) == [small]

    def test_a_right_model_compiles(self, small):
        """The tests above would prove nothing if this failed."""
        from joulec import compiler

        compiled = compiler.compile_model(small, OPTIONS)
        try:
            assert compiled.report["verified"]["max_relative_error"] < 1e-5
            assert compiled.report["verified"]["inputs"] == 3
            chosen = {one["operator"]: one["algorithm"] for one in compiled.report["entries"]["1"]["assignment"]}
            assert chosen["max_pool2d"].startswith("pool")
        finally:
            compiled.model.close()


def test_likely_inputs_hold_the_models_own_numbers():
    from joulec.passes.graph import TensorType, Value
    from joulec.passes.verification import likely_inputs

    values = [Value.input("x", TensorType((2, 3), "float32")), Value.input("rate", TensorType((), "int64"))]
    sets = likely_inputs(values, (16000, 8000), seed=0)
    assert [int(given["rate"]) for given in sets[:2]] == [16000, 8000]
    assert all(given["x"].min() >= 0 and given["x"].max() < 1 for given in sets)
