"""The contract of `CostStore`, over every store."""

import dataclasses
import math
import threading
from datetime import UTC, datetime

import pytest

from joulec.costdb.cost import Cost, Failure, Measurement
from joulec.costdb.store import CostStoreError


def test_what_was_put_is_got(store, row):
    rows = [row(1), row(2, Failure("crash", "signal 11\nat conv2d")), row(3, Cost(0.5, None, "estimated", None))]
    store.put_many(rows)
    assert store.get_many(m.key for m in rows) == {m.key: m.outcome for m in rows}


def test_every_field_of_key_and_provenance_survives(store, row):
    rows = {m.key: m for m in (row(1), row(2, device="gpu-b"), row(3, Failure("build", "no such target")))}
    store.put_many(rows.values())
    assert {m.key: m for m in store.rows()} == rows


def test_each_field_of_the_key_tells_rows_apart(store, row):
    base = row(1)
    others = [
        dataclasses.replace(base.key, **{field.name: "nvml" if field.name == "energy_source" else "another"})
        for field in dataclasses.fields(base.key)
    ]
    store.put_many([base, *(Measurement(key, Cost(2.0 + i, None, "measured", None)) for i, key in enumerate(others))])
    assert store.get_many([base.key]) == {base.key: base.outcome}
    assert [store.get_many([key])[key].time_s for key in others] == [2.0 + i for i in range(len(others))]
    assert store.info().rows == 1 + len(others)


def test_unknown_keys_are_absent(store, row):
    store.put_many([row(1)])
    assert store.get_many([row(2).key, row(1).key]) == {row(1).key: row(1).outcome}
    assert store.get_many([]) == {}


def test_repeated_keys_are_one(store, row):
    store.put_many([row(1)])
    assert store.get_many(iter([row(1).key] * 3)) == {row(1).key: row(1).outcome}


def test_putting_nothing_and_putting_again_change_nothing(store, row):
    store.put_many([])
    store.put_many(row(i) for i in range(5))
    before = list(store.rows())
    store.put_many(row(i) for i in range(5))
    assert list(store.rows()) == before
    assert len(before) == 5


GOOD, BETTER = Cost(2.0, 20.0, "measured", "rapl"), Cost(1.0, None, "measured", None)
BUILD, CRASH = Failure("build", "syntax"), Failure("crash", "signal 9")


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [(GOOD, BETTER, BETTER), (BUILD, CRASH, CRASH), (BUILD, GOOD, GOOD), (GOOD, CRASH, GOOD)],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_last_writer_wins_but_no_failure_replaces_a_cost(store, row, first, second, kept, at_once):
    pair = [row(1, first), dataclasses.replace(row(1, second), provenance={"host": "second"})]
    for batch in [pair] if at_once else [[m] for m in pair]:
        store.put_many(batch)
    assert store.get_many([row(1).key]) == {row(1).key: kept}
    (only,) = store.rows()
    assert only.outcome == kept
    assert only.provenance == (pair[1] if kept == second else pair[0]).provenance


def test_info_of_an_empty_store(store):
    info = store.info()
    assert (info.rows, info.failures, info.by_source, info.devices) == (0, 0, {}, {})
    assert info.last_measured_at is None


def test_info_counts(store, row):
    later = {"date": "2026-03-02T01:00:00+02:00"}
    store.put_many(
        [
            row(1),
            row(2, device="gpu-b"),
            row(3, Failure("timeout", "60 s")),
            row(4, Cost(1.0, 2.0, "simulated", "simulated")),
            dataclasses.replace(row(5, Cost(1.0, None, "measured", None)), provenance=later),
            dataclasses.replace(row(6, Failure("run", "x")), provenance={"date": "yesterday"}),
            dataclasses.replace(row(7, Failure("run", "x")), provenance={}),
        ]
    )
    info = store.info()
    assert (info.rows, info.failures) == (7, 3)
    assert info.by_source == {"measured": 3, "rapl": 2, "simulated": 1}
    assert info.devices == {"cpu-a": 6, "gpu-b": 1}
    assert info.last_measured_at == datetime(2026, 3, 1, 23, tzinfo=UTC)
    for source, count in info.by_source.items():
        assert len(list(store.rows(source=source))) == count


def test_rows_are_filtered(store, row):
    rows = [
        row(i, operator=operator, device=device)
        for i in range(3)
        for operator in ("conv2d", "matmul")
        for device in "ab"
    ]
    store.put_many([*rows, row(9, Failure("memory", "2 GB"), operator="matmul", device="a")])
    assert {m.key for m in store.rows(operator="matmul")} == {m.key for m in rows if m.key.operator == "matmul"} | {
        row(9, operator="matmul", device="a").key
    }
    assert {m.key for m in store.rows("conv2d", "b")} == {m.key for m in rows[1::4]}
    assert {m.key for m in store.rows(source="rapl", device="a")} == {m.key for m in rows if m.key.device == "a"}
    assert list(store.rows(operator="pool")) == []
    assert list(store.rows(source="nvml")) == []


def test_rows_come_in_the_order_of_ids_over_many_pages(store, row):
    ids = sorted(row(i).key.id for i in range(2500))
    store.put_many(row(i) for i in range(2500))
    assert [m.key.id for m in store.rows()] == ids


def test_a_store_may_be_written_while_its_rows_are_read(store, row):
    store.put_many(row(i) for i in range(1500))
    seen = set()
    for m in store.rows():
        seen.add(m.key)
        if len(seen) % 500 == 0:
            store.put_many([row(10_000 + len(seen))])
    assert {row(i).key for i in range(1500)} <= seen
    assert store.info().rows >= 1503


def test_numbers_survive_exactly(store, row):
    costs = [
        Cost(x, -x, "measured", "rapl", spread=y) for x, y in ((5e-324, 0.0), (1e308, math.inf), (0.1 + 0.2, 1e-17))
    ]
    store.put_many(row(i, cost) for i, cost in enumerate(costs))
    assert [store.get_many([row(i).key])[row(i).key] for i in range(3)] == costs


def test_numpy_numbers_are_kept_as_plain_ones(store, row):
    numpy = pytest.importorskip("numpy")
    store.put_many([row(1, Cost(numpy.float32(0.5), numpy.float64(2), "measured", "rapl", samples=numpy.int64(7)))])
    assert store.get_many([row(1).key])[row(1).key] == Cost(0.5, 2.0, "measured", "rapl", samples=7)


@pytest.mark.parametrize(
    ("name", "figure"),
    [("time_s", math.nan), ("time_s", math.inf), ("time_s", -1.0), ("energy_j", math.nan), ("spread", math.nan)],
)
def test_what_is_no_figure_is_refused_and_nothing_kept(store, row, name, figure):
    with pytest.raises(ValueError, match=f"conv2d.*{name}"):
        store.put_many([row(1), row(2, dataclasses.replace(GOOD, **{name: figure}))])
    assert store.info().rows == 0


def test_texts_of_crashed_programs_are_made_storable(store, row):
    store.put_many([Measurement(row(1).key, Failure("crash", "a\0b\udcffc é 電"), {"host": "h\0st"})])
    (kept,) = store.rows()
    assert kept.outcome == Failure("crash", "a?b?c é 電")
    assert kept.provenance == {"host": "h?st"}


def test_a_key_that_is_no_storable_text_is_refused(store, row):
    with pytest.raises(ValueError, match="attributes"):
        store.put_many([row(1), Measurement(dataclasses.replace(row(2).key, attributes="a\0"), GOOD)])
    assert store.info().rows == 0


def test_long_texts_survive(store, row):
    m = Measurement(dataclasses.replace(row(1).key, attributes="x=1 " * 50_000), Failure("build", "line\n" * 50_000))
    store.put_many([m])
    assert store.get_many([m.key]) == {m.key: m.outcome}


def test_threads_share_a_store(store, row):
    errors = []

    def work(thread):
        try:
            for i in range(20):
                store.put_many(
                    [row(thread * 100 + i), row(i, Cost(1.0 + thread, None, "measured", None), device="shared")]
                )
                assert row(thread * 100 + i).key in store.get_many([row(thread * 100 + i).key])
        except Exception as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.info().devices == {"cpu-a": 80, "shared": 20}


def test_a_closed_store_says_so(open_new, row):
    with open_new() as store:
        store.put_many([row(1)])
    store.close()
    for use in (
        lambda: store.put_many([row(2)]),
        lambda: store.get_many([row(1).key]),
        store.info,
        lambda: list(store.rows()),
    ):
        with pytest.raises(CostStoreError, match="closed"):
            use()


def test_ids_of_one_device_and_one_operator_lie_together(row):
    one = row(1).key
    same_operator = dataclasses.replace(one, algorithm="gemm_conv", layouts="row-major", digest="77")
    same_device = dataclasses.replace(one, operator="pool", shapes='"é\\ 電\n\t')
    assert one.id[:40] == same_operator.id[:40]
    assert one.id[:16] == same_device.id[:16]
    assert not one.id.startswith(dataclasses.replace(one, device="cpu-b").id[:16])
    assert len(one.id) == 64


def test_every_field_of_a_key_decides_its_id(row):
    key = row(1).key
    fields = [field.name for field in dataclasses.fields(key)]
    others = [dataclasses.replace(key, **{name: f"{getattr(key, name)}'"}) for name in fields]
    shifted = dataclasses.replace(key, operator="", attributes=key.operator + key.attributes)
    assert len({one.id for one in (key, *others, shifted)}) == len(fields) + 2
