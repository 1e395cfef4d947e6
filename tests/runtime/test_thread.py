"""Where calls are made, and what happens to those that are given up waiting for."""

import threading

import pytest

from joulec.runtime.thread import CallHangs, CallHere, CallThread


def test_calls_are_made_on_a_thread_of_its_own_or_on_the_callers():
    own, here = CallThread("calls"), CallHere()
    assert own.call(threading.get_ident) != threading.get_ident()
    assert here.call(threading.get_ident) == threading.get_ident()
    assert own.stop()
    assert here.stop()


@pytest.mark.parametrize("make", [lambda: CallThread("calls"), CallHere])
def test_errors_belong_to_the_caller_and_the_next_call_is_made(make):
    calls = make()
    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 / 0)
    assert calls.call(lambda: 7) == 7
    calls.stop()
    with pytest.raises(RuntimeError):
        calls.call(lambda: 7)


@pytest.mark.parametrize("make", [lambda: CallThread("calls"), CallHere])
def test_calls_of_several_threads_do_not_overlap(make):
    calls, under_way, seen = make(), [], []

    def work():
        under_way.append(1)
        seen.append(len(under_way))
        under_way.pop()

    threads = [threading.Thread(target=lambda: [calls.call(work) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 200


@pytest.mark.parametrize("make", [lambda: CallThread("calls"), CallHere])
def test_a_call_that_was_given_up_is_made_once_the_other_comes_back(make):
    calls, begun, end, made = make(), threading.Event(), threading.Event(), threading.Event()

    def work():
        begun.set()
        end.wait(30)

    other = threading.Thread(target=lambda: calls.call(work))
    other.start()
    begun.wait(30)
    with pytest.raises(CallHangs):
        calls.call(made.set, 0.01)
    assert not calls.stop(0.0)
    assert not made.is_set()
    end.set()
    assert made.wait(30)
    other.join()
