"""The search alone: what ``joulec optimize`` does. Nothing is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from joulec.benches import open_bench
from joulec.explain import explain, rules_named
from joulec.options import CompileOptions, OptionError
from joulec.passes.bench import Bench
from joulec.passes.onnx.exporter import export_onnx
from joulec.passes.onnx.exporter_parts import export_whole
from joulec.passes.onnx.reference import onnx_reference
from joulec.passes.search.frontier import FrontierSearch
from joulec.passes.search.objective import weighted
from joulec.passes.verification import DEFAULT_TOLERANCE, Verified, verify
from joulec.progress import Progress
from joulec.report import budget_json, entry_json, plan_budget, profiling_json, verified_json
from joulec.runtime.artifact import write_file
from joulec.searching import Searched, objective_of, search_all, search_options


@dataclass(frozen=True)
class Extras:
    """What ``joulec optimize`` gives beside the search's outcome.

    Attributes:
        output: where the better graph goes as an ONNX file; None writes nothing.
        explain: ``""`` tells what each substitution brought, a rule's name why it does not apply; None nothing.
        frontier: whether the frontier between time and energy is wanted.
    """

    output: Path | None = None
    explain: str | None = None
    frontier: bool = False


def optimize_model(
    model: Any, options: CompileOptions, progress: Progress, extras: Extras = Extras()
) -> tuple[dict[str, Any], str]:
    """Search, and write the better graph where that was asked for.

    Returns:
        The report, and where energies come from.

    Raises:
        OptionError: options do not go together.
        ExportError: the better graph cannot be written as ONNX.
        VerificationError: what would be written differs from the original; nothing is.
        Others: see `joulec.searching.search_all` and `joulec.benches.open_bench`.
    """
    if extras.output is not None and len(set(options.batch_sizes or ())) > 1:
        raise OptionError(
            "-o writes one graph, and each batch size has its own: give one batch size, e.g. --batch-sizes 1"
        )
    with open_bench(options, progress) as bench:
        if extras.explain:
            rules_named(bench, extras.explain)
        found = search_all(model, options, bench, progress, branches=False)
        verified = None if extras.output is None else _write(found, extras.output, options, progress)
        entries = {str(one.source.batch): _entry(one, bench, options, progress, extras) for one in found}
        report = {
            "entries": entries,
            "profiling": profiling_json(bench.profiling),
            "verified": verified_json(verified),
        }
        return report, bench.why


def _entry(one: Searched, bench: Bench, options: CompileOptions, progress: Progress, extras: Extras) -> dict[str, Any]:
    entry = entry_json(one.result, None, around=one.source.around)
    objective = objective_of(options)
    if extras.explain is not None:
        entry["explain"] = explain(one, bench, objective, search_options(options), extras.explain or None)
    if extras.frontier:
        progress.stage(f"tracing the frontier for batch {one.source.batch}")
        how = search_options(options)
        search = FrontierSearch(bench.rules, bench.costs(weighted(0.5)), how, bench.tidy, progress.search)
        plans = search.run(one.source.graph, objective.bounds)
        entry["frontier"] = [budget_json(plan_budget(plan)) for plan in plans]
    return entry


def _write(found: Sequence[Searched], output: Path, options: CompileOptions, progress: Progress) -> Verified:
    """Write the one better graph once it is seen to compute what the original computes."""
    (one,) = found
    progress.stage("writing the graph")
    best, around = one.result.best.graph, one.source.around
    written = export_onnx(best, output.stem) if around is None else export_whole(best, around.whole, output.stem)
    progress.stage("comparing with the original")
    verified = compare(one, written, options)
    write_file(output, written.SerializeToString())
    return verified


def compare(one: Searched, written: onnx.ModelProto, options: CompileOptions) -> Verified:
    """Compare a written graph with the original on random inputs.

    Raises:
        VerificationError: they differ by more than the tolerance.
    """
    runner = onnx_reference(written)
    tolerance = DEFAULT_TOLERANCE if options.max_error is None else options.max_error
    if one.source.around is not None:
        around = one.source.around
        return verify(around.reference, runner.run, [sample.given for sample in around.samples], tolerance)
    names = [value.name for value in one.source.graph.inputs]
    inputs = [{name: given[name] for name in names} for given in one.source.inputs(options.seed)]
    return verify(one.source.reference(), runner.run, inputs, tolerance)
