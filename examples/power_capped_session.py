"""A session that keeps to a power cap which falls while requests come in.

The watts come from a script, because most machines that try this have no sensor; every reading is marked ``simulated``.
Leave ``meter`` out to use your machine's sensor.

    python examples/power_capped_session.py
"""

from __future__ import annotations

import time

import numpy as np
from small_model import small_model

import joulec
from joulec.runtime import ScriptedMeter

WATTS = {1: 40.0, 2: 60.0, 4: 90.0, 8: 150.0}


def busy(session: joulec.Session, rows: np.ndarray, seconds: float) -> int:
    """Keep the session's queue full for a while; the number of rows computed."""
    end_s = time.monotonic() + seconds
    computed = 0
    while time.monotonic() < end_s:
        futures = [session.submit(rows[index : index + 1]) for index in range(len(rows))]
        computed += sum(len(future.result()) for future in futures)
    return computed


def main() -> None:
    """Compile a small model for four batch sizes and lower the cap under load."""
    rows = np.random.default_rng(1).standard_normal((64, 3, 16, 16)).astype("float32")
    with joulec.compile(small_model(), batch_sizes=list(WATTS), costs="model", measure=False) as model:
        meter = ScriptedMeter(WATTS, idle_w=20.0)
        with model.session(power_cap_w=160, policy="paper", meter=meter, latency_slo_s=0.5) as session:
            for cap_w in (160, 100):
                session.power_cap_w = cap_w
                computed = busy(session, rows, 1.0)
                latest = session.latest
                print(
                    f"cap {cap_w} W: batch size {session.batch_size}, {latest.power_w:.0f} W "
                    f"({latest.power_source}), {computed} rows in a second; {session.decision.reason}"
                )


if __name__ == "__main__":
    main()
