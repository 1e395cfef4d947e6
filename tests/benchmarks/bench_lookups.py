"""How long a search's look-up takes: 10,000 keys from a SQLite cost database of a million rows.

python tests/benchmarks/bench_lookups.py [FOLDER]    the database (0.8 GB) is built in FOLDER once, about a minute
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from joulec.costdb.cost import Cost, CostKey, Measurement
from joulec.costdb.models import CostRow, values_of
from joulec.costdb.open import open_store

ROWS = 1_000_000
KEYS = 10_000
LIMIT_S = 0.2
COLUMNS = [column.name for column in CostRow.__table__.columns]


def key(index: int) -> CostKey:
    """Texts as long as those of a real convolution."""
    return CostKey(
        operator="conv2d",
        attributes=f"groups=1 strides=(1, 1) pads=(1, 1, 1, 1) dilations=(1, 1) index={index}",
        epilogue="bias+relu",
        shapes="(1,64,56,56)f32 (64,64,3,3)f32! -> (1,64,56,56)f32",
        layouts="NCHW16c OIHW16i16o -> NCHW16c",
        placement="own",
        algorithm="direct_conv",
        parameters="columns=14",
        digest="5d41402abc4b2a76",
        device="cpu|AMD EPYC 9R14|0xa101148|performance max 3700 MHz||2t|x86-64-avx512",
        compiler="tvm-0.27.0",
        energy_source="estimated",
        protocol="adaptive-2",
    )


def rows() -> Iterator[list[object]]:
    provenance = {"host": "bench-1", "date": "2026-03-01T12:00:00+00:00"}
    for index in range(ROWS):
        cost = Cost((index + 1) / 3e9, (index + 1) / 7e9, "measured", "estimated", 0.01, 30)
        values = values_of(Measurement(key(index), cost, provenance))
        values |= {"provenance": json.dumps(provenance), "measured_at": "2026-03-01 12:00:00.000000"}
        yield [values[name] for name in COLUMNS]


def build(path: Path) -> None:
    """The rows in one transaction, through the driver alone: ten times as fast as through the store."""
    open_store(str(path)).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    marks = ",".join("?" * len(COLUMNS))
    connection.executemany(f"INSERT INTO joulec_costs ({','.join(COLUMNS)}) VALUES ({marks})", rows())
    connection.execute("COMMIT")
    connection.close()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="joulec-lookups-"))
    path = folder / "million.db"
    if not path.exists():
        begun_s = time.perf_counter()
        build(path)
        print(
            f"built {path}: {ROWS:,} rows, {path.stat().st_size / 1e6:.0f} MB in {time.perf_counter() - begun_s:.0f} s"
        )
    draw = random.Random(0)
    seconds = []
    with open_store(str(path)) as store:
        for _ in range(7):
            keys = [key(draw.randrange(ROWS)) for _ in range(KEYS)]
            begun_s = time.perf_counter()
            found = store.get_many(keys)
            seconds.append(time.perf_counter() - begun_s)
            print(f"{KEYS:,} keys, {len(found):,} found: {seconds[-1] * 1e3:6.1f} ms")
    median = statistics.median(seconds)
    print(f"median {median * 1e3:.1f} ms, worst {max(seconds) * 1e3:.1f} ms; limit {LIMIT_S * 1e3:.0f} ms")
    if len(sys.argv) == 1:
        for file in folder.iterdir():
            os.remove(file)
        folder.rmdir()
    if median > LIMIT_S:
        sys.exit(f"slower than {LIMIT_S * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
