"""What a plan costs beyond its operators stands in the report."""

from __future__ import annotations

import pytest

from joulec.costdb.cost import Cost
from joulec.passes.graph import Graph
from joulec.passes.search.choices import Choice
from joulec.passes.search.results import Plan
from joulec.passes.search.totals import Totals
from joulec.report import conversions_json

EMPTY = Graph.build((), (), ())


@pytest.mark.parametrize(("extra_s", "told_s"), [(0.5, 0.5), (0.0, 0.0), (1e-16, 0.0)])
def test_conversions_are_what_the_operators_leave(extra_s, told_s):
    choice = Choice(None, Cost(1.0, 2.0, "measured", "estimated"))
    plan = Plan(EMPTY, (choice, choice), Totals(2.0 + extra_s, 4.0 + extra_s))
    assert conversions_json(plan) == {"time_s": pytest.approx(told_s), "energy_j": pytest.approx(told_s)}


def test_energies_that_are_not_known_are_not_made_up():
    choice = Choice(None, Cost(1.0, None, "measured", None))
    plan = Plan(EMPTY, (choice,), Totals(1.5, float("nan")))
    assert conversions_json(plan) == {"time_s": pytest.approx(0.5), "energy_j": None}
