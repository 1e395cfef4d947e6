"""The limit on a worker's memory."""

from __future__ import annotations

from joulec.profiler.memory import MAPPED_BYTES, worker_memory_bytes


def _tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_limit_is_what_is_available_and_what_is_mapped_anyway(tmp_path):
    meminfo = {"proc/meminfo": "MemTotal: 32 kB\nMemAvailable:    2097152 kB\n"}
    assert worker_memory_bytes(_tree(tmp_path, meminfo)) == (2 << 30) + MAPPED_BYTES
    group = {"sys/fs/cgroup/memory.max": f"{3 << 30}\n", "sys/fs/cgroup/memory.current": f"{2 << 30}\n"}
    assert worker_memory_bytes(_tree(tmp_path, group)) == (1 << 30) + MAPPED_BYTES
    assert worker_memory_bytes(_tree(tmp_path, {"sys/fs/cgroup/memory.max": "max\n"})) == (2 << 30) + MAPPED_BYTES


def test_where_nothing_is_told_there_is_no_limit(tmp_path):
    assert worker_memory_bytes(tmp_path) is None
