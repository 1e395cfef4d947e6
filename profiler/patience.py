"""Waiting for a sensor, but not for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from joulec.profiler.meter import MeterError

LIMIT_S = 15.0
"""A call of a sensor takes milliseconds, opening a GPU that nobody uses some seconds."""

_Result = TypeVar("_Result")


def answered(ask: Callable[[], _Result], name: str, limit_s: float | None = None) -> _Result:
    """What ``ask`` returns or raises, called on another thread, so that one that never returns is noticed.

    Args:
        ask: asks the sensor.
        name: the meter, for the message.
        limit_s: how long to wait; `LIMIT_S` when omitted.

    Raises:
        MeterError: there was no answer.
    """
    limit_s = LIMIT_S if limit_s is None else limit_s
    results: list[_Result] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(ask())
        except BaseException as error:  # noqa: BLE001 - raised again where the answer is waited for
            errors.append(error)

    thread = threading.Thread(target=call, name="joulec-sensor", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise MeterError(
            f"the meter {name} has not answered for {limit_s:g} s: its driver hangs. Check it with its vendor's "
            "tool (`nvidia-smi`), restart the driver or the machine, or use --meter estimate"
        )
    return results[0]
