"""The command line. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from joulec.errors import INTERRUPTED, OUR_ERROR, USER_ERROR, exit_code
from joulec.quantities import QuantityError, Unit, parse_quantity

if TYPE_CHECKING:
    from joulec.options import CompileOptions

app = typer.Typer(
    name="joulec",
    help="Compile a neural network so that it costs the least time, energy or power, and run it under a power cap.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
database = typer.Typer(help="Look into the cost database.", no_args_is_help=True)
app.add_typer(database, name="db")

_P = ParamSpec("_P")
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # typer keeps the base of its usage errors to itself


class Inner(StrEnum):
    """How algorithms are assigned."""

    exact = "exact"
    neighbourhood = "neighbourhood"
    none = "none"


class Protocol(StrEnum):
    """Measurement protocols."""

    adaptive = "adaptive"
    paper = "paper"


def _quantity(unit: Unit) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return parse_quantity(text, unit)
        except QuantityError as error:
            raise typer.BadParameter(str(error)) from error

    parse.__name__ = {"s": "TIME", "W": "POWER", "J": "ENERGY"}[unit]
    return parse


def _catch(command: Callable[_P, None]) -> Callable[_P, None]:
    """End on an error with one line and the right exit code; JOULEC_TRACEBACK=1 shows where it came from."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:  # the boundary to the user
            if os.environ.get("JOULEC_TRACEBACK"):
                raise
            _fail(error)

    return run


def _fail(error: BaseException) -> None:
    code = exit_code(error)
    text = str(error) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted; what was measured is kept"
    elif code == OUR_ERROR and not type(error).__module__.startswith("joulec."):
        text = f"{type(error).__name__}: {text} (JOULEC_TRACEBACK=1 shows where)"
    _say_error(text)
    raise typer.Exit(code)


def _say_error(text: str) -> None:
    typer.echo(f"joulec: error: {' '.join(text.split())}", err=True)


ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Objective = Annotated[
    str, typer.Option(help="Expression of time, energy, power (ratios to the original) or time_s, energy_j, power_w.")
]
MaxTime = Annotated[
    float | None, typer.Option("--max-time", parser=_quantity("s"), help="Bound on time per call, e.g. 2ms.")
]
MaxPower = Annotated[
    float | None, typer.Option("--max-power", parser=_quantity("W"), help="Bound on mean power, e.g. 90W.")
]
MaxEnergy = Annotated[
    float | None, typer.Option("--max-energy", parser=_quantity("J"), help="Bound on energy per call, e.g. 60mJ.")
]
BatchSizes = Annotated[str | None, typer.Option(help="Batch sizes to compile for, e.g. 1,2,4,8.")]
InputShapes = Annotated[str | None, typer.Option(help="Shapes of inputs, e.g. 'data:[1,3,224,224]'.")]
Target = Annotated[str, typer.Option(help="TVM target, e.g. 'llvm -mcpu=haswell'; llvm is this machine.")]
Alpha = Annotated[float, typer.Option(min=1.0, help="Graphs that cost less than alpha times the best are kept.")]
Budget = Annotated[int, typer.Option(min=0, help="Graphs that the outer search expands; 0 turns it off.")]
InnerMode = Annotated[Inner, typer.Option(help="How algorithms are assigned.")]
Distance = Annotated[int, typer.Option(min=1, help="Nodes that the neighbourhood search changes at once.")]
Costs = Annotated[
    str | None, typer.Option(help="Cost database (path or URL), or 'model' for a roofline. Default: your own database.")
]
MeterName = Annotated[str, typer.Option("--meter", help="auto, rapl, nvml or estimate.")]
ProtocolName = Annotated[Protocol, typer.Option(help="How candidates are measured.")]
MaxError = Annotated[float | None, typer.Option(help="Largest relative error that verification accepts.")]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude-algorithm", help="Algorithm family not to use; may be repeated.")
]
SearchTime = Annotated[
    float | None, typer.Option("--search-time", parser=_quantity("s"), help="End each search after this time.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random inputs.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Worker threads; default: the CPUs this process may use.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _options(
    objective: str,
    max_time: float | None,
    max_power: float | None,
    max_energy: float | None,
    batch_sizes: str | None,
    input_shapes: str | None,
    **rest: Any,
) -> CompileOptions:
    from joulec.options import CompileOptions, parse_batch_sizes, parse_input_shapes

    return CompileOptions(
        objective=objective,
        max_time_s=max_time,
        max_power_w=max_power,
        max_energy_j=max_energy,
        batch_sizes=None if batch_sizes is None else parse_batch_sizes(batch_sizes),
        input_shapes={} if input_shapes is None else parse_input_shapes(input_shapes),
        **rest,
    )


@app.command()
@_catch
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
    costs: Costs = None,
    meter: MeterName = "auto",
    protocol: ProtocolName = Protocol.adaptive,
    max_error: MaxError = None,
    exclude_algorithm: Exclude = None,
    search_time: SearchTime = None,
    seed: Seed = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Compile MODEL into an artifact.

    Example: joulec compile model.onnx -o model.joulec --objective energy --batch-sizes 1,4,8
    """
    from joulec.runtime.artifact import check_writable

    check_writable(output)
    options = _options(
        objective, max_time, max_power, max_energy, batch_sizes, input_shapes,
        target=target, alpha=alpha, budget=budget, inner=inner.value, distance=distance, costs=costs, meter=meter,
        protocol=protocol.value, max_error=max_error, exclude_algorithms=tuple(exclude_algorithm or ()),
        search_time_s=search_time, seed=seed, threads=threads,
    )  # fmt: skip
    from joulec.compiler import compile_model
    from joulec.render import Display, show_compiled

    with Display() as display:
        compiled = compile_model(model, options, display)
        with compiled.model as result:
            display.stage("writing the artifact")
            result.save(output)
    if as_json:
        _print_json(compiled.report)
    show_compiled(compiled.report, compiled.meter, output)


@app.command()
@_catch
def optimize(
    model: ModelPath,
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
    costs: Costs = None,
    meter: MeterName = "auto",
    protocol: ProtocolName = Protocol.adaptive,
    exclude_algorithm: Exclude = None,
    search_time: SearchTime = None,
    seed: Seed = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Search MODEL's graphs and algorithms; nothing is compiled.

    Example: joulec optimize model.onnx --objective '0.5*energy + 0.5*time' --costs model
    """
    options = _options(
        objective, max_time, max_power, max_energy, batch_sizes, input_shapes,
        target=target, alpha=alpha, budget=budget, inner=inner.value, distance=distance, costs=costs, meter=meter,
        protocol=protocol.value, exclude_algorithms=tuple(exclude_algorithm or ()), search_time_s=search_time,
        seed=seed, threads=threads,
    )  # fmt: skip
    from joulec.render import Display, show_optimized
    from joulec.searching import optimize_model

    with Display() as display:
        report, why = optimize_model(model, options, display)
    if as_json:
        _print_json(report)
    show_optimized(report, why)


@app.command()
@_catch
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
    protocol: ProtocolName = Protocol.adaptive,
    exclude_algorithm: Exclude = None,
    time_budget: Annotated[
        float | None, typer.Option("--time-budget", parser=_quantity("s"), help="Stop after this time, e.g. 2m.")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Fill the cost database with what a search of MODEL needs.

    Example: joulec profile model.onnx --time-budget 2m
    """
    options = _options(
        objective, None, None, None, batch_sizes, input_shapes,
        target=target, alpha=alpha, budget=budget, costs=costs, meter=meter, protocol=protocol.value,
        exclude_algorithms=tuple(exclude_algorithm or ()), threads=threads,
    )  # fmt: skip
    from joulec.render import Display, show_profiling
    from joulec.searching import profile_model

    with Display() as display:
        report = profile_model(model, options, display, time_budget)
    if as_json:
        _print_json(report)
    show_profiling(report)


@app.command()
@_catch
def run(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A compiled model.", show_default=False)],
    inputs: Annotated[Path | None, typer.Option(help="Inputs by name (.npz); random ones when left out.")] = None,
    outputs: Annotated[Path | None, typer.Option(help="Where outputs go (.npz).")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Timed calls, with --print-time.")] = 20,
    print_time: Annotated[bool, typer.Option("--print-time", help="Measure the latency.")] = False,
    power_cap: Annotated[
        float | None, typer.Option("--power-cap", parser=_quantity("W"), help="Run beneath this power, e.g. 150W.")
    ] = None,
    cap_file: Annotated[
        Path | None, typer.Option(help="File that holds the cap and may change, or a trace t_s,cap_w (.csv).")
    ] = None,
    policy: Annotated[str, typer.Option(help="Batch-size policy.")] = "paper",
    cap_margin: Annotated[float, typer.Option(min=0.0, max=1.0, help="Power is kept in [margin·cap, cap].")] = 0.8,
    latency_slo: Annotated[
        float | None,
        typer.Option("--latency-slo", parser=_quantity("s"), help="Slower batch sizes are not used."),
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", parser=_quantity("s"), help="Keep it busy this long, e.g. 20s.")
    ] = None,
    meter: Annotated[str | None, typer.Option(help="auto, rapl, nvml, estimate or scripted:FILE.")] = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run a compiled model: once, or for a while beneath a power cap.

    Example: joulec run model.joulec --power-cap 150W --duration 20s
    """
    from joulec.render import show_run
    from joulec.running import RunOptions, run_artifact

    options = RunOptions(
        inputs=inputs, outputs=outputs, repeat=repeat, print_time=print_time, power_cap_w=power_cap,
        cap_file=cap_file, policy=policy, cap_margin=cap_margin, latency_slo_s=latency_slo, duration_s=duration,
        meter=meter, threads=threads, seed=seed,
    )  # fmt: skip
    report = run_artifact(artifact, options)
    if as_json:
        _print_json(report)
    show_run(report)


@database.command("info")
@_catch
def database_info(costs: Costs = None, as_json: AsJson = False) -> None:
    """Say what the cost database holds.

    Example: joulec db info --json
    """
    from joulec.costdb.open import open_store
    from joulec.render import info_json, show_info

    with open_store(costs) as store:
        info = info_json(store.info())
    if as_json:
        _print_json(info)
    else:
        show_info(info)


@app.command()
@_catch
def devices(as_json: AsJson = False) -> None:
    """List this machine's devices and the meters that can be read.

    Example: joulec devices
    """
    from dataclasses import asdict

    from joulec.profiler.device import devices as find_devices
    from joulec.render import show_devices

    found = [asdict(device) for device in find_devices()]
    if as_json:
        _print_json({"devices": found})
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


def _print_json(report: Any) -> None:
    text = json.dumps(report, indent=1, allow_nan=False)
    try:
        typer.echo(text)
    except BrokenPipeError as error:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(OUR_ERROR) from error


def main() -> None:
    """Entry point of the ``joulec`` command."""
    sys.exit(_run())


def _run() -> int:
    """Parse the command line and carry it out; the exit code."""
    try:
        return app(prog_name="joulec", standalone_mode=False) or 0
    except typer.Abort:
        return INTERRUPTED
    except _USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            where = error.ctx.command_path if error.ctx is not None else "joulec"
            _say_error(f"{error.format_message().rstrip('.')} (see {where} --help)")
        return USER_ERROR
