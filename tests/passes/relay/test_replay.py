"""Published rows give the same optimum whether a network comes through Relay or from ONNX, as it does for Relax."""

from __future__ import annotations

from collections import Counter

import pytest
from tvm import relay

from joulec.passes.onnx import import_onnx
from joulec.passes.relay.importer import import_relay
from joulec.passes.replay import ReplayBench
from joulec.passes.replay.keys import row_key
from joulec.passes.search.objective import as_objective
from joulec.passes.search.outer import OuterSearch

from ..replay.networks import ROWS, needs_rows, network

pytestmark = needs_rows


def optimum(graph, objective):
    bench = ReplayBench.open(ROWS)
    parsed = as_objective(objective)
    return OuterSearch(bench.rules, bench.costs(parsed), parsed, tidy=bench.tidy).run(bench.tidy(graph)).best


def assignment(plan):
    return Counter((row_key(node.spec), choice.algorithm.name) for node, choice in plan.assignment.items())


@pytest.mark.parametrize("name", ["squeezenet", "resnet50"])
@pytest.mark.parametrize("objective", ["time", "energy", "power"])
def test_the_same_optimum_as_through_relax(name, objective):
    model = network(name)
    module, params = relay.frontend.from_onnx(model)
    assert not params
    ours = optimum(import_relay(module), objective)
    theirs = optimum(import_onnx(model).graph, objective)
    assert ours.totals.time_s == pytest.approx(theirs.totals.time_s, rel=1e-12)
    assert ours.totals.energy_j == pytest.approx(theirs.totals.energy_j, rel=1e-12)
    assert assignment(ours) == assignment(theirs)
