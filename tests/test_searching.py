"""Searches at several batch sizes share what they learn."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from joulec.costdb.cost import Cost, Measurement
from joulec.options import CompileOptions
from joulec.passes.relax.workbench import Setup, Workbench
from joulec.progress import Silent
from joulec.searching import search_all

FACTORS = {"direct_conv": 1.3, "winograd": 4.0, "im2col_conv": 5.0}
"""How far above their rooflines kernels are taken to be."""


def merges(candidate):
    """Whether it is of the two convolutions of the model in one."""
    return candidate.payload.spec.results[0].shape[1] == 64


@pytest.fixture
def bench(tmp_path):
    """A workbench whose profiler answers out of `FACTORS` and notes what it was asked."""
    with Workbench.open(Setup(threads=2, costs=str(tmp_path / "costs.db"), meter="estimate")) as opened:
        opened.asked = []
        opened.merging, opened.call_s = 1.0, 0.0

        def measure(candidates, keep_going, learn, rivalry):
            for candidate in candidates:
                if keep_going(candidate):
                    opened.asked.append(candidate)
                    bound_s = opened.backend.roofline.lower_bound_s(candidate.work)
                    factor = FACTORS.get(candidate.key.algorithm, 3.0) * (opened.merging if merges(candidate) else 1.0)
                    call_s = opened.call_s if candidate.key.operator == "conv2d" else 0.0
                    cost = Cost(call_s + bound_s * factor, 1.0, "measured", "estimated")
                    opened.store.put_many([Measurement(candidate.key, cost)])
                    learn(candidate.key, cost)

        opened.measure = measure
        yield opened


@pytest.fixture
def model(tmp_path):
    """Two convolutions side by side that a substitution can merge, of any batch size."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((32, 16, 3, 3)).astype(np.float32) for _ in range(2)]
    nodes = [helper.make_node("Conv", ["x", f"w{i}"], [f"y{i}"], pads=[1, 1, 1, 1]) for i in range(2)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, 14, 14])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["n", 32, 14, 14]) for i in range(2)],
        [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(weights)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_a_further_batch_size_measures_less_and_finds_the_same(bench, model):
    options = CompileOptions(objective="time", threads=2, batch_sizes=(1, 4))
    first, second = search_all(model, options, bench, Silent())
    asked = {
        batch: {one.key for one in bench.asked if one.payload.spec.results[0].shape[0] == batch} for batch in (1, 4)
    }
    assert 0 < len(asked[4]) < len(asked[1])
    assert len(first.result.best.graph.nodes) == len(second.result.best.graph.nodes)
    for found in (first, second):
        for node, choice in found.result.best.assignment.items():
            assert choice.cost.time_source == "measured", node


def test_a_further_batch_size_does_without_what_there_was_no_time_to_measure(bench, model):
    measure = bench.measure

    def all_but_merged(candidates, *rest):
        batch = {one: one.payload.spec.results[0].shape[0] for one in candidates}
        measure([one for one in candidates if not (merges(one) and batch[one] == 4)], *rest)

    bench.merging, bench.measure = 0.2, all_but_merged
    options = CompileOptions(objective="time", threads=2, batch_sizes=(1, 4), search_time_s=60.0)
    first, second = search_all(model, options, bench, Silent())
    assert [rule for rule, _ in first.result.best.applied] == ["merge-convolutions"]
    assert second.result.best.graph.key == second.source.graph.key


def test_what_pays_at_one_batch_size_is_found_at_another_where_calls_take_most_of_the_time(bench, model):
    bench.call_s = 1e-4
    options = CompileOptions(objective="time", threads=2, batch_sizes=(1, 4))
    for one in search_all(model, options, bench, Silent()):
        assert [rule for rule, _ in one.result.best.applied] == ["merge-convolutions"]
