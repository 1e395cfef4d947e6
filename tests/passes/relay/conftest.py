"""These tests run where TVM 0.19 is installed (``make test-relay``); elsewhere they are skipped."""

from __future__ import annotations

import os

import pytest

from joulec.tvm_version import installed_frontend

os.environ.setdefault("TOPHUB_LOCATION", "NONE")  # no download of tuning logs
HERE = installed_frontend() == "relay"
collect_ignore_glob = [] if HERE else ["test_[!w]*.py"]


def pytest_report_header() -> str:
    """Why nothing of this folder runs in the main environment."""
    return "relay: tested" if HERE else "relay: skipped, since TVM 0.19 is not installed here (make test-relay)"


@pytest.fixture(scope="session", autouse=True)
def quick():
    """A pool of two threads, set before TVM first needs one."""
    os.environ.setdefault("TVM_NUM_THREADS", "2")
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "100")
