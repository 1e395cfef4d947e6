"""Broken ONNX files through ``joulec compile``: each compiles as ONNX Runtime loads it, or ends in one clear line.

``accepted`` is what compiles although ONNX Runtime refuses it.

python tests/conformance/broken_files.py --count 1000
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from broken_cases import BrokenCase, cases
from node_workers import run_all
from rich.console import Console
from rich.table import Table

LIMIT_S = 20.0
FLAWS = ("traceback", "several lines", "our error", "crashed", "hung", "slow", "accepted")
OPTIONS = ("--costs", "model", "--budget", "0", "--no-measure")

Found = tuple[str, str]
"""Kind of outcome, and what was said."""


def compile_file(case: BrokenCase, limit_s: float = LIMIT_S) -> Found:
    """The command on the file, in this process; what it says on standard error is looked at."""
    from joulec.cli import app

    with tempfile.TemporaryDirectory(prefix="joulec-broken-") as folder:
        path = case.write(Path(folder))
        said = Path(folder) / "said"
        refusal = _refused_by_onnxruntime(path)
        begin_s = time.monotonic()
        code = _run(app, [str(path), "-o", str(Path(folder) / "out.joulec"), *OPTIONS], said)
        seconds = time.monotonic() - begin_s
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", said.read_text(errors="replace"))
    lines = [line for line in text.splitlines() if "error" in line.lower() or "Traceback" in line]
    if seconds > limit_s:
        return "slow", f"{seconds:.0f} s"
    if "Traceback" in text:
        return "traceback", text[-400:]
    if code == 0:
        return ("accepted", refusal) if refusal else ("compiled", "")
    if code != 2:
        return "our error", text[-400:]
    return ("refused", lines[0]) if len(lines) == 1 else ("several lines", text[-400:])


def _refused_by_onnxruntime(path: Path) -> str:
    """Why ONNX Runtime does not load the file, empty where it does; in a process of its own."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            text = pipe.read().decode(errors="replace")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return text or (f"ended with exit code {code}" if code else "")
    try:
        signal.alarm(int(LIMIT_S))
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its errors have no class in common
        os.write(theirs, str(error).encode()[:4000] or b"refused")
    finally:
        os._exit(0)


def _run(app: object, arguments: list[str], said: Path) -> int:
    from joulec.arguments import say_error  # noqa: F401 - the command's modules are loaded before its clock starts

    kept = os.dup(2)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 2)
        try:
            code = app(["compile", *arguments], standalone_mode=False)  # type: ignore[operator]
        except SystemExit as ended:
            code = ended.code
        except Exception as error:  # noqa: BLE001 - any that passes the command's own boundary is a flaw
            os.write(2, f"Traceback: {error!r}".encode())
            code = 1
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
    return int(code or 0)


def main(argv: list[str] | None = None) -> int:
    """1 where a file ends in anything but a compiled model or one clear line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--begin", type=int, default=0, help="first seed, for slices")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that a file may take")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    chosen = cases(options.count, options.begin)
    found = dict(
        run_all(
            partial(compile_file, limit_s=options.limit),
            chosen,
            workers=options.workers,
            limit_s=3 * options.limit,
            crashed=lambda how: ("crashed", how),
            hung=lambda limit: ("hung", f"no end within {limit:g} s"),
        )
    )
    flaws = [(chosen[index], found[index]) for index in sorted(found) if found[index][0] in FLAWS]
    for case, (kind, text) in flaws:
        print(f"seed {case.seed} ({case.how}): {kind}: {text}", file=sys.stderr)
    if options.json:
        print(json.dumps([[case.seed, case.how, *found[index]] for index, case in enumerate(chosen)]))
    else:
        _show(chosen, found)
    return int(bool(flaws))


def _show(chosen: list[BrokenCase], found: dict[int, Found]) -> None:
    total = Counter(kind for kind, _ in found.values())
    kinds = [kind for kind in ("compiled", "refused", *FLAWS) if total[kind]]
    table = Table("how it is broken", *kinds)
    for how in dict.fromkeys(case.how for case in chosen):
        counts = Counter(found[index][0] for index, case in enumerate(chosen) if case.how == how)
        table.add_row(how, *(str(counts[kind] or "") for kind in kinds))
    table.add_section()
    table.add_row("all", *(str(total[kind] or "") for kind in kinds))
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
