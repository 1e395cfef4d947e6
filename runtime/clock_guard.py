"""Frees a GPU's clocks when the process that locked them is gone, however it ended:
``python clock_guard.py INDEX RECORD``. The record of the lock, a file, is removed then.

It says ``ready``, then waits for a line on standard input. The line means that the clocks were freed already; the end
of the input without one means that the process that held its other end has died.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pynvml


def main() -> None:
    """Stand guard over one GPU."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(int(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        pynvml.nvmlDeviceResetGpuLockedClocks(handle)
        if sys.argv[2]:
            Path(sys.argv[2]).unlink(missing_ok=True)
    pynvml.nvmlShutdown()


if __name__ == "__main__":
    main()
