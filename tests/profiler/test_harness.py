"""The harness: every way in which a candidate can fail becomes a stored failure, and the rest goes on."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from joulec.costdb.cost import Cost, Failure
from joulec.costdb.memory import MemoryStore
from joulec.costdb.open import open_store
from joulec.profiler.harness import Harness, HarnessError, Limits
from joulec.profiler.meter import MeterError
from joulec.profiler.profiling import profile
from joulec.profiler.protocol import Adaptive
from joulec.profiler.retry import RetryingStore

SUPPORT = Path(__file__).parent / "support"
QUICK = Adaptive(least_s=0.002, warmup_s=0.001, budget_s=0.05)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_workload_is_measured_and_stored(make_harness, make_candidate, store):
    candidate = make_candidate("busy", 1e-4)
    (measurement,) = make_harness().measure([candidate])
    cost = measurement.outcome
    assert isinstance(cost, Cost)
    assert cost.time_s >= 1e-4
    assert (cost.time_source, cost.energy_source) == ("measured", "estimated")
    assert cost.energy_j == pytest.approx(10.0 * cost.time_s + 1e-12 * candidate.work.flops)
    assert cost.samples >= 4
    assert measurement.provenance["host"]
    assert measurement.provenance["date"].endswith("+00:00")
    assert store.get_many([candidate.key]) == {candidate.key: cost}


def test_energy_of_a_real_sensor_is_its_mean_over_a_window(make_harness, make_candidate, fakes):
    (measurement,) = make_harness(fakes.CountingMeter).measure([make_candidate("busy", 1e-4, source="rapl")])
    cost = measurement.outcome
    assert cost.energy_source == "rapl"
    assert measurement.provenance["idle_w"] == "3"
    assert 3.0 * 1e-4 * 0.99 <= cost.energy_j <= 3.0 * cost.time_s * 100


FAILING = [
    ("fails_to_build", "unknown attribute", "build", "ValueError: unknown attribute"),
    ("noisy_crash", None, "crash", "SIGSEGV"),
    ("exits", 3, "crash", "exit code 3"),
    ("killed", None, "memory", "SIGKILL"),
    ("fails_to_run", None, "run", "ArithmeticError: no convergence"),
    ("crashes_while_running", None, "crash", "while running (SIGSEGV)"),
    ("bad_alloc", None, "memory", "std::bad_alloc"),
    ("writes_outside", None, "crash", "while running"),
]


@pytest.mark.parametrize(("function", "payload", "kind", "reason"), FAILING)
def test_each_failure_has_its_kind_and_the_rest_goes_on(
    make_harness, make_candidate, store, function, payload, kind, reason
):
    bad, good = make_candidate(function, payload), make_candidate("busy", 1e-4)
    outcomes = {m.key: m.outcome for m in make_harness().measure([bad, good])}
    failure, cost = outcomes[bad.key], outcomes[good.key]
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert reason in failure.reason
    assert isinstance(cost, Cost)
    assert store.get_many([bad.key, good.key]) == {bad.key: failure, good.key: cost}


def test_a_crash_reports_what_the_worker_wrote_last(make_harness, make_candidate):
    (measurement,) = make_harness().measure([make_candidate("noisy_crash")])
    assert "last words" in measurement.outcome.reason
    assert "fake_workloads.py" in measurement.outcome.reason  # the traceback of the crash


@pytest.mark.parametrize(
    ("function", "limits", "reason"),
    [
        ("hangs_while_building", Limits(build_s=0.3), "building took longer than 0.3 s"),
        ("runs_forever", Limits(run_s=0.3), "running took longer than 0.3 s"),
    ],
)
def test_a_hang_ends_at_its_limit(make_harness, make_candidate, function, limits, reason):
    outcomes = [
        m.outcome for m in make_harness(limits=limits).measure([make_candidate(function), make_candidate("busy", 1e-5)])
    ]
    assert outcomes[0].kind == "timeout"
    assert reason in outcomes[0].reason
    assert isinstance(outcomes[1], Cost)


def test_a_memory_hog_meets_its_limit(make_harness, make_candidate):
    harness = make_harness(limits=Limits(memory_bytes=512 << 20))
    good, hog = harness.measure([make_candidate("memory_hog"), make_candidate("busy", 1e-4)])
    assert hog.outcome.kind == "memory"
    assert "MemoryError" in hog.outcome.reason
    assert isinstance(good.outcome, Cost)


def test_output_does_not_disturb_the_conversation(make_harness, make_candidate):
    outcomes = [m.outcome for m in make_harness().measure([make_candidate("chatty"), make_candidate("busy", 1e-4)])]
    assert all(isinstance(outcome, Cost) for outcome in outcomes)


def test_each_outcome_is_stored_before_it_is_announced(make_harness, make_candidate, store):
    candidates = [make_candidate("busy", 1e-5 * n) for n in (1, 2, 3)]
    counts = []

    def on_result(measurement):
        assert store.get_many([measurement.key]) == {measurement.key: measurement.outcome}
        counts.append(len(store.get_many([c.key for c in candidates])))

    make_harness().measure(candidates, on_result)
    assert counts == [3, 3, 3]  # rivals are known together


@pytest.fixture
def interruptible():
    """A shell's background job, in which tests may run, ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_is_measured_and_ends_the_worker(make_harness, make_candidate, store, tmp_path):
    """It comes while one rival is known and the other is still being measured."""
    first, second = make_candidate("busy", 1e-4), make_candidate("interrupts_parent", str(tmp_path / "pid"))
    with pytest.raises(KeyboardInterrupt):
        make_harness().measure([first, second])
    assert set(store.get_many([first.key, second.key])) == {first.key}
    assert _wait_until(lambda: not _alive(int((tmp_path / "pid").read_text())))


def test_keep_going_is_asked_before_each_candidate(make_harness, make_candidate):
    candidates = [make_candidate("busy", 1e-5 * n) for n in (1, 2, 3)]
    measured, asked = [], []

    def keep_going(candidate):
        asked.append(candidate.key)
        return candidate is not candidates[1]

    results = make_harness().measure(candidates, measured.append, keep_going)
    assert asked == [candidate.key for candidate in candidates]
    assert [m.key for m in results] == [candidates[0].key, candidates[2].key]


class ByTime:
    """Candidates that are slower cannot win."""

    judges = True

    def prefers(self, rival, candidate):
        return candidate.time_s > rival.time_s

    def known(self, candidate):
        return []

    def pacemaker(self, candidates):
        return None


def test_a_candidate_far_behind_is_left_and_that_is_kept(make_harness, make_candidate, store):
    ahead, behind = make_candidate("busy", 1e-4), make_candidate("busy", 5e-3)
    found = {m.key: m for m in make_harness().measure([ahead, behind], rivalry=ByTime())}
    assert found[ahead.key].outcome.samples >= 4
    cost = found[behind.key].outcome
    assert (cost.samples, cost.spread) == (1, math.inf)
    assert cost.time_s >= 5e-3
    assert found[behind.key].provenance["stopped"].startswith("cannot win: far behind a rival in time")
    assert "stopped" not in found[ahead.key].provenance
    assert store.get_many([behind.key]) == {behind.key: cost}


def test_what_was_left_is_measured_where_it_may_win(make_harness, make_candidate, store):
    ahead, behind = make_candidate("busy", 1e-4), make_candidate("busy", 5e-3)
    harness = make_harness()
    assert profile([ahead, behind], store, harness, rivalry=ByTime()).measured == 2
    assert profile([ahead], store, harness, rivalry=ByTime()).measured == 0
    assert profile([ahead, behind], store, harness).measured == 1
    assert math.isfinite(store.get_many([behind.key])[behind.key].spread)
    assert profile([ahead, behind], store, harness).measured == 0


def test_rivals_take_turns_forth_and_back(make_harness, make_candidate, tmp_path):
    """Real processes: each candidate notes when it runs."""
    log = tmp_path / "log"
    candidates = [make_candidate("noting", (str(log), name)) for name in "abc"]
    costs = make_harness().measure(candidates)
    assert all(isinstance(m.outcome, Cost) for m in costs)
    order = "".join(name for name, _ in itertools.groupby(log.read_text()))
    assert order.startswith("abc" + "abc" + "ba"), "warmed up, forth and back"


def test_a_crash_in_a_race_costs_the_others_nothing_but_a_new_worker(make_harness, make_candidate):
    crash = make_candidate("crashes_later", None)
    others = [make_candidate("busy", 1e-4 * n) for n in (1, 2)]
    found = {m.key: m.outcome for m in make_harness().measure([others[0], crash, others[1]])}
    assert found[crash.key].kind == "crash"
    assert [found[other.key].time_s >= 1e-4 * n for n, other in enumerate(others, 1)] == [True, True]


def _beside(make_candidate, folder, limit_s, source="estimated"):
    files = [str(folder / name) for name in "ab"]
    payloads = [(*files, limit_s), (*reversed(files), limit_s)]
    return [make_candidate("builds_beside_another", payload, source=source) for payload in payloads]


def test_several_workers_build_at_once_and_take_turns_running(make_harness, make_candidate, tmp_path):
    log = tmp_path / "log"
    harness = make_harness(builders=2)
    more = [make_candidate("busy", 1e-4 * n) for n in (1, 2)]
    found = harness.measure([*_beside(make_candidate, tmp_path, 20.0), *more])
    assert [type(m.outcome) for m in found] == [Cost] * 4
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()
    assert len(harness.measure([make_candidate("noting", (str(log), name)) for name in "abcd"])) == 4
    order = "".join(name for name, _ in itertools.groupby(log.read_text()))
    assert order.startswith("abcd" + "abcd" + "cba"), "warmed up, forth and back"


def test_a_few_candidates_are_not_worth_another_worker(make_harness, make_candidate, tmp_path):
    files = [tmp_path / name for name in "abc"]
    make_harness(builders=4).measure([make_candidate("reports_pid", str(file)) for file in files])
    assert len({file.read_text() for file in files}) == 1


def test_a_worker_that_is_done_begins_the_next(make_harness, make_candidate, tmp_path):
    """The first takes until the last is built; the other worker builds all else, and the order stays."""
    files = [str(tmp_path / name) for name in "abcd"]
    late = make_candidate("reports_pid_late", (files[0], files[3]))
    found = make_harness(builders=2).measure([late, *(make_candidate("reports_pid", file) for file in files[1:])])
    first, *others = (Path(file).read_text() for file in files)
    assert set(others) == {others[0]} != {first}
    assert found[0].key == late.key


def test_workers_that_have_started_build_a_few_too(make_harness, make_candidate, tmp_path):
    harness = make_harness(builders=2)
    harness.measure([make_candidate("busy", 1e-4 * n) for n in (1, 2, 3, 4)])
    assert [type(m.outcome) for m in harness.measure(_beside(make_candidate, tmp_path, 20.0))] == [Cost] * 2


def test_a_sensor_is_opened_by_one_worker(make_harness, make_candidate, fakes, tmp_path):
    harness = make_harness(fakes.CountingMeter, builders=2)
    more = [make_candidate("busy", 1e-4 * n, source="rapl") for n in (1, 2)]
    found = harness.measure([*_beside(make_candidate, tmp_path, 0.1, "rapl"), *more])[:2]
    assert sorted(type(m.outcome).__name__ for m in found) == ["Cost", "Failure"], "the second finds the first's file"
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


@pytest.mark.parametrize("function", ["noisy_crash", "crashes_later", "fails_to_build"])
def test_what_befalls_one_of_several_workers_is_no_other_candidates_fault(make_harness, make_candidate, function):
    bad = make_candidate(function, "no")
    others = [make_candidate("busy", 1e-4 * n) for n in (1, 2, 3)]
    found = {m.key: m.outcome for m in make_harness(builders=2).measure([others[0], bad, *others[1:]])}
    assert found[bad.key].kind == ("build" if function == "fails_to_build" else "crash")
    assert [found[other.key].time_s >= 1e-4 * n for n, other in enumerate(others, 1)] == [True] * 3


def test_equal_keys_are_measured_once(make_harness, make_candidate):
    candidate = make_candidate("busy", 1e-5)
    assert len(make_harness().measure([candidate, dataclasses.replace(candidate, label="again")])) == 1


def test_the_worker_stays_between_calls_and_thread_changes_replace_it(make_harness, make_candidate, tmp_path):
    harness = make_harness()
    files = [tmp_path / f"pid{n}" for n in range(3)]
    for file in files[:2]:
        harness.measure([make_candidate("reports_pid", str(file))])
    thread = threading.Thread(target=harness.measure, args=([make_candidate("reports_pid", str(files[2]))],))
    thread.start()
    thread.join()
    pids = [file.read_text() for file in files]
    assert pids[0] == pids[1] != pids[2]
    (last,) = harness.measure([make_candidate("busy", 1e-5)])
    assert isinstance(last.outcome, Cost)


def test_a_worker_lost_while_idle_is_replaced(make_harness, make_candidate, tmp_path):
    harness = make_harness()
    harness.measure([make_candidate("reports_pid", str(tmp_path / "pid"))])
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert _wait_until(lambda: not _alive(int((tmp_path / "pid").read_text())))
    (measurement,) = harness.measure([make_candidate("busy", 1e-5)])
    assert isinstance(measurement.outcome, Cost)


def test_the_worker_knows_the_number_of_threads(make_harness, make_candidate, monkeypatch):
    names = ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "TVM_BIND_THREADS", "TVM_THREAD_POOL_SPIN_COUNT", "EXTRA")
    monkeypatch.setenv("TVM_NUM_THREADS", "64")
    monkeypatch.delenv("TVM_THREAD_POOL_SPIN_COUNT", raising=False)
    harness = make_harness(threads=3, environment={"EXTRA": "yes"})
    (measurement,) = harness.measure([make_candidate("reports_environment", names)])
    told = dict(zip(names, ("3", "3", "0", "100", "yes"), strict=True))
    assert measurement.outcome == Failure("build", f"ValueError: {told!r}")


def test_a_lost_or_unreadable_sensor_is_no_candidates_fault(make_harness, make_candidate, fakes, store):
    with pytest.raises(MeterError, match="plug it in"):
        make_harness(fakes.no_meter).measure([make_candidate("busy", 1e-5)])
    with pytest.raises(MeterError, match="reboot"):
        make_harness(fakes.failing_sensor).measure([make_candidate("busy", 1e-5, source="rapl")])
    assert store.info().rows == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"builder": "no_such_module:f"}, "No module named 'no_such_module'"),
        ({"builder": "fake_workloads:no_such_function"}, "no_such_function"),
        ({"builder": "fake_workloads"}, "module:function"),
        ({"payload": lambda: None}, "top of an importable module"),
    ],
)
def test_what_cannot_be_loaded_is_the_callers_fault_and_is_not_stored(
    make_harness, make_candidate, store, change, message
):
    candidate = dataclasses.replace(make_candidate("busy", 1e-5), **change)
    with pytest.raises(HarnessError, match=message):
        make_harness().measure([candidate])
    assert store.info().rows == 0


def test_keys_for_another_protocol_or_sensor_are_refused(make_harness, make_candidate, store):
    with pytest.raises(HarnessError, match="adaptive-4"):
        make_harness().measure([make_candidate("busy", 1e-5, protocol=Adaptive())])
    with pytest.raises(HarnessError, match="energy from nvml"):
        make_harness().measure([make_candidate("busy", 1e-5, source="nvml")])
    assert store.info().rows == 0


def test_a_worker_that_cannot_start_says_why(make_harness, make_candidate, monkeypatch, tmp_path):
    (tmp_path / "tomllib.py").write_text("raise SystemExit('no start today')")
    with pytest.raises(HarnessError, match="no start today"):
        make_harness(paths=[str(tmp_path)]).measure([make_candidate("busy", 1e-5)])
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(HarnessError, match=r"sys\.executable is empty"):
        make_harness().measure([make_candidate("busy", 1e-5)])


def test_a_broken_factory_is_reported(make_harness, make_candidate, fakes):
    with pytest.raises(HarnessError, match="KeyError"):
        make_harness(fakes.faulty_meter_factory).measure([make_candidate("busy", 1e-5)])


def test_profile_reuses_what_is_known_failures_too(make_harness, make_candidate, store):
    known, bad, new = make_candidate("busy", 1e-5), make_candidate("fails_to_build", "no"), make_candidate("busy", 2e-5)
    harness = make_harness()
    first = profile([known, bad, known], store, harness)
    assert (first.measured, first.reused, first.failed, first.unknown) == (1, 0, 1, 0)
    announced = []
    second = profile([known, bad, new], store, harness, announced.append)
    assert (second.measured, second.reused, second.failed, second.unknown) == (1, 2, 0, 0)
    assert [m.key for m in announced] == [new.key]
    third = profile([make_candidate("busy", 3e-5)], store, harness, keep_going=lambda candidate: False)
    assert (third.measured, third.unknown) == (0, 1)
    assert third.seconds >= 0


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_failure_is_tried_again_on_demand_alone(fakes, make_candidate, tmp_path, kind):
    url = f"sqlite:///{tmp_path}/costs.db"
    with MemoryStore() if kind == "memory" else open_store(url) as store:
        candidate = make_candidate("fails_until", str(tmp_path / "now"))
        known = make_candidate("busy", 1e-5)

        def run(view):
            options = {"protocol": QUICK, "threads": 1, "paths": [str(SUPPORT)]}
            with Harness(view, fakes.meter, **options) as harness:
                return profile([candidate, known], view, harness)

        assert (run(store).failed, run(store).reused) == (1, 2)
        retrying = RetryingStore(store)
        assert (run(retrying).failed, run(retrying).reused) == (1, 2)
        (tmp_path / "now").touch()
        assert run(store).reused == 2
        assert run(RetryingStore(store)).measured == 1
        assert isinstance(store.get_many([candidate.key])[candidate.key], Cost)
        assert store.info().failures == 0
