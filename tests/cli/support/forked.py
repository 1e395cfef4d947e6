"""Runs many command lines, each in a process of its own that has joulec's modules loaded already.

``python forked.py`` reads a JSON list of ``{"words", "folder", "environment"}`` from standard input and prints a list
of ``{"code", "out", "err"}``. Loading the compiler takes seconds and a refusal takes none: tests of many refusals fork.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import traceback
from typing import IO, Any

import joulec.compiler
import joulec.costdb.open
import joulec.render
import joulec.running  # noqa: F401 - loaded before the first fork
from joulec.__main__ import main

LIMIT_S = 120


def child(case: dict[str, Any], out: IO[bytes], err: IO[bytes]) -> int:
    """Become the command; the exit code."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out.fileno(), 1), (err.fileno(), 2)):
        os.dup2(source, target)
    os.chdir(case["folder"])
    os.environ.update(case["environment"])
    sys.argv = ["joulec", *case["words"]]
    signal.alarm(LIMIT_S)
    try:
        main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter ends on it
        traceback.print_exc()
        return 1
    return 0


def run(case: dict[str, Any]) -> dict[str, Any]:
    """One case in a process of its own."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            code = 70
            try:
                code = child(case, out, err)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return {"code": code, "out": out.read().decode(), "err": err.read().decode()}


if __name__ == "__main__":
    gc.freeze()  # what is loaded stays shared with the children
    results = [run(case) for case in json.load(sys.stdin)]
    json.dump(results, sys.stdout)
