"""The command line. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from joulec.arguments import (
    Alpha,
    AsJson,
    BatchSizes,
    BoundBy,
    BoundMethod,
    Budget,
    Costs,
    Distance,
    EnergyConstants,
    Exclude,
    Frontend,
    Inner,
    InnerMode,
    InputShapes,
    MaxEnergy,
    MaxError,
    MaxPower,
    MaxTime,
    Measured,
    MeterName,
    ModelPath,
    Objective,
    Protocol,
    ProtocolName,
    ReportPage,
    RetryFailed,
    SearchTime,
    Seed,
    Target,
    Threads,
    TuningRecords,
    Variants,
    catch,
    make_options,
    print_json,
    quantity,
    say_error,
)
from joulec.commands_db import database
from joulec.commands_reproduce import reproduce
from joulec.commands_run import run
from joulec.commands_simulate import simulate
from joulec.commands_sweep import sweep
from joulec.completion import rules
from joulec.errors import INTERRUPTED, USER_ERROR
from joulec.interrupts import ended_by_interrupt

app = typer.Typer(
    name="joulec",
    help="Compile a neural network so that it costs the least time, energy or power, and run it under a power cap.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(database, name="db")
app.add_typer(reproduce, name="reproduce")

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # typer keeps the base of its usage errors to itself


@app.command()
@catch
def compile(
    model: ModelPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the artifact goes.", show_default=False)],
    objective: Objective = "energy",
    max_time: MaxTime = None,
    max_power: MaxPower = None,
    max_energy: MaxEnergy = None,
    batch_sizes: BatchSizes = None,
    input_shapes: InputShapes = None,
    target: Target = "llvm",
    alpha: Alpha = 1.05,
    budget: Budget = 300,
    inner: InnerMode = Inner.exact,
    distance: Distance = 2,
    bound_method: BoundBy = BoundMethod.exact,
    costs: Costs = None,
    meter: MeterName = "auto",
    energy_constants: EnergyConstants = None,
    protocol: ProtocolName = Protocol.adaptive,
    max_error: MaxError = None,
    exclude_algorithm: Exclude = None,
    retry_failed: RetryFailed = False,
    measure: Measured = True,
    search_time: SearchTime = None,
    seed: Seed = 0,
    threads: Threads = None,
    frontend: Frontend = None,
    tuning_records: TuningRecords = None,
    variants: Variants = None,
    report: ReportPage = None,
    as_json: AsJson = False,
) -> None:
    """Compile MODEL into an artifact.

    Example: joulec compile model.onnx -o model.joulec --objective energy --batch-sizes 1,4,8 --variants frontier:3
    """
    from joulec.runtime.artifact import check_writable

    check_writable(output)
    options = make_options(
        objective, max_time, max_power, max_energy, batch_sizes, input_shapes,
        target=target, alpha=alpha, budget=budget, inner=inner.value, distance=distance,
        bound_method=bound_method.value, costs=costs, meter=meter, energy_constants=energy_constants,
        protocol=protocol.value, max_error=max_error, exclude_algorithms=tuple(exclude_algorithm or ()),
        retry_failed=retry_failed,
        measure=measure,
        search_time_s=search_time, seed=seed, threads=threads,
        frontend=None if frontend is None else frontend.value, tuning_records=tuning_records, variants=variants,
        report=report,
    )  # fmt: skip
    from joulec.page import check_page, write_page

    if report is not None:
        check_page(report)
    from joulec.compiler import compile_model
    from joulec.render import Display, show_compiled

    with Display() as display:
        compiled = compile_model(model, options, display)
        with compiled.model as result:
            display.stage("writing the artifact")
            result.save(output)
            if report is not None:
                display.stage("writing the report")
                write_page(compiled, options, str(model), report)
    if as_json:
        print_json(compiled.report)
    show_compiled(compiled.report, compiled.meter, [output] if report is None else [output, report])


@app.command()
@catch
def optimize(
    model: ModelPath,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the better graph goes (.onnx).")] = None,
    objective: Objective = "energy",
    max_time: MaxTime = None,
    max_power: MaxPower = None,
    max_energy: MaxEnergy = None,
    batch_sizes: BatchSizes = None,
    input_shapes: InputShapes = None,
    target: Target = "llvm",
    alpha: Alpha = 1.05,
    budget: Budget = 300,
    inner: InnerMode = Inner.exact,
    distance: Distance = 2,
    bound_method: BoundBy = BoundMethod.exact,
    costs: Costs = None,
    meter: MeterName = "auto",
    energy_constants: EnergyConstants = None,
    protocol: ProtocolName = Protocol.adaptive,
    max_error: MaxError = None,
    exclude_algorithm: Exclude = None,
    retry_failed: RetryFailed = False,
    search_time: SearchTime = None,
    seed: Seed = 0,
    threads: Threads = None,
    frontend: Frontend = None,
    tuning_records: TuningRecords = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="[RULE]",
            help="Say what each substitution brings, or why RULE does not apply.",
            autocompletion=rules,
        ),
    ] = None,
    frontier: Annotated[bool, typer.Option("--frontier", help="Trace the frontier between time and energy.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search MODEL's graphs and algorithms; nothing is compiled.

    Example: joulec optimize model.onnx -o better.onnx --objective '0.5*energy + 0.5*time' --costs model
    """
    from joulec.runtime.artifact import check_writable

    if output is not None:
        check_writable(output)
    options = make_options(
        objective, max_time, max_power, max_energy, batch_sizes, input_shapes,
        target=target, alpha=alpha, budget=budget, inner=inner.value, distance=distance,
        bound_method=bound_method.value, costs=costs, meter=meter, energy_constants=energy_constants,
        protocol=protocol.value, max_error=max_error, exclude_algorithms=tuple(exclude_algorithm or ()),
        retry_failed=retry_failed,
        search_time_s=search_time, seed=seed, threads=threads,
        frontend=None if frontend is None else frontend.value, tuning_records=tuning_records,
    )  # fmt: skip
    from joulec.optimizing import Extras, optimize_model
    from joulec.render import Display, show_optimized
    from joulec.render_search import show_extras

    with Display() as display:
        report, why = optimize_model(model, options, display, Extras(output, explain, frontier))
    if as_json:
        print_json(report)
    show_optimized(report, why)
    show_extras(report)


@app.command()
@catch
def profile(
    model: ModelPath,
    objective: Objective = "energy",
    batch_sizes: BatchSizes = None,
    input_shapes: InputShapes = None,
    target: Target = "llvm",
    alpha: Alpha = 1.05,
    budget: Budget = 300,
    costs: Costs = None,
    meter: MeterName = "auto",
    energy_constants: EnergyConstants = None,
    protocol: ProtocolName = Protocol.adaptive,
    exclude_algorithm: Exclude = None,
    retry_failed: RetryFailed = False,
    time_budget: Annotated[
        float | None, typer.Option("--time-budget", parser=quantity("s"), help="Stop after this time, e.g. 2m.")
    ] = None,
    threads: Threads = None,
    frontend: Frontend = None,
    tuning_records: TuningRecords = None,
    as_json: AsJson = False,
) -> None:
    """Fill the cost database with what a search of MODEL needs.

    Example: joulec profile model.onnx --time-budget 2m
    """
    options = make_options(
        objective, None, None, None, batch_sizes, input_shapes,
        target=target, alpha=alpha, budget=budget, costs=costs, meter=meter, energy_constants=energy_constants,
        protocol=protocol.value,
        exclude_algorithms=tuple(exclude_algorithm or ()),
        retry_failed=retry_failed, threads=threads,
        frontend=None if frontend is None else frontend.value, tuning_records=tuning_records,
    )  # fmt: skip
    from joulec.costdb.store import CostStoreError
    from joulec.render import Display, show_profiling
    from joulec.searching import profile_model

    with Display(time_budget) as display:
        report, lost = profile_model(model, options, display, time_budget)
    if as_json:
        print_json(report)
    show_profiling(report)
    if lost is not None:
        raise CostStoreError(lost)


app.command()(run)
app.command()(sweep)
app.command()(simulate)


@app.command()
@catch
def devices(as_json: AsJson = False) -> None:
    """List this machine's devices and the meters that can be read.

    Example: joulec devices
    """
    from dataclasses import asdict

    from joulec.profiler.device import devices as find_devices
    from joulec.render import show_devices

    found = [asdict(device) for device in find_devices()]
    if as_json:
        print_json({"devices": found})
    else:
        show_devices(found)


def _version(value: bool) -> None:
    if value:
        from joulec import __version__

        typer.echo(f"joulec {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point of the ``joulec`` command."""
    with ended_by_interrupt():
        code = _run()
    sys.exit(code)


def _with_explain(arguments: list[str]) -> list[str]:
    """The arguments with an empty value for an --explain that has none: at the end, or before an option or a file."""
    full = []
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=False):
        bare = argument == "--explain" and (following.startswith("-") or Path(following).exists())
        full.append("--explain=" if bare else argument)
    return full


def _in_our_voice(message: str) -> str:
    """What the parser says of a usage error, as other errors are said: the option first, no capital, no full stop."""
    told = re.sub(r"^Invalid value for (?:argument )?'(.+?)'(?: / '.+?')?: ", r"\1: ", message).rstrip(".")
    return told[:1].lower() + told[1:]


def _run() -> int:
    """Parse the command line and carry it out; the exit code."""
    try:
        return app(args=_with_explain(sys.argv[1:]), prog_name="joulec", standalone_mode=False) or 0
    except typer.Abort:
        return INTERRUPTED
    except _USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            where = error.ctx.command_path if error.ctx is not None else "joulec"
            say_error(f"{_in_our_voice(error.format_message())} (see {where} --help)")
        return USER_ERROR
