"""Protocols on workloads in this process."""

from __future__ import annotations

import time

from joulec.profiler.contention import Contention, own_contention
from joulec.profiler.entrant import Floor
from joulec.profiler.protocol import Adaptive
from joulec.profiler.race import Race
from joulec.profiler.stand import Gauge, LocalStand


def quiet():
    """The kernel's account: nobody else wanted a processor."""
    return Contention(0, 0.0)


def by_time(rival, candidate):
    """The judge of the objective time."""
    return candidate.time_s > rival.time_s


def by_both(rival, candidate):
    """The judge of any objective that grows with time and energy."""
    return candidate.time_s > rival.time_s and candidate.energy_j > rival.energy_j


def race(
    protocol, workloads, meter, work, clock, *, contention=None, sleep=time.sleep, judge=None, known=(), idle_w=None
):
    """The entrants of a race of workloads that share a meter, after it."""
    gauge = Gauge.of(meter, idle_w)
    floor = Floor(idle_w)
    stands = [
        LocalStand(one, meter, work, clock, contention or getattr(one, "contention", own_contention), sleep)
        for one in workloads
    ]
    entrants = [protocol.entrant(stand, gauge, floor, known) for stand in stands]
    Race(entrants, protocol, judge).run()
    return entrants


def measure(protocol, workload, meter, work, clock, **options):
    """The cost of one workload by a protocol."""
    if not isinstance(protocol, Adaptive):
        return protocol.measure(workload, meter, work, clock)
    (entrant,) = race(protocol, [workload], meter, work, clock, **options)
    return entrant.cost()
