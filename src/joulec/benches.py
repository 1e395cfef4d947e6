"""Opening what the options name: a workbench of a compiling back end, or a file of rows to replay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from joulec.options import CompileOptions, OptionError
from joulec.passes.bench import Bench
from joulec.passes.replay.backend import ALGORITHMS
from joulec.passes.replay.bench import SCHEME, ReplayBench
from joulec.progress import Progress

if TYPE_CHECKING:
    from joulec.passes.workbench import Workbench


def open_bench(options: CompileOptions, progress: Progress) -> Bench:
    """Open what a search alone needs; see `open_workbench` and `ReplayBench.open` for what it raises.

    Raises:
        OptionError: options do not go together.
    """
    path = _replayed(options)
    if path is None:
        return open_workbench(options, progress)
    plain = CompileOptions()
    for flag, given, default in (
        ("--meter", options.meter, plain.meter),
        ("--energy-constants", options.energy_constants, plain.energy_constants),
        ("--target", options.target, plain.target),
        ("--protocol", options.protocol, plain.protocol),
        ("--frontend", options.frontend, plain.frontend),
        ("--tuning-records", options.tuning_records, plain.tuning_records),
    ):
        if given != default:
            raise OptionError(f"{flag} {given} does not go with --costs {options.costs}: nothing is measured")
    for name in options.exclude_algorithms:
        if name not in ALGORITHMS.values():
            known = ", ".join(ALGORITHMS.values())
            progress.warn(f"no algorithm is called {name}, so none is left out; there are {known}")
    return ReplayBench.open(path, options.exclude_algorithms)


def _replayed(options: CompileOptions) -> Path | None:
    """The file of rows that the options name."""
    costs = options.costs
    return Path(costs.removeprefix(SCHEME)) if costs is not None and costs.startswith(SCHEME) else None


_TVM_OWN = ("tvm", "relay")
"""What the back ends call the lowering that always applies."""


def open_workbench(options: CompileOptions, progress: Progress) -> Workbench:
    """Open what the options name; see `Workbench.open` for what it raises.

    Raises:
        OptionError: TVM's own lowering is to be left out, or costs are to be replayed, for which nothing is compiled.
        ImportError: TVM is missing; the message names the extra.
    """
    if _replayed(options) is not None:
        raise OptionError(
            f"--costs {options.costs} replays measurements of another machine, for which nothing can be compiled or "
            "measured; search with joulec optimize"
        )
    from joulec.frontends import chosen_frontend, load_tools
    from joulec.passes.workbench import Setup

    frontend = chosen_frontend(options.frontend)
    if options.tuning_records is not None and frontend != "relay":
        raise OptionError("--tuning-records takes a log of AutoTVM, which only --frontend relay can use")
    tools = load_tools(frontend)
    _check_exclusions(options.exclude_algorithms, tools.families, progress)
    bench = tools.workbench.open(
        Setup(
            target=options.target,
            threads=options.threads,
            costs=options.costs,
            meter=options.meter,
            energy_constants=options.energy_constants,
            protocol=options.protocol,
            exclude_algorithms=tuple(options.exclude_algorithms),
            retry_failed=options.retry_failed,
            max_error=options.max_error,
            tuning_records=options.tuning_records,
        ),
        progress.warn,
    )
    bench.on_batch = progress.batch
    bench.on_candidate = progress.candidate
    bench.on_result = progress.result
    return bench


def _check_exclusions(excluded: Sequence[str], known: Sequence[str], progress: Progress) -> None:
    """A name that nothing has is most likely a slip, and would leave nothing out."""
    for name in excluded:
        if name in _TVM_OWN:
            raise OptionError(f"the algorithm {name} cannot be left out: it computes what no other algorithm does")
        if name not in known:
            progress.warn(f"no algorithm is called {name}, so none is left out; there are {', '.join(known)}")
