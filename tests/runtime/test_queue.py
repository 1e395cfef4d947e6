"""The queue and the packing: order, bounds, deadlines, cancellation, closing, and how often a row is copied."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from joulec.runtime import DeadlineExceeded, Model, QueueClosed, QueueFull, Session
from joulec.runtime.packing import ALIGNMENT, Packer, aligned_empty
from joulec.runtime.queue import RequestQueue
from joulec.runtime.request import Part, Request, divide, signature_of


def request(rows: int, value: float = 0.0, width: int = 2, **fields: object) -> Request:
    arrays = [np.full((rows, width), value)]
    return Request(arrays, rows, lambda outputs: outputs[0], signature=signature_of(arrays), **fields)


def rows_of(parts: list[Part]) -> list[tuple[float, int, int]]:
    return [(float(part.arrays[0][0, 0]), part.start, part.count) for part in parts]


class Gate:
    """An executor that stands until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.ran: list[float] = []

    def __call__(self, x):
        self.begun.set()
        assert self.go.wait(30)
        self.ran.extend(x[:, 0])
        return x


# --- forming batches --------------------------------------------------------------------------------------------------


def test_rows_are_taken_in_order_and_requests_cut_where_batches_end(clock):
    queue = RequestQueue(clock=clock)
    for value, rows in enumerate((3, 4, 6)):
        queue.put(request(rows, value))
    assert rows_of(queue.take(8, [1, 8], 0.0)) == [(0.0, 0, 3), (1.0, 0, 4), (2.0, 0, 1)]
    assert queue.rows == 5
    assert rows_of(queue.take(2, [1, 2, 4], 0.0)) == [(2.0, 1, 2)]
    assert rows_of(queue.take(4, [1, 2, 4], 0.0)) == [(2.0, 3, 2)]  # of three rows at hand two fill a size
    assert rows_of(queue.take(4, [1, 2, 4], 0.0)) == [(2.0, 5, 1)]
    assert queue.rows == 0


def test_the_oldest_waits_for_others_no_longer_than_it_may():
    queue = RequestQueue()
    queue.put(request(1, 1.0))
    start_s = time.monotonic()
    assert rows_of(queue.take(8, [1, 8], 0.05)) == [(1.0, 0, 1)]
    assert time.monotonic() - start_s >= 0.05
    queue.put(request(1, 1.0))
    threading.Timer(0.02, lambda: queue.put(request(7, 2.0))).start()
    assert rows_of(queue.take(8, [1, 8], 30.0)) == [(1.0, 0, 1), (2.0, 0, 7)]


def test_a_batch_does_not_wait_for_what_cannot_join_it():
    queue = RequestQueue()
    queue.put(request(1, 1.0))
    queue.put(request(1, 2.0, width=3))
    assert rows_of(queue.take(8, [1, 8], 30.0)) == [(1.0, 0, 1)]


def test_parts_are_divided_without_losing_a_row():
    first, second = request(3), request(9)
    groups = divide([Part(first, 0, 3), Part(second, 2, 7)], [2, 4, 4])
    shown = [[(part.request is second, part.start, part.count) for part in group] for group in groups]
    assert shown == [[(False, 0, 2)], [(False, 2, 1), (True, 2, 3)], [(True, 5, 4)]]


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_full_queue_rejects():
    gate = Gate()
    with Session(gate, batch_sizes=[1], queue_limit_rows=3, when_full="reject") as session:
        futures = [session.submit(np.ones((1, 1)))]
        assert gate.begun.wait(30)
        futures.append(session.submit(np.ones((3, 1))))
        with pytest.raises(QueueFull, match="3 rows wait and 3 may"):
            session.submit(np.ones((1, 1)))
        gate.go.set()
        for future in futures:
            future.result(timeout=30)
        assert session.submit(np.ones((9, 1))).result(timeout=30).shape == (9, 1)  # larger than the bound, but alone
        assert (session.outcomes.answered, session.outcomes.rejected) == (3, 1)


def test_a_full_queue_waits_and_nobody_overtakes():
    gate, order = Gate(), []
    with Session(gate, batch_sizes=[1], queue_limit_rows=2) as session:
        session.submit(np.zeros((1, 1)))
        assert gate.begun.wait(30)
        session.submit(np.zeros((1, 1)))  # one more row may wait

        def submit(rows: int) -> None:
            future = session.submit(np.full((rows, 1), rows))
            order.append(rows)
            future.result(timeout=30)

        large = threading.Thread(target=submit, args=(2,))
        large.start()
        _until(lambda: len(session._queue._waiting) == 1)
        small = threading.Thread(target=submit, args=(1,))
        small.start()
        _until(lambda: len(session._queue._waiting) == 2)
        assert order == []  # the small one would fit, but the large one came first
        gate.go.set()
        large.join(30)
        small.join(30)
    assert gate.ran == [0, 0, 2, 2, 1]


def test_waiting_for_room_ends_when_the_session_closes_or_the_deadline_comes():
    gate = Gate()
    session = Session(gate, batch_sizes=[1], queue_limit_rows=1)
    session.submit(np.ones((1, 1)))
    assert gate.begun.wait(30)
    session.submit(np.ones((1, 1)))
    with pytest.raises(DeadlineExceeded, match=r"deadline of 0\.02 s"):
        session.submit(np.ones((1, 1)), deadline_s=0.02).result(timeout=30)
    raised = []

    def submit() -> None:
        with pytest.raises(QueueClosed) as caught:
            session.submit(np.ones((1, 1)))
        raised.append(caught.value)

    waiting = threading.Thread(target=submit)
    waiting.start()
    _until(lambda: len(session._queue._waiting) == 1)
    closer = threading.Thread(target=session.close)
    closer.start()
    waiting.join(30)
    gate.go.set()
    closer.join(30)
    assert len(raised) == 1
    assert gate.ran == [1, 1]


def _until(holds) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.001)


# --- deadlines and cancellation ---------------------------------------------------------------------------------------


def test_a_request_that_did_not_begin_in_time_fails_alone():
    gate = Gate()
    with Session(gate, batch_sizes=[1]) as session:
        first = session.submit(np.full((1, 1), 1.0))
        assert gate.begun.wait(30)
        late = session.submit(np.full((2, 1), 2.0), deadline_s=0.01)
        patient = session.submit(np.full((1, 1), 3.0), deadline_s=60.0)
        time.sleep(0.02)
        gate.go.set()
        with pytest.raises(DeadlineExceeded, match="before its first row began"):
            late.result(timeout=30)
        assert patient.result(timeout=30) == 3.0
        assert first.result(timeout=30) == 1.0
        assert session.outcomes.expired == 1
    assert gate.ran == [1.0, 3.0]


def test_a_deadline_that_has_passed_already():
    with Session(lambda x: x, batch_sizes=[1]) as session:
        for deadline_s in (0.0, -1.0):
            with pytest.raises(DeadlineExceeded, match="deadline of 0 s came before its first row began"):
                session.submit(np.ones((1, 1)), deadline_s=deadline_s).result(timeout=30)
        with pytest.raises(ValueError, match="not NaN"):
            session.submit(np.ones((1, 1)), deadline_s=float("nan"))


def test_a_near_deadline_ends_the_wait_for_others():
    with Session(lambda x: x, batch_sizes=[8], max_wait_s=30.0) as session:
        start_s = time.monotonic()
        future = session.submit(np.ones((1, 1)), deadline_s=0.2)
        assert future.result(timeout=30).shape == (1, 1)
        assert time.monotonic() - start_s < 5.0


def test_a_deadline_passes_while_rows_are_computed(clock):
    queue = RequestQueue(clock=clock)
    future = queue.put(request(3, deadline_s=clock.now + 1.0))
    assert rows_of(queue.take(2, [2], 0.0)) == [(0.0, 0, 2)]
    clock.sleep(5.0)
    assert rows_of(queue.take(2, [2], 0.0)) == [(0.0, 2, 1)]  # it has begun in time, so it is finished
    assert not future.done()


def test_cancelling_frees_room_at_once():
    gate = Gate()
    with Session(gate, batch_sizes=[1], queue_limit_rows=1, when_full="reject") as session:
        running = session.submit(np.ones((1, 1)))
        assert gate.begun.wait(30)
        waiting = session.submit(np.full((1, 1), 2.0))
        assert not running.cancel()
        assert waiting.cancel()
        assert session.queued_rows == 0
        taken = session.submit(np.full((1, 1), 3.0))
        gate.go.set()
        with pytest.raises(CancelledError):
            waiting.result()
        assert taken.result(timeout=30) == 3.0
        assert session.outcomes.cancelled == 1
    assert gate.ran == [1.0, 3.0]


def test_aborting_fails_what_was_begun_and_what_waits():
    gate = Gate()
    session = Session(gate, batch_sizes=[2])
    begun = session.submit(np.ones((3, 1)))  # two rows run, one waits
    waiting = session.submit(np.ones((1, 1)))
    assert gate.begun.wait(30)
    closer = threading.Thread(target=session.close, kwargs={"drain": False})
    closer.start()
    for future in (begun, waiting):
        with pytest.raises(QueueClosed, match="before the request was computed"):
            future.result(timeout=30)
    gate.go.set()
    closer.join(30)
    assert not closer.is_alive()
    assert gate.ran == [1.0, 1.0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_executor_that_exits_leaves_nobody_waiting():
    def leaving(x):
        raise SystemExit("gone")

    session = Session(leaving, batch_sizes=[1])
    with pytest.raises(SystemExit):
        session.submit(np.ones((2, 1))).result(timeout=30)
    session.close()
    with pytest.raises(QueueClosed):
        session.submit(np.ones((1, 1)))


def test_callbacks_may_use_the_session():
    """They run outside of the queue's lock."""
    done = threading.Event()
    with Session(lambda x: x, batch_sizes=[1]) as session:

        def again(future) -> None:
            session.submit(np.ones((1, 1))).add_done_callback(lambda last: done.set())

        session.submit(np.ones((1, 1))).add_done_callback(again)
        assert done.wait(30)


# --- packing ----------------------------------------------------------------------------------------------------------


def test_memory_is_aligned():
    for shape in [(3, 5), (1,), (7, 2, 3)]:
        array = aligned_empty(shape, np.dtype("float32"))
        assert array.shape == shape
        assert array.ctypes.data % ALIGNMENT == 0


def test_rows_are_copied_into_the_same_memory_and_padding_repeats_the_last():
    requests = [request(2, 1.0), request(3, 2.0)]
    packer = Packer(requests[0].arrays, 8)
    (first,) = packer.pack([Part(requests[0], 0, 2), Part(requests[1], 1, 2)], 8)
    np.testing.assert_array_equal(first[:, 0], [1, 1, 2, 2, 2, 2, 2, 2])
    (second,) = packer.pack([Part(requests[1], 0, 1), Part(requests[0], 0, 2)], 4)
    np.testing.assert_array_equal(second[:, 0], [2, 1, 1, 1])
    assert second.ctypes.data == first.ctypes.data
    assert second.flags.c_contiguous


def test_a_batch_that_is_one_request_is_not_copied():
    whole = request(4, 1.0)
    packer = Packer(whole.arrays, 8)
    (array,) = packer.pack([Part(whole, 0, 4)], 4)
    assert array is whole.arrays[0]
    (half,) = packer.pack([Part(whole, 2, 2)], 2)
    assert np.shares_memory(half, whole.arrays[0])
    whole.arrays[0].flags.writeable = False
    (copied,) = packer.pack([Part(whole, 0, 4)], 4)
    assert not np.shares_memory(copied, whole.arrays[0])


def test_joined_batches_of_a_model_lie_in_the_same_aligned_memory(plain, monkeypatch):
    addresses, run = [], Model.run_batch

    def noting(model, batch, arrays, variant=None):
        if batch > 1:  # a batch of one is the request's own memory where that is aligned
            addresses.append(arrays[0].ctypes.data)
        return run(model, batch, arrays, variant)

    monkeypatch.setattr(Model, "run_batch", noting)
    with Model(*plain.parts) as model, model.session(max_wait_s=0.2) as session:
        for seed in range(5):
            xs = np.random.default_rng(seed).standard_normal((8, 1, 8)).astype("float32")
            for x, future in [(x, session.submit(x)) for x in xs]:
                np.testing.assert_allclose(future.result(timeout=30), model(x), rtol=1e-5, atol=1e-6)
    assert len(addresses) >= 5
    assert len(set(addresses)) == 1
    assert addresses[0] % ALIGNMENT == 0


def test_dlpack_tensors_are_requests(plain):
    class Tensor:
        """What another framework hands over: DLPack and nothing else."""

        def __init__(self, array) -> None:
            self._array = array

        def __dlpack__(self, **options):
            return self._array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self._array.__dlpack_device__()

    x = np.random.default_rng(0).standard_normal((5, 8)).astype("float32")
    with Model(*plain.parts) as model, model.session() as session:
        np.testing.assert_allclose(session.submit(Tensor(x)).result(timeout=30), model(x), rtol=1e-5, atol=1e-6)
    with Session(lambda x: x + 1, batch_sizes=[4]) as session:
        np.testing.assert_array_equal(session.submit(Tensor(x)).result(timeout=30), x + 1)


@pytest.mark.parametrize("options", [{"queue_limit_rows": 0}, {"when_full": "drop"}])
def test_bad_bounds(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Session(lambda x: x, **options)
