"""A long run goes on when its server dies: into the journal, with what it has seen, among the processes here."""

import pytest

from joulec.costdb.continuing import ContinuingStore, going_on
from joulec.costdb.cost import Failure
from joulec.costdb.journal import Journal
from joulec.costdb.open import open_store
from joulec.costdb.store import CostStoreError, Merged


@pytest.fixture
def said():
    return []


@pytest.fixture
def open_long(own_server, monkeypatch, said):
    """Opens the server's store for a long run."""
    monkeypatch.setenv("JOULEC_COSTS_PATIENCE_S", "0.2")
    return lambda: going_on(open_store(own_server.url), said.append, lambda journal: None)


def journal_of(url):
    with open_store(url) as store:
        return store.journal.path


def test_what_is_put_after_the_loss_is_merged_later_and_nothing_twice(own_server, open_long, row, said):
    path = journal_of(own_server.url)
    with open_long() as store:
        store.put_many([row(1), row(2, Failure("crash", "signal 11"))])
        assert store.lost is None
        own_server.stop()
        store.put_many([row(3)])
        store.put_many([row(4), row(2)])
        known = store.get_many([row(i).key for i in range(6)])
        assert known == {row(i).key: row(i).outcome for i in (1, 2, 3, 4)}
        assert len(said) == 1
        assert f"joulec db merge {path}" in said[0]
        assert "3 measurements are kept" in store.lost
    own_server.start()
    with open_store(own_server.url) as store:
        with store.journal.taken() as measurements:
            assert store.merge(measurements) == Merged(new=2, better=1)
        assert {m.key: m for m in store.rows()} == {row(i).key: row(i) for i in (1, 2, 3, 4)}


def test_a_loss_may_be_found_by_looking_up_or_by_locking(own_server, open_long, row, said):
    with open_long() as first, open_long() as second:
        first.put_many([row(1)])
        own_server.stop()
        assert first.get_many([row(1).key, row(2).key]) == {row(1).key: row(1).outcome}
        assert "nothing was measured since" in first.lost
        assert first.try_lock("device")
        assert not second.try_lock("device"), "two runs on one machine hold one lock"
        first.unlock("device")
        assert second.try_lock("device")
    assert len(said) == 2


def test_a_failure_takes_the_place_of_no_cost_in_what_was_seen(own_server, open_long, row):
    with open_long() as store:
        own_server.stop()
        store.put_many([row(1)])
        store.put_many([row(1, Failure("run", "x"))])
        assert store.get_many([row(1).key]) == {row(1).key: row(1).outcome}


def test_a_journal_that_cannot_be_written_ends_the_run(own_server, open_long, row, tmp_path):
    with open_long() as store:
        own_server.stop()
        store.put_many([row(1)])
        path = store._journal.path
        path.unlink()
        path.mkdir()
        with pytest.raises(CostStoreError, match=r"now the journal cannot be written.*last measurement is lost"):
            store.put_many([row(2)])
        path.rmdir()


def test_the_next_run_is_told_of_the_journal(own_server, open_long, row, said):
    with open_store(own_server.url) as store:
        store.journal.keep([row(1)])
    open_long().close()
    assert len(said) == 1
    assert "earlier measurements" in said[0]


def test_files_are_not_continued(tmp_path):
    with open_store(str(tmp_path / "costs.db")) as store:
        assert going_on(store, print, print) is store
        assert store.lost is None
    with open_store("memory:") as store:
        assert going_on(store, print, print) is store


def test_a_store_without_a_journal_is_refused(tmp_path, row):
    with open_store(str(tmp_path / "costs.db")) as store:
        store.journal = None
        with pytest.raises(ValueError, match="without a journal"):
            ContinuingStore(store)


@pytest.mark.parametrize("patience", ["soon", "-1", "nan", "inf"])
def test_a_patience_that_is_no_time_is_refused(postgres_url, monkeypatch, patience):
    monkeypatch.setenv("JOULEC_COSTS_PATIENCE_S", patience)
    with pytest.raises(CostStoreError, match="JOULEC_COSTS_PATIENCE_S"):
        open_store(postgres_url)


def test_the_command_that_merges_is_safe_to_paste(tmp_path):
    journal = Journal(tmp_path / "with space.jsonl", "postgresql://me@host/it's")
    assert journal.merging.startswith(f"joulec db merge '{tmp_path}/with space.jsonl' --costs ")
