"""A session's telemetry as Prometheus metrics. It is read when Prometheus asks: a batch pays nothing for it."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from joulec.runtime.session import Session

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class MetricsError(RuntimeError):
    """The metrics cannot be offered. The message says what to do."""


class LatencyHistogram:
    """Counts of requests by seconds from arrival to answer. Any thread may add and read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """One request was answered."""
        index = bisect.bisect_left(_BOUNDS_S, seconds)
        with self._lock:
            self._counts[index] += 1
            self._sum_s += seconds

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound as Prometheus writes them, and the sum of all seconds."""
        with self._lock:
            counts, sum_s = list(self._counts), self._sum_s
        total, buckets = 0, []
        for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, sum_s


class SessionCollector(Collector):
    """What Prometheus is told of a session, in base units, each name with the prefix ``joulec_``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        session = self._session
        totals, last = session.totals, session.latest
        yield _counter("items", "Rows computed, padding not counted", totals.items)
        yield _counter("batches", "Batches run", totals.batches)
        yield _counter("batch_changes", "Changes of batch size", totals.batch_changes)
        yield _counter("seconds_above_cap", "Seconds in which mean power exceeded the cap", totals.above_cap_s)
        yield _counter("cap_violations", "Unbroken stretches above the cap", totals.violations)
        yield _counter("warnings", "Faults that the session warned of", len(session.notices))
        requests = CounterMetricFamily("joulec_requests", "Requests by how they ended", labels=["outcome"])
        for outcome, count in session.outcomes.__dict__.items():
            requests.add_metric([outcome], count)
        yield requests
        energy = CounterMetricFamily("joulec_energy_joules", "Energy where it was known", labels=["source"])
        power = GaugeMetricFamily("joulec_power_watts", "Mean power of the last window", labels=["source"])
        if last is not None and last.power_w is not None and last.power_source is not None:
            energy.add_metric([last.power_source], totals.energy_j)
            power.add_metric([last.power_source], last.power_w)
        yield energy
        yield power
        if session.power_cap_w is not None:
            yield _gauge("power_cap_watts", "Power cap in force", session.power_cap_w)
        if session.variant is not None:
            chosen = GaugeMetricFamily("joulec_variant", "The variant of the graph in force", labels=["variant"])
            for name in session.variants:
                chosen.add_metric([name], float(name == session.variant))
            yield chosen
        yield _gauge("batch_size", "Batch size in force", session.batch_size)
        yield _gauge("queue_rows", "Rows that wait", session.queued_rows)
        buckets, sum_s = session.latencies.read()
        yield HistogramMetricFamily(
            "joulec_request_latency_seconds", "From a request's arrival to its answer", buckets=buckets, sum_value=sum_s
        )


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"joulec_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"joulec_{name}", text, value=value)


@contextmanager
def serve_metrics(session: Session, port: int) -> Iterator[int]:
    """Offer a session's metrics on all of this machine's addresses at ``/metrics`` while the block runs.

    Args:
        session: whose.
        port: TCP port; 0 for any free one.

    Yields:
        The port.

    Raises:
        MetricsError: the port is taken or not allowed.
    """
    registry = CollectorRegistry()
    registry.register(SessionCollector(session))
    try:
        server, thread = start_http_server(port, registry=registry)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise MetricsError(f"cannot offer metrics on port {port}: {reason}; name another port") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
