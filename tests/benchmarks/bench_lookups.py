"""How long a search's look-up takes: 10,000 keys from a cost database of a million rows.

python tests/benchmarks/bench_lookups.py [FOLDER] [--engine postgresql]

The SQLite file (1 GB) is built in FOLDER once, in about two minutes; without FOLDER it is gone at the end. PostgreSQL
is started from the machine's binaries, and its data are gone at the end.

*warm*: the file is in the system's page cache, as after any use. *cold*: it is not; each such run opens the database
anew. The rows are of five devices, 20,000 operators and ten algorithms, and come in the order in which five machines
that profile at once would store them. ``drawn at random`` is what no search asks for: rows that lie nowhere together.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from joulec.costdb.cost import Cost, CostKey, Failure, Measurement
from joulec.costdb.models import CostRow, values_of
from joulec.costdb.open import open_store

sys.path.append(str(Path(__file__).parents[1] / "support"))
from postgres_server import NoServerError, Server

DEVICES, OPERATORS, ALGORITHMS = 5, 20_000, 10
KEYS = 10_000
LIMIT_S = 0.2
COLUMNS = [column.name for column in CostRow.__table__.columns]
WARM_RUNS, COLD_RUNS = 9, 5


def key(device: int, operator: int, algorithm: int) -> CostKey:
    """Texts as long as those of a real convolution."""
    return CostKey(
        operator="conv2d",
        attributes=f"groups=1 strides=(1, 1) pads=(1, 1, 1, 1) dilations=(1, 1) index={operator}",
        epilogue="bias+relu",
        shapes="(1,64,56,56)f32 (64,64,3,3)f32! -> (1,64,56,56)f32",
        layouts="NCHW16c OIHW16i16o -> NCHW16c",
        placement="own",
        algorithm="direct_conv",
        parameters=f"columns={algorithm}",
        digest="5d41402abc4b2a76",
        device=f"cpu|AMD EPYC 9R{device}4|0xa101148|performance max 3700 MHz||2t|x86-64-avx512",
        compiler="tvm-0.27.0",
        energy_source="estimated",
        protocol="adaptive-2",
    )


def rows() -> Iterator[list[object]]:
    """Rows of all devices in turn, each going through the operators in an order of its own; one in fifty failed."""
    provenance = {"host": "bench-1", "date": "2026-03-01T12:00:00+00:00"}
    orders = [random.Random(device).sample(range(OPERATORS), OPERATORS) for device in range(DEVICES)]
    for step in range(OPERATORS * ALGORITHMS):
        for device, order in enumerate(orders):
            place, algorithm = divmod(step, ALGORITHMS)
            outcome: Cost | Failure = Cost((step + 1) / 3e9, (step + 1) / 7e9, "measured", "estimated", 0.01, 30)
            if step % 50 == 0:
                outcome = Failure("timeout", "no end after 10 s")
            values = values_of(Measurement(key(device, order[place], algorithm), outcome, provenance))
            values |= {"provenance": json.dumps(provenance), "measured_at": "2026-03-01 12:00:00.000000"}
            yield [values[name] for name in COLUMNS]


def build_sqlite(path: Path) -> None:
    """The rows in one transaction, through the driver alone: ten times as fast as through the store."""
    open_store(str(path)).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")
    connection.execute("BEGIN")
    marks = ",".join("?" * len(COLUMNS))
    connection.executemany(f"INSERT INTO joulec_costs ({','.join(COLUMNS)}) VALUES ({marks})", rows())
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def build_postgres(url: str) -> None:
    """The rows by COPY, and what autovacuum would do within the minute."""
    import psycopg

    open_store(url).close()
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.cursor().copy(f"COPY joulec_costs ({','.join(COLUMNS)}) FROM STDIN") as copy:
            for row in rows():
                copy.write_row(row)
        connection.execute("VACUUM ANALYZE joulec_costs")


def forget(path: Path) -> None:
    """Drop a SQLite file from the system's page cache."""
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if file.exists():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def recall(path: Path) -> None:
    """Have a SQLite file in the system's page cache, whatever the kernel has reclaimed meanwhile."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def searches(draw: random.Random, known: float) -> list[CostKey]:
    """All algorithms of a thousand operators on one device; a share of the operators is in the database."""
    count = KEYS // ALGORITHMS
    operators = draw.sample(range(OPERATORS), round(known * count))
    operators += range(OPERATORS, OPERATORS + count - len(operators))
    return [key(2, operator, algorithm) for operator in operators for algorithm in range(ALGORITHMS)]


def anywhere(draw: random.Random) -> list[CostKey]:
    """Rows from all over the database."""
    numbers = draw.sample(range(DEVICES * OPERATORS * ALGORITHMS), KEYS)
    return [key(n // (OPERATORS * ALGORITHMS), n // ALGORITHMS % OPERATORS, n % ALGORITHMS) for n in numbers]


ASKED: tuple[tuple[str, Callable[[random.Random], list[CostKey]]], ...] = (
    ("a search's, all known", lambda draw: searches(draw, 1.0)),
    ("a search's, half known", lambda draw: searches(draw, 0.5)),
    ("drawn at random", anywhere),
)


@dataclass(frozen=True)
class Asked:
    """Look-ups of one kind: seconds of each, by the clock and of this process's processor time; keys found at last."""

    seconds: Sequence[float]
    processor_s: Sequence[float]
    found: int

    def __str__(self) -> str:
        times = [statistics.median(self.seconds), max(self.seconds), statistics.median(self.processor_s)]
        return "{:5.0f} {:5.0f} {:5.0f}".format(*(1e3 * one for one in times))


def ask(url: str, draws: Sequence[list[CostKey]], before: Callable[[], None] | None = None) -> Asked:
    """One look-up for each draw, after one that does not count; or each after ``before``, on a database opened anew."""
    seconds, processor_s, found, store = [], [], 0, None
    for keys in draws:
        if before is not None or store is None:
            if store is not None:
                store.close()
            if before is not None:
                before()
            store = open_store(url)
        begun_s, processor_begun_s = time.perf_counter(), time.process_time()
        found = len(store.get_many(keys))
        seconds.append(time.perf_counter() - begun_s)
        processor_s.append(time.process_time() - processor_begun_s)
    if store is not None:
        store.close()
    first = 1 if before is None else 0
    return Asked(seconds[first:], processor_s[first:], found)


def opening(url: str) -> float:
    """Seconds that opening takes, the median of five."""
    seconds = []
    for _ in range(5):
        begun_s = time.perf_counter()
        open_store(url).close()
        seconds.append(time.perf_counter() - begun_s)
    return statistics.median(seconds)


def measure(name: str, url: str, path: Path | None) -> float:
    """Print a database's rows of the table; the slowest median of what a search asks for, in seconds."""
    print(f"{name}: opened in {opening(url) * 1e3:.0f} ms")
    slowest = 0.0
    for what, drawn in ASKED:
        draw = random.Random(0)
        if path is not None:
            recall(path)
        warm = ask(url, [drawn(draw) for _ in range(WARM_RUNS + 1)])
        cold = None if path is None else ask(url, [drawn(draw) for _ in range(COLD_RUNS)], partial(forget, path))
        print(f"  {what:24}{warm.found:7,}   {warm}   {cold or ''}".rstrip())
        if drawn is not anywhere:
            slowest = max([slowest, *(statistics.median(one.seconds) for one in (warm, cold) if one is not None)])
    return slowest


def timed_build(what: str, build: Callable[[], None]) -> None:
    begun_s = time.perf_counter()
    build()
    print(f"built {what}: {DEVICES * OPERATORS * ALGORITHMS:,} rows in {time.perf_counter() - begun_s:.0f} s")


def on_sqlite(folder: Path) -> float:
    path = folder / "million.db"
    if not path.exists():
        timed_build(str(path), lambda: build_sqlite(path))
    return measure(f"SQLite, {path.stat().st_size / 1e6:.0f} MB", str(path), path)


def on_postgresql() -> float:
    try:
        server = Server()
    except NoServerError as error:
        sys.exit(str(error))
    with server:
        server.start()
        timed_build(server.url, lambda: build_postgres(server.url))
        return measure("PostgreSQL", server.url, None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    print(f"{KEYS:,} keys; ms: median, worst, and median of processor time")
    print(f"  {'':24}{'found':>7}   {'warm':17}   cold")
    if options.engine == "postgresql":
        slowest = on_postgresql()
    elif options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        slowest = on_sqlite(options.folder)
    else:
        with tempfile.TemporaryDirectory(prefix="joulec-lookups-") as folder:
            slowest = on_sqlite(Path(folder))
    if slowest > LIMIT_S:
        sys.exit(f"slower than {LIMIT_S * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
