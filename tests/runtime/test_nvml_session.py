"""A session beneath a cap on a scripted GPU, in virtual time: NVML through the unmodified pynvml closes the loop."""

from __future__ import annotations

from concurrent.futures import wait

import numpy as np
import pytest

from joulec.profiler.meters.nvml import NvmlMeter
from joulec.runtime import Session

WATTS = {1: 90, 2: 110, 4: 150, 8: 210, 16: 290}
IDLE_W = 60
CAPS_W = ((0.0, 230.0), (60.0, 115.0), (120.0, 230.0))


class Card:
    """An executor whose batches load the scripted GPU, no two quite alike."""

    def __init__(self, gpu) -> None:
        self.gpu = gpu
        self.count = 0

    def __call__(self, x):
        self.count += 1
        self.gpu.add(f"load {WATTS[len(x)] + 0.1 * (self.count % 7)}")
        self.gpu.time.advance(0.04 + 0.01 * len(x))
        return x


@pytest.mark.parametrize("policy", ["paper", "windowed"])
def test_a_cap_that_halves_and_returns(gpu, policy):
    gpu.script(f"load {IDLE_W}", "power_noise 0.5")
    start_s = gpu.time.now_s

    def cap_w() -> float:
        return [watts for t_s, watts in CAPS_W if gpu.time.now_s - start_s >= t_s][-1]

    options = {"clock": gpu.time.clock, "sleep": gpu.time.sleep, "max_wait_s": 0.0, "batch_sizes": list(WATTS)}
    meter = NvmlMeter(0, gpu.time.clock)
    with Session(Card(gpu), power_cap_w=cap_w, meter=meter, policy=policy, **options) as session:
        while gpu.time.now_s - start_s < 180.0:
            futures = [session.submit(np.ones((16, 1))) for _ in range(8)]
            assert not wait(futures, timeout=60).not_done
        timeline, totals = session.timeline, session.totals
        assert session.notices == []
    meter.close()
    for begin_s, end_s, best in ((30, 60, 8), (90, 120, 2), (150, 180, 8)):
        late = [one for one in timeline if begin_s <= one.t_s < end_s and one.t_s + one.seconds < end_s]
        assert {one.batch for one in late} == {best}
        for one in late:
            assert one.power_source == "nvml"
            assert one.power_w == pytest.approx(WATTS[best], rel=0.15)
    assert totals.above_cap_s < 20.0
