"""ONNX's node tests through joulec.compile: a table of outcomes, every refusal with its reason.

make test-onnx
python tests/conformance/node_tests.py --select 'test_conv*'
python tests/conformance/node_tests.py --engines joulec,onnxruntime,reference --write docs/onnx-coverage.md
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import time
from pathlib import Path

from node_cases import NodeCase, load_cases
from node_outcomes import ENGINES, Outcome
from node_report import Results, as_markdown, show, wrong_where_others_are_right
from node_workers import run_all


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments say; 1 where joulec fails on what another engine that was asked gets right."""
    options = _arguments(argv)
    everything = [case for case in load_cases() if case.core or options.all]
    chosen = [case for case in everything if fnmatch.fnmatch(case.name, options.select)][:: options.every]
    results: Results = {engine: {} for engine in options.engines.split(",")}
    if options.save and Path(options.save).exists():
        stored = json.loads(Path(options.save).read_text())
        results = {engine: {n: Outcome(*o) for n, o in stored.get(engine, {}).items()} for engine in results}
    for engine, known in results.items():
        begin_s = time.monotonic()
        known.update(run_engine(engine, chosen, options.workers, options.limit))
        print(f"{engine}: {len(chosen)} cases in {time.monotonic() - begin_s:.0f} s", file=sys.stderr)
    cases = [case for case in everything if all(case.name in known for known in results.values())]
    if options.save:
        Path(options.save).write_text(_as_json(results))
    if options.write:
        Path(options.write).write_text(as_markdown(cases, results))
    if options.json:
        print(_as_json(results))
    else:
        show(cases, results)
    return int(bool(wrong_where_others_are_right(cases, results)))


def _as_json(results: Results) -> str:
    return json.dumps({e: {n: [o.kind, o.reason] for n, o in r.items()} for e, r in results.items()}, indent=1)


def run_engine(engine: str, cases: list[NodeCase], workers: int, limit_s: float) -> dict[str, Outcome]:
    """Outcomes by the cases' names."""
    found = run_all(
        ENGINES[engine],
        cases,
        workers=workers,
        limit_s=limit_s,
        crashed=lambda how: Outcome("crashed", how),
        hung=lambda limit: Outcome("hung", f"no result within {limit:g} s"),
    )
    outcomes: dict[str, Outcome] = {}
    for index, outcome in found:
        name = cases[index].name
        outcomes[name] = outcome
        if engine == "joulec" and outcome.kind not in ("native", "external"):
            print(f"{len(outcomes)}/{len(cases)} {name}: {outcome.kind}: {outcome.reason}", file=sys.stderr, flush=True)
    return {case.name: outcomes[case.name] for case in cases}


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--select", default="*", help="names to run, as a shell pattern")
    parser.add_argument("--every", type=int, default=1, help="of the cases, by name, take every n-th")
    parser.add_argument("--all", action="store_true", help="also cases that hold no plain arrays, and random ones")
    parser.add_argument("--engines", default="joulec", help=f"comma-separated, of {', '.join(ENGINES)}")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds per case")
    parser.add_argument("--write", help="write the table as Markdown")
    parser.add_argument("--save", help="keep outcomes in this file and add to those it has: a long run in slices")
    parser.add_argument("--json", action="store_true", help="print outcomes as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
