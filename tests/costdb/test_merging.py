"""Merging, over every store: the better measurement counts, none is lost, and the order does not matter."""

import dataclasses
import math

import pytest

from joulec.costdb.cost import Cost, Failure, Measurement
from joulec.costdb.preference import rank
from joulec.costdb.store import Merged

# From worst to best, each better than the last for one reason.
LADDER = [
    (Failure("build", "syntax"), "2026-03-01"),
    (Failure("crash", "signal 11"), "2026-03-02"),
    (Cost(1.0, 2.0, "estimated", "estimated", spread=0.0, samples=9), "2026-03-09"),
    (Cost(1.0, None, "measured", None, spread=0.001, samples=99), "2026-03-09"),
    (Cost(1.0, 2.0, "measured", "rapl", spread=0.0, samples=1), "2026-03-09"),
    (Cost(1.0, 2.0, "measured", "rapl", spread=0.03, samples=90), "2026-03-09"),
    (Cost(1.1, 2.0, "measured", "rapl", spread=0.02, samples=9), "2026-03-01"),
    (Cost(1.2, 2.0, "measured", "rapl", spread=0.02, samples=10), "2026-03-01"),
    (Cost(1.3, 2.0, "measured", "rapl", spread=0.02, samples=10), "2026-03-02"),
]


def ladder(row) -> list[Measurement]:
    return [
        dataclasses.replace(row(1, outcome), provenance={"host": f"bench-{n}", "date": date})
        for n, (outcome, date) in enumerate(LADDER)
    ]


def test_each_step_of_the_ladder_is_better_than_the_last(row):
    ranks = [rank(m) for m in ladder(row)]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("order", [0, 5, -1])
def test_the_best_counts_and_all_others_are_kept(store, row, order, pages):
    steps = ladder(row)
    arriving = steps[order:] + steps[:order] if order >= 0 else steps[::-1]
    for page in [arriving[n : n + pages] for n in range(0, len(arriving), pages)]:
        store.merge(page)
    assert list(store.rows()) == [steps[-1]]
    assert sorted(store.rows(superseded=True), key=rank) == steps[:-1]
    assert (store.info().rows, store.info().superseded) == (1, len(steps) - 1)


def test_merging_again_changes_nothing(store, row):
    steps = [*ladder(row), row(2), row(3)]
    first = store.merge(steps)
    assert sum(dataclasses.astuple(first)) == len(steps)
    assert first.new == 3
    assert store.merge(steps[::-1]) == Merged(same=len(steps))
    assert (store.info().rows, store.info().superseded) == (3, len(LADDER) - 1)


def test_what_is_merged_is_counted(store, row):
    store.put_many([row(1), row(2, Failure("run", "x"))])
    others = [row(1), row(1, Cost(1.0, None, "measured", None)), row(2), row(3)]
    assert store.merge(others) == Merged(new=1, better=1, worse=1, same=1)
    assert store.get_many([row(2).key]) == {row(2).key: row(2).outcome}


def test_many_pages_are_merged(store, row):
    store.put_many(row(i) for i in range(0, 2500, 2))
    assert store.merge(row(i) for i in range(2500)) == Merged(new=1250, same=1250)
    assert {m.key.id for m in store.rows()} == {row(i).key.id for i in range(2500)}


def test_a_measurement_that_counts_again_is_no_longer_superseded(store, row):
    good, poor = row(1), row(1, Cost(9.0, None, "measured", None, spread=math.inf))
    store.merge([good, poor])
    store.put_many([poor])  # measured again on purpose: the last writer wins
    assert list(store.rows()) == [poor]
    assert store.merge([good]) == Merged(better=1)
    assert (list(store.rows()), list(store.rows(superseded=True))) == ([good], [poor])


def test_superseded_rows_are_filtered_too(store, row):
    store.merge([row(1), row(1, Failure("run", "x")), row(2, operator="pool"), row(2, GIVEN_UP, operator="pool")])
    assert [m.outcome for m in store.rows(operator="pool", superseded=True)] == [GIVEN_UP]
    assert [m.outcome for m in store.rows(source="rapl", superseded=True)] == [GIVEN_UP]
    assert list(store.rows(device="another", superseded=True)) == []


GIVEN_UP = Cost(1.0, 2.0, "measured", "rapl", spread=math.inf, samples=1)


def test_a_lock_is_held_by_one_store_at_a_time(store):
    assert store.try_lock("device")
    assert not store.try_lock("device")
    assert store.try_lock("another")
    store.unlock("device")
    store.unlock("device")
    store.unlock("never taken")
    assert store.try_lock("device")


def test_stores_of_one_database_exclude_each_other(database_url):
    from joulec.costdb.open import open_store

    with open_store(database_url) as one, open_store(database_url) as other:
        assert one.try_lock("device")
        assert not other.try_lock("device")
        other.unlock("device")
        assert not other.try_lock("device")
        one.unlock("device")
        assert other.try_lock("device")
        other.close()
        assert one.try_lock("device")
