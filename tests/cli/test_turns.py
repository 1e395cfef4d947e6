"""Two commands that share a database do not time at once."""

from __future__ import annotations

import time

from cli_support import FEW

from joulec.costdb.open import open_store
from joulec.profiler.device import local_cpu
from joulec.profiler.sharing import machine, turn


def test_compile_waits_for_its_turn_to_time_what_it_made(compiled):
    """All candidates are known: nothing is left to time but the result."""
    device = local_cpu().fingerprint
    waiting = f"next on {device.partition('|')[0]} of {machine()}"
    with open_store(str(compiled.joulec.costs)) as store:
        with turn(store, device, lambda: True) as ours:
            assert ours
            running = compiled.joulec.start("compile", compiled.model, "-o", "again.joulec", *FEW)
            try:
                deadline_s = time.monotonic() + 120
                while store.try_lock(waiting):
                    store.unlock(waiting)
                    assert running.poll() is None, running.communicate()
                    assert time.monotonic() < deadline_s
                    time.sleep(0.05)
                time.sleep(0.5)
                assert running.poll() is None
            except BaseException:
                running.kill()
                raise
        _, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
