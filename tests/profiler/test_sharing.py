"""Profilers that share a database: none measures what another is measuring, and on one device they take turns."""

from __future__ import annotations

import itertools
import math
import threading

from joulec.costdb.cost import Cost, Measurement
from joulec.costdb.open import open_store
from joulec.profiler.profiling import profile
from joulec.profiler.sharing import claim, rivals, turn

COST = Cost(1.0, 2.0, "measured", "estimated")


class RecordingHarness:
    """Stands in for the harness: stores a cost, and notes who timed what, and whether anybody did at the same time."""

    def __init__(self, store, name, log, busy):
        self.store, self.name, self.log, self.busy = store, name, log, busy

    def measure(self, candidates, on_result, keep_going, rivalry):
        (candidate,) = candidates
        assert self.busy.acquire(blocking=False), "two timed at once"
        self.log.append((self.name, candidate.key.parameters))
        threading.Event().wait(0.03)
        measurement = Measurement(candidate.key, COST)
        self.store.put_many([measurement])
        self.busy.release()
        return [measurement]


def test_two_profilers_share_the_work_and_take_turns(tmp_path, make_candidate):
    candidates = [make_candidate("busy", n, shapes=str(n)) for n in range(12)]
    log, summaries, errors, busy = [], [], [], threading.Lock()

    def work(name):
        try:
            with open_store(str(tmp_path / "costs.db")) as store:
                harness = RecordingHarness(store, name, log, busy)
                summaries.append(profile(candidates, store, harness))
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(n for _, n in log) == sorted(map(repr, range(12)))
    assert sum(s.measured for s in summaries) == 12
    assert all(s.measured + s.reused == 12 and s.unknown == 0 for s in summaries)
    longest = max(len(list(group)) for _, group in itertools.groupby(log, key=lambda entry: entry[0]))
    assert longest < 12, "one had the device all the time"


def test_what_another_has_claimed_is_learnt_from_it(tmp_path, make_candidate):
    mine, theirs = make_candidate("busy", 1, shapes="1"), make_candidate("busy", 2, shapes="2")
    log, known = [], {}
    with open_store(str(tmp_path / "costs.db")) as store, open_store(str(tmp_path / "costs.db")) as other:
        holder = claim(other, rivals(theirs.key))
        assert holder.__enter__()

        def finish(_):
            other.put_many([Measurement(theirs.key, COST)])
            holder.__exit__(None, None, None)

        class Finishing(RecordingHarness):
            def measure(self, candidates, *options):
                found = super().measure(candidates, *options)
                finish(found)
                return found

        harness = Finishing(store, "a", log, threading.Lock())
        summary = profile([theirs, mine], store, harness, on_known=known.__setitem__)
    assert [n for _, n in log] == ["1"]
    assert (summary.measured, summary.reused, summary.unknown) == (1, 1, 0)
    assert known == {theirs.key: COST}


def test_what_another_has_left_is_measured_again_only_where_it_may_win_here(tmp_path, make_candidate, monkeypatch):
    """The first look-up finds nothing; before this one has its claim, another has left both as hopeless."""
    lost, hopeful = make_candidate("busy", 1, shapes="1"), make_candidate("busy", 2, shapes="2")
    left = Cost(9.0, 9.0, "measured", "estimated", spread=math.inf)
    log, known = [], {}

    def still(candidate):
        return candidate is hopeful or lost.key not in known

    with open_store(str(tmp_path / "costs.db")) as store:
        take = store.try_lock

        def late(name):
            store.put_many([Measurement(one.key, left) for one in (lost, hopeful)])
            return take(name)

        monkeypatch.setattr(store, "try_lock", late)
        harness = RecordingHarness(store, "a", log, threading.Lock())
        summary = profile([lost, hopeful], store, harness, None, still, on_known=known.__setitem__)
    assert [n for _, n in log] == ["2"]
    assert (summary.measured, summary.reused, summary.unknown) == (1, 1, 0)


def test_waiting_for_a_device_ends_when_it_is_no_longer_worth_it(tmp_path, make_candidate):
    device = make_candidate("busy", 1).key.device
    answers = [True, True, False]
    with open_store(str(tmp_path / "costs.db")) as store, open_store(str(tmp_path / "costs.db")) as other:
        with turn(other, device, lambda: True) as theirs:
            assert theirs
            with turn(store, device, lambda: answers.pop(0), sleep=lambda _: None) as ours:
                assert not ours
        assert answers == []
        with turn(store, device, lambda: False) as ours:
            assert ours
