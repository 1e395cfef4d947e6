"""Sessions: requests keep their rows, fail alone, and the batch size follows power and cap."""

from __future__ import annotations

import math
import threading
from concurrent.futures import CancelledError, wait
from dataclasses import replace

import numpy as np
import pytest
from runtime_support import manifest

from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import MeterError, Reading
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter, estimate_energy_j
from joulec.runtime import CapError, InputError, Model, ScriptedMeter, Session, SessionClosed
from joulec.runtime.queue import QueueClosed

WATTS = {1: 40.0, 2: 50.0, 4: 65.0, 8: 95.0, 16: 140.0}
SIZES = sorted(WATTS)


class Device:
    """An executor on a fake clock: a batch takes a fixed time and as much again per row."""

    def __init__(self, clock, seconds: float = 1e-3) -> None:
        self.clock = clock
        self.seconds = seconds
        self.sizes: list[int] = []

    def __call__(self, x):
        self.sizes.append(len(x))
        self.clock.sleep(self.seconds * (1 + 0.1 * len(x)))
        return 2 * x


def fake_session(clock, device=None, **options) -> Session:
    options.setdefault("meter", ScriptedMeter(WATTS, idle_w=10.0, clock=clock))
    options.setdefault("batch_sizes", SIZES)
    return Session(device or Device(clock), clock=clock, sleep=clock.sleep, max_wait_s=0.0, **options)


def feed(session: Session, batches: int, rows: int = 16) -> None:
    """Enough rows for a number of batches of the largest size, computed."""
    futures = [session.submit(np.ones((rows, 2))) for _ in range(batches)]
    assert not wait(futures, timeout=30).not_done


# --- requests ---------------------------------------------------------------------------------------------------------


def test_rows_come_back_in_their_places():
    rng = np.random.default_rng(0)
    with Session(lambda x, y: (x + y, x - y), batch_sizes=[1, 2, 4, 8]) as session:
        sent = [(rng.standard_normal((rows, 3)), rng.standard_normal((rows, 3))) for rows in rng.integers(1, 21, 60)]
        futures = [session.submit(x, y) for x, y in sent]
        for (x, y), future in zip(sent, futures, strict=True):
            total, difference = future.result(timeout=30)
            np.testing.assert_array_equal(total, x + y)
            np.testing.assert_array_equal(difference, x - y)


def test_only_the_batch_sizes_are_run_and_full_ones_where_possible(clock):
    device = Device(clock)
    gate = threading.Event()

    def gated(x):
        gate.wait(30)
        return device(x)

    with fake_session(clock, gated, meter=None, batch_sizes=[2, 4, 8]) as session:
        futures = [session.submit(np.full((rows, 1), rows)) for rows in (1, 8, 8, 5, 3, 1)]
        gate.set()
        for future, rows in zip(futures, (1, 8, 8, 5, 3, 1), strict=True):
            np.testing.assert_array_equal(future.result(timeout=30), np.full((rows, 1), 2 * rows))
    assert set(device.sizes) <= {2, 4, 8}
    assert device.sizes.count(8) >= 2


def test_a_request_that_fails_fails_alone():
    def picky(x):
        if (x < 0).any():
            raise ArithmeticError("negative")
        return x + 1

    gate = threading.Event()

    def gated(x):
        gate.wait(30)
        return picky(x)

    with Session(gated, batch_sizes=[8]) as session:
        futures = [session.submit(np.full((3, 1), value)) for value in (1, 2, -1, 4, 5, -2, 7)]
        gate.set()
        for value, future in zip((1, 2, -1, 4, 5, -2, 7), futures, strict=True):
            if value < 0:
                with pytest.raises(ArithmeticError, match="negative"):
                    future.result(timeout=30)
            else:
                np.testing.assert_array_equal(future.result(timeout=30), np.full((3, 1), value + 1))


def test_a_request_of_many_batches_fails_once_and_the_next_goes_on():
    def fails_once(x, state=[]):  # noqa: B006 - the list is the state
        state.append(1)
        if len(state) == 2:
            raise OSError("gone")
        return x

    with Session(fails_once, batch_sizes=[2]) as session:
        first, second = session.submit(np.ones((9, 1))), session.submit(np.ones((2, 1)))
        with pytest.raises(OSError, match="gone"):
            first.result(timeout=30)
        assert second.result(timeout=30).shape == (2, 1)
        assert session.queued_rows == 0


def test_requests_of_other_shapes_do_not_share_a_batch():
    seen = []

    def noting(x):
        seen.append((x.shape, x.dtype))
        return x

    with Session(noting, batch_sizes=[4]) as session:
        arrays = [np.ones((2, 3)), np.ones((2, 5)), np.ones((2, 5), "float32"), np.ones((1, 5), "float32")]
        for array, future in [(a, session.submit(a)) for a in arrays]:
            got = future.result(timeout=30)
            assert (got.shape, got.dtype) == (array.shape, array.dtype)
    assert {shape[1] for shape, _ in seen} == {3, 5}


@pytest.mark.parametrize("bad", [np.ones((0, 3)), np.float32(1.0), "text", [1.0]])
def test_wrong_inputs_of_a_callable_fail_in_the_future(bad):
    with Session(lambda x: x) as session:
        with pytest.raises(InputError):
            session.submit(bad).result(timeout=30)
        with pytest.raises(InputError, match="by position"):
            session.submit(x=np.ones((1, 1))).result(timeout=30)


def test_an_executor_that_returns_the_wrong_number_of_rows():
    with Session(lambda x: x[:1], batch_sizes=[4]) as session, pytest.raises(ValueError, match="for a batch of 4"):
        session.submit(np.ones((3, 2))).result(timeout=30)


def test_closing_drains_or_aborts():
    gate, begun = threading.Event(), threading.Event()

    def slow(x):
        begun.set()
        gate.wait(30)
        return x

    session = Session(slow, batch_sizes=[1])
    first, second = session.submit(np.ones((1, 1))), session.submit(np.ones((1, 1)))
    begun.wait(30)
    closer = threading.Thread(target=session.close, kwargs={"drain": False})
    closer.start()
    with pytest.raises(SessionClosed):
        second.result(timeout=30)
    gate.set()
    closer.join(30)
    assert first.result(timeout=30).shape == (1, 1)
    with pytest.raises(QueueClosed):
        session.submit(np.ones((1, 1)))
    session.close()
    with Session(lambda x: x, batch_sizes=[1]) as drained:
        futures = [drained.submit(np.ones((1, 1))) for _ in range(50)]
    assert all(future.done() and not future.exception() for future in futures)


def test_a_cancelled_request_is_not_run():
    gate, ran = threading.Event(), []

    def slow(x):
        gate.wait(30)
        ran.extend(x[:, 0])
        return x

    with Session(slow, batch_sizes=[1]) as session:
        futures = [session.submit(np.full((1, 1), i)) for i in range(4)]
        assert futures[2].cancel()
        gate.set()
        with pytest.raises(CancelledError):
            futures[2].result()
        assert futures[3].result(timeout=30) == 3
    assert 2 not in ran


def test_a_model_in_a_session(plain):
    with Model(*plain.parts) as model, model.session() as session:
        xs = [np.random.default_rng(i).standard_normal((1 + i % 5, 8)).astype("float32") for i in range(30)]
        futures = [session.submit(x) for x in xs]
        for x, future in zip(xs, futures, strict=True):
            np.testing.assert_allclose(future.result(timeout=30), model(x), rtol=1e-5, atol=1e-6)
        with pytest.raises(InputError, match="input 'x'"):
            session.submit(np.ones((1, 7), "float32")).result(timeout=30)
        assert session.submit(x=xs[0]).result(timeout=30).shape == (1, 16)


@pytest.mark.parametrize("sizes", [[3], [1, 12], [2, 5, 16]])
def test_sizes_that_were_not_compiled_are_split_and_padded(plain, sizes):
    rng = np.random.default_rng(0)
    with Model(*plain.parts) as model, model.session(batch_sizes=sizes) as session:
        assert session.batch_sizes == tuple(sizes)
        xs = [rng.standard_normal((rows, 8)).astype("float32") for rows in (1, 7, 2, 12, 30, 5, 1, 16)]
        for x, future in [(x, session.submit(x)) for x in xs]:
            np.testing.assert_allclose(future.result(timeout=30), model(x), rtol=1e-5, atol=1e-6)


def test_a_model_that_is_not_batched_in_a_session(two_outputs):
    described = replace(two_outputs.manifest, entries=two_outputs.manifest.entries[1:], batched=False)
    with Model(*replace(two_outputs, manifest=described).parts) as model, model.session() as session:
        x = np.ones((4, 8), "float32")
        y, z = session.submit(x).result(timeout=30)
        np.testing.assert_allclose(z, y + 1)
        with pytest.raises(InputError):
            session.submit(x[:2]).result(timeout=30)
        with pytest.raises(ValueError, match="not independent"):
            model.session(batch_sizes=[1, 4])


# --- power ------------------------------------------------------------------------------------------------------------


def test_settles_where_one_size_fits_and_follows_a_cap_that_halves_and_returns(clock):
    with fake_session(clock, power_cap_w=100.0) as session:
        assert session.policy == "windowed"  # the default, as nothing is predicted
        assert session.batch_size == 1
        feed(session, 60)
        assert (session.batch_size, session.decision.state) == (8, "settled")
        session.power_cap_w = 50.0
        feed(session, 60)
        assert session.batch_size in (1, 2)
        assert WATTS[session.batch_size] <= 50.0
        session.power_cap_w = 100.0
        feed(session, 60)
        assert session.batch_size == 8
        assert session.power_cap_w == 100.0
        caps = [sample.cap_w for sample in session.timeline]
        assert caps[0] == caps[-1] == 100.0
        assert 50.0 in caps
        assert [c.after for c in session.batch_changes][-1] == 8
        assert session.totals.batch_changes == len(session.batch_changes)
    for sample in session.timeline:
        assert sample.power_w == pytest.approx(WATTS[sample.batch])
        assert sample.power_source == "simulated"
    assert session.notices == []


def test_without_a_cap_the_largest_size_runs(clock):
    device = Device(clock)
    with fake_session(clock, device, meter=None) as session:
        feed(session, 10)
        assert session.decision.state == "held"
        assert session.power_cap_w is None
    assert set(device.sizes) == {16}
    assert {sample.power_w for sample in session.timeline} == {None}


def test_a_cap_may_come_later(clock):
    with fake_session(clock) as session:
        feed(session, 5)
        assert session.batch_size == 16
        session.power_cap_w = 100.0
        feed(session, 80)
        assert session.batch_size == 8
        session.power_cap_w = None
        feed(session, 5)
        assert session.batch_size == 16


@pytest.mark.parametrize("window_s", [0.0, 0.05])
def test_pauses_keep_the_mean_to_a_cap_below_the_smallest_batch(clock, window_s):
    meter = ScriptedMeter(WATTS, idle_w=10.0, window_s=window_s, clock=clock)
    with fake_session(clock, meter=meter, power_cap_w=30.0) as session:
        feed(session, 200)
        assert session.decision.state == "smallest"
        assert session.batch_size == 1
        (notice,) = session.notices
        assert "even the smallest batch size, 1, draws 40 W, more than the cap of 30 W" in notice
        timeline = session.timeline
    throttled = [sample for sample in timeline if sample.t_s > 0.6]
    assert len(throttled) > 10
    assert max(sample.power_w for sample in throttled) <= 30.0 * (1 + 1e-6)
    mean_w = sum(s.power_w * s.seconds for s in throttled) / sum(s.seconds for s in throttled)
    assert mean_w == pytest.approx(30.0, rel=0.02)  # no longer than it must


@pytest.mark.parametrize("window_s", [0.0, 0.05])
def test_answers_do_not_wait_for_the_pause(clock, window_s):
    device, answered = Device(clock), []
    meter = ScriptedMeter(WATTS, idle_w=10.0, window_s=window_s, clock=clock)
    ended, ready = [], threading.Event()
    ready.set()

    def noting(x):
        ready.wait(30)
        y = device(x)
        ended.append(clock.now)
        return y

    with fake_session(clock, noting, meter=meter, power_cap_w=30.0) as session:
        feed(session, 100)
        ended.clear()
        ready.clear()
        futures = [session.submit(np.ones((1, 2))) for _ in range(20)]
        for future in futures:
            future.add_done_callback(lambda done: answered.append(clock.now))
        ready.set()
        wait(futures, timeout=30)
    late = [after - before for before, after in zip(ended, answered, strict=True)]
    assert late[5:] == [0.0] * 15


def test_pauses_end_when_the_cap_rises(clock):
    device = Device(clock)
    with fake_session(clock, device, power_cap_w=30.0) as session:
        feed(session, 20)
        session.power_cap_w = 50.0
        feed(session, 60)
        assert session.decision.state == "settled"
        start_s, ran = clock.now, len(device.sizes)
        feed(session, 20)
        assert clock.now - start_s == pytest.approx(sum(1e-3 * (1 + 0.1 * n) for n in device.sizes[ran:]))


def test_idle_power_above_the_cap_is_said(clock):
    meter = ScriptedMeter(WATTS, idle_w=35.0, clock=clock)
    with fake_session(clock, meter=meter, power_cap_w=30.0) as session:
        feed(session, 1, rows=30)
    assert any("idle power, 35 W, already exceeds the cap" in notice for notice in session.notices)


class Failing(ScriptedMeter):
    """A sensor that goes away after some readings."""

    def __init__(self, good: int, clock) -> None:
        super().__init__(WATTS, clock=clock)
        self.good = good

    def end(self, work: Work = NO_WORK) -> Reading:
        self.good -= 1
        if self.good < 0:
            raise MeterError("the sensor is gone")
        return super().end(work)


@pytest.mark.parametrize("good", [0, 35])
def test_a_meter_that_fails_leaves_the_smallest_batch_and_one_warning(clock, good, caplog):
    device = Device(clock)
    with fake_session(clock, device, meter=Failing(good, clock), power_cap_w=100.0) as session:
        feed(session, 40)
        assert session.batch_size == 1
    assert set(device.sizes[-50:]) == {1}
    assert [r.message for r in caplog.records if "the sensor is gone" in r.message] == session.notices
    assert len(session.notices) == 1


def test_a_meter_that_fails_without_a_cap_changes_nothing(clock):
    with fake_session(clock, meter=Failing(3, clock)) as session:
        feed(session, 10)
        assert session.batch_size == 16
    assert len(session.notices) == 1


class Telling(ScriptedMeter):
    """A meter that estimates: without work it cannot tell."""

    source = "estimated"

    def end(self, work: Work = NO_WORK) -> Reading:
        reading = super().end()
        return replace(reading, joules=None) if work == NO_WORK else reading


def test_an_estimate_needs_the_work(clock):
    with fake_session(clock, meter=Telling(WATTS, clock=clock), power_cap_w=100.0) as session:
        feed(session, 40)
        assert session.batch_size == 1
    assert len(session.notices) == 1
    assert "without knowing the work" in session.notices[0]
    meter = Telling(WATTS, clock=clock)
    with fake_session(clock, meter=meter, power_cap_w=100.0, work=lambda n: Work(1e9 * n, 0.0)) as session:
        feed(session, 40)
        assert session.batch_size == 8
    assert session.timeline[-1].power_source == "estimated"


def test_estimated_joules_are_the_sum_over_the_batches(clock):
    """Every kind of byte counts, as it does when the operators are priced one by one."""
    constants = EnergyConstants("test", 10.0, 1e-9, 2e-9, 3e-9, 4e-9)
    one = Work(1e6, 2e6, 3e6, 4e6)
    meter = EstimateMeter(constants, clock)
    with fake_session(clock, meter=meter, work=one.scaled) as session:
        feed(session, 10)
    totals = session.totals
    assert totals.energy_j == pytest.approx(
        estimate_energy_j(one.scaled(16 * totals.batches), totals.seconds, constants)
    )


def test_short_batches_are_read_together(clock):
    meter = ScriptedMeter(WATTS, window_s=0.05, clock=clock)
    with fake_session(clock, meter=meter, power_cap_w=100.0) as session:
        feed(session, 600)
        assert session.batch_size == 8
        samples = session.timeline
    assert all(sample.seconds >= 0.05 * 0.99 for sample in samples)
    assert max(sample.batches for sample in samples) > 10


def test_a_long_wait_for_requests_is_not_read_as_load(clock):
    meter = ScriptedMeter(WATTS, window_s=0.05, clock=clock)
    with fake_session(clock, meter=meter, power_cap_w=100.0) as session:
        feed(session, 600)
        for _ in range(100):
            clock.sleep(0.02)
            feed(session, 1, rows=1)
        assert session.batch_size == 8


def test_latency_objective_limits_the_size(clock):
    device = Device(clock)  # a batch of n takes 1 + n/10 ms
    with fake_session(clock, device, meter=None, latency_slo_s=1.5e-3) as session:
        feed(session, 60)
        assert session.batch_size == 4
    with fake_session(clock, device, power_cap_w=1000.0, latency_slo_s=1.5e-3) as session:
        feed(session, 60)
        assert session.batch_size == 4
    with fake_session(clock, device, meter=None, latency_slo_s=1e-6) as session:
        feed(session, 30)
        assert session.batch_size == 1
    assert "longer than the latency objective" in session.notices[0]


def test_the_cap_may_be_a_file(clock, tmp_path):
    file = tmp_path / "cap"
    file.write_text("100W\n")
    with fake_session(clock, power_cap_w=file) as session:
        feed(session, 60)
        assert session.batch_size == 8
        file.write_text("0.05 kW")
        feed(session, 80)
        assert session.batch_size in (1, 2)
        file.write_text("nonsense")
        feed(session, 60)
        file.unlink()
        feed(session, 60)
        assert session.power_cap_w == 50.0
        assert session.batch_size in (1, 2)
        assert len(session.notices) == 1
        assert "50 W stays in force" in session.notices[0]
        file.write_text("100")
        feed(session, 80)
        assert session.batch_size == 8


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -5.0, None, True, "100"])
def test_an_absurd_cap_leaves_the_last_safe_one(clock, absurd):
    caps = [100.0]
    with fake_session(clock, power_cap_w=lambda: caps[0]) as session:
        feed(session, 40)
        caps[0] = absurd
        feed(session, 40)
        assert (session.power_cap_w, session.batch_size) == (100.0, 8)
        assert len(session.notices) == 1


def test_bad_options(clock, tmp_path):
    for cap in (math.nan, 0.0, -1.0, tmp_path / "none", lambda: math.nan):
        with pytest.raises(CapError, match="power cap"):
            Session(lambda x: x, power_cap_w=cap, meter=ScriptedMeter(WATTS))
    for options in ({"batch_sizes": []}, {"batch_sizes": [0]}, {"policy": "no"}, {"max_wait_s": -1.0}):
        with pytest.raises(ValueError, match=r".+"):
            Session(lambda x: x, **options)
    for options in ({"cap_margin": 0.0}, {"latency_slo_s": 0.0}):
        with pytest.raises(ValueError, match=r".+"):
            Session(lambda x: x, **options)
    with pytest.raises(TypeError, match="callable"):
        Session(3)
    with fake_session(clock, power_cap_w=100.0) as session:
        with pytest.raises(CapError):
            session.power_cap_w = math.nan
        assert session.power_cap_w == 100.0


def test_manifest_times_end_the_useful_sizes(plain):
    from joulec.runtime import Budget

    seconds = {1: 1.0, 2: 1.5, 4: 2.5, 8: 5.5}
    entries = tuple(replace(e, measured=Budget(seconds[e.batch], "measured")) for e in plain.manifest.entries)
    with Model(*replace(plain, manifest=manifest(*entries)).parts) as model:
        assert model.useful_batch_sizes == (1, 2, 4)
        with model.session() as session:
            assert session.batch_size == 4


def test_estimated_times_do_not_end_them(plain):
    with Model(*plain.parts) as model:
        assert model.useful_batch_sizes == (1, 2, 4, 8)
