"""Prometheus metrics, read over HTTP as Prometheus reads them."""

from __future__ import annotations

import urllib.request
from concurrent.futures import wait

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from joulec.runtime import ScriptedMeter, Session
from joulec.runtime.metrics import LatencyHistogram, MetricsError, serve_metrics


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Values by name and label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, "".join(sample.labels.values())): sample.value for sample in samples}


def test_a_session_under_a_cap():
    options = {"power_cap_w": 100.0, "meter": ScriptedMeter({1: 40.0, 8: 150.0}), "batch_sizes": [1, 8]}
    with Session(lambda x: x, **options) as session, serve_metrics(session, 0) as port:
        before = scrape(port)
        assert before["joulec_items_total", ""] == 0
        assert ("joulec_power_watts", "simulated") not in before
        futures = [session.submit(np.ones((2, 3))) for _ in range(40)]
        assert not wait(futures, timeout=30).not_done
        futures[0].cancel()
        found = scrape(port)
        assert found["joulec_items_total", ""] == 80
        assert found["joulec_batches_total", ""] == session.totals.batches
        assert found["joulec_requests_total", "answered"] == 40
        assert found["joulec_requests_total", "failed"] == 0
        assert found["joulec_power_cap_watts", ""] == 100.0
        assert found["joulec_batch_size", ""] == session.batch_size
        assert found["joulec_queue_rows", ""] == 0
        assert found["joulec_power_watts", "simulated"] == pytest.approx(session.latest.power_w)
        assert found["joulec_energy_joules_total", "simulated"] == pytest.approx(session.totals.energy_j)
        assert found["joulec_request_latency_seconds_count", ""] == 40
        assert found["joulec_request_latency_seconds_bucket", "+Inf"] == 40
        with pytest.raises(MetricsError, match=f"port {port}"), serve_metrics(session, port):
            pass


def test_latencies_fall_into_cumulative_buckets():
    histogram = LatencyHistogram()
    for seconds in (0.0005, 0.001, 0.003, 20.0):
        histogram.add(seconds)
    buckets, sum_s = histogram.read()
    assert dict(buckets)["0.001"] == 2
    assert dict(buckets)["0.005"] == 3
    assert dict(buckets)["10.0"] == 3
    assert dict(buckets)["+Inf"] == 4
    assert sum_s == pytest.approx(20.0045)
