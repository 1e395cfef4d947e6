"""Started by tests as a process of its own: puts measurements one batch after the other, and says what it has put.

python writer.py URL WRITER FIRST LAST BATCH    puts rows FIRST to LAST in batches; LAST -1 goes on for ever
"""

import sys

from joulec.costdb.cost import Cost, CostKey, Measurement
from joulec.costdb.open import open_store


def measurement(operator: str, index: int, time_s: float) -> Measurement:
    key = CostKey(operator, str(index), "", "", "", "own", "plain", "", "0", "cpu", "tvm", "rapl", "paper-1")
    return Measurement(key, Cost(time_s, None, "measured", None))


def main(url: str, writer: int, first: int, last: int, batch: int) -> None:
    out = sys.stdout
    out.write("ready\n")
    out.flush()
    sys.stdin.readline()
    with open_store(url) as store:
        while last < 0 or first < last:
            indices = range(first, first + batch)
            own = [measurement(f"own{writer}", i, 1.0 + i) for i in indices]
            # All writers put these too, every second one in the opposite order.
            shared = [measurement("shared", i, 1.0 + writer) for i in indices]
            store.put_many(own + (shared if writer % 2 else shared[::-1]))
            first += batch
            out.write(f"{first}\n")
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
