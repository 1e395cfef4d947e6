"""Several variants of a graph in one artifact: which one runs, and how a session goes from one to another."""

from __future__ import annotations

from concurrent.futures import wait
from dataclasses import replace

import numpy as np
import pytest

from joulec.runtime import Configuration, Decision, Model, ScriptedMeter, Session, load
from joulec.runtime.fields import ManifestError
from joulec.runtime.latency import LatencyGuard
from joulec.runtime.metrics import SessionCollector
from joulec.runtime.policies import Predictions
from joulec.runtime.runner import ESTIMATE_ERROR, ModelRunner
from joulec.runtime.variant import VariantError


@pytest.fixture
def model(two_variants):
    with Model(*two_variants.parts) as model:
        yield model


def ran(two_variants, x, y) -> list[str]:
    """Which variant computed each row."""
    plain = np.maximum(x @ two_variants.weights["w0"], 0)
    extra = np.round((y - plain).mean(axis=1))
    np.testing.assert_allclose(y, plain + extra[:, None], rtol=1e-4, atol=1e-4)
    return [["fast", "frugal"][int(value)] for value in extra]


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 8)).astype("float32")


def test_a_call_runs_the_best_under_the_objective_or_the_one_asked_for(model, two_variants, tmp_path):
    assert (model.variants, model.variant, model.batch_sizes) == (("fast", "frugal"), None, (1, 2, 4))
    x = rows(7)  # batches of 4, 2 and 1; there is one variant of 4
    assert ran(two_variants, x, model(x)) == ["fast"] * 4 + ["frugal"] * 3
    assert ran(two_variants, x, *model.run([x], "fast")) == ["fast"] * 7
    assert ran(two_variants, x[:2], *model.run_batch(2, [x[:2]], "fast")) == ["fast"] * 2
    assert model.entry(4, "frugal").variant == "fast"
    with load(model.save(tmp_path / "m.joulec"), variant="fast") as loaded:
        assert loaded.manifest == model.manifest
        assert ran(two_variants, x, loaded(x)) == ["fast"] * 7
        assert ran(two_variants, x[:1], *loaded.run([x[:1]], "frugal")) == ["frugal"]
    with pytest.raises(VariantError, match="variant 'green' was not compiled; there are fast, frugal"):
        load(tmp_path / "m.joulec", variant="green")
    with pytest.raises(VariantError, match="variant 'green' was not compiled"):
        model.run([x], "green")
    with pytest.raises(ValueError, match="batch size 3 was not compiled; there are 1, 2, 4"):
        model.run_batch(3, [x[:3]], "fast")


def test_a_model_of_one_variant_says_so(plain):
    with pytest.raises(ValueError, match="'fast' was not compiled; the model has one variant only"):
        Model(*plain.parts, variant="fast")


def test_each_variant_is_timed(model):
    timing = model.time(2, repeats=3, window_s=0.0, most_windows=3, variant="fast")
    model.annotate({(2, "fast"): timing.budget})
    assert model.entry(2, "fast").measured == timing.budget
    assert model.entry(2).measured.energy_j == pytest.approx(1e-3 * 2**0.9)


def test_variants_may_change_names(model, two_variants):
    x = rows(1)
    model.rename_variants({(1, "fast"): "frugal", (1, "frugal"): "fast"})
    assert ran(two_variants, x, *model.run([x], "fast")) == ["frugal"]
    assert ran(two_variants, x, model(x)) == ["frugal"]  # the best under the objective stays so
    with pytest.raises(ManifestError):
        model.rename_variants({(1, "fast"): "frugal"})


def test_what_is_expected_of_each_variant(model):
    runner = ModelRunner(model, None)
    assert runner.variants == ("fast", "frugal")
    assert runner.uncapped == Configuration(4, "fast")  # of batch 4 there is no other
    found = runner.predictions.entries
    assert {(one.batch, one.variant) for one in found} == {
        (1, "fast"), (1, "frugal"), (2, "fast"), (2, "frugal"), (4, "fast"),
    }  # fmt: skip
    assert found[Configuration(1, "fast")].power_w == pytest.approx(2.0)
    assert found[Configuration(1, "frugal")].power_w == pytest.approx(0.8)
    assert runner.predictions.error == Predictions().error
    assert ModelRunner(model, [1, 2], ["frugal"]).uncapped == Configuration(2, "frugal")
    with pytest.raises(ValueError, match="'green' was not compiled"):
        ModelRunner(model, None, ["green"])


def test_times_that_are_estimated_may_be_far_off(model):
    budgets = {(entry.batch, entry.variant): entry.measured for entry in model.manifest.entries}
    model.annotate({(1, "frugal"): replace(budgets[1, "frugal"], time_source="estimated")})
    assert ModelRunner(model, None).predictions.error == ESTIMATE_ERROR
    assert ModelRunner(model, [2, 4]).predictions.error == Predictions().error


class Turning:
    """A policy that asks for the other variant after each reading."""

    name = "turning"

    def __init__(self) -> None:
        self.saw: list[Configuration | None] = []
        self.decision = Decision(Configuration(2, "fast"), "searching", "first")

    def step(self, telemetry, cap_w):
        self.saw.append(telemetry.configuration)
        other = "frugal" if self.decision.configuration.variant == "fast" else "fast"
        self.decision = Decision(Configuration(2, other), "searching", f"{other} now")
        return self.decision


def test_a_session_goes_from_variant_to_variant_between_two_calls(model, two_variants):
    policy = Turning()
    meter = ScriptedMeter({2: 50.0}, idle_w=10.0, variants={"frugal": 0.5})
    x = rows(2)
    with model.session(power_cap_w=60.0, meter=meter, policy=policy, max_wait_s=0.0) as session:
        seen = [ran(two_variants, x, session.submit(x).result(timeout=30))[0] for _ in range(6)]
        timeline, changes = session.timeline, session.batch_changes
    assert seen == ["fast", "frugal"] * 3
    assert policy.saw == [Configuration(2, name) for name in seen]
    assert [sample.variant for sample in timeline] == seen
    assert [round(sample.power_w) for sample in timeline] == [50, 30] * 3
    assert [change.variant for change in changes][:3] == ["frugal", "fast", "frugal"]
    assert (session.totals.batch_changes, session.totals.variant_changes) == (0, 6)


def test_the_frontier_takes_the_frugal_one_where_the_fast_one_exceeds_the_cap(model, clock, monkeypatch):
    """Cap 80 W: the fast variant fits. Cap 45 W: the frugal one alone does, at a quarter less throughput."""
    run = Model.run_batch

    def timed(model, batch, arrays, variant=None):
        clock.sleep(model.entry(batch, variant).measured.time_s)
        return run(model, batch, arrays, variant)

    monkeypatch.setattr(Model, "run_batch", timed)
    meter = ScriptedMeter({1: 60.0, 2: 64.0}, idle_w=10.0, variants={"frugal": 0.5}, clock=clock)
    caps = [80.0]
    options = {"meter": meter, "max_wait_s": 0.0, "batch_sizes": [1, 2], "clock": clock}
    with model.session(power_cap_w=lambda: caps[0], sleep=clock.sleep, **options) as session:
        assert session.policy == "frontier"  # the default, as the artifact has predictions
        for cap_w, variant in ((80.0, "fast"), (45.0, "frugal"), (80.0, "fast")):
            caps[0] = cap_w
            assert not wait([session.submit(rows(2)) for _ in range(300)], timeout=30).not_done
            assert session.decision.configuration == Configuration(2, variant)
        metrics = {one.name: one for one in SessionCollector(session).collect()}
    shown = {sample.labels["variant"]: sample.value for sample in metrics["joulec_variant"].samples}
    assert shown == {"fast": 1.0, "frugal": 0.0}
    assert session.totals.above_cap_s < 0.05 * session.totals.seconds


def test_a_session_may_be_kept_to_one_variant(model, two_variants):
    x = rows(2)
    with model.session(variants=["fast"]) as session:
        assert session.variants == ("fast",)
        assert ran(two_variants, x, session.submit(x).result(timeout=30)) == ["fast"] * 2
    with model.session() as session:  # no cap: what the objective prefers at the largest size that is useful
        assert session.variants == ("fast", "frugal")
        assert session.variant == "fast"
    with pytest.raises(ValueError, match="variants are chosen of a joulec model"):
        Session(lambda x: x, variants=["fast"])


def test_a_variant_that_takes_too_long_gives_way_to_another():
    guard = LatencyGuard([1, 2], 0.010, ("fast", "frugal"))
    for _ in range(3):
        guard.observe(2, 0.012, "frugal")
    assert guard.largest == 2
    assert guard.meeting(2, "frugal") == "fast"
    assert guard.meeting(1, "frugal") == "frugal"
    for _ in range(3):
        guard.observe(2, 0.011, "fast")
    assert guard.largest == 1
