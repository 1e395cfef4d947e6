"""What the commands share: their options, and how they end."""

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

from joulec import interrupts
from joulec.completion import meters
from joulec.errors import OUR_ERROR, exit_code
from joulec.quantities import QuantityError, Unit, parse_quantity

if TYPE_CHECKING:
    from joulec.options import CompileOptions

_P = ParamSpec("_P")


class BoundMethod(StrEnum):
    """How bounds are kept."""

    exact = "exact"
    weights = "weights"


class FrontendName(StrEnum):
    """Compiling back ends."""

    relax = "relax"
    relay = "relay"


class Inner(StrEnum):
    """How algorithms are assigned."""

    exact = "exact"
    neighbourhood = "neighbourhood"
    none = "none"


class Protocol(StrEnum):
    """Measurement protocols."""

    adaptive = "adaptive"
    paper = "paper"


def quantity(unit: Unit) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            return parse_quantity(text, unit)
        except QuantityError as error:
            raise typer.BadParameter(str(error)) from error

    parse.__name__ = {"s": "TIME", "W": "POWER", "J": "ENERGY"}[unit]
    return parse


def catch(command: Callable[_P, None]) -> Callable[_P, None]:
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
        interrupts.said()
        text = "interrupted; what was measured is kept"
    elif code == OUR_ERROR and not type(error).__module__.startswith("joulec."):
        text = f"{type(error).__name__}: {text} (JOULEC_TRACEBACK=1 shows where)"
    say_error(text)
    raise typer.Exit(code)


_LONGEST = 4000
"""Characters of an error beyond which nobody reads it: compilers quote whole programs."""


def say_error(text: str) -> None:
    line = " ".join(text.split())
    typer.echo(f"joulec: error: {line if len(line) <= _LONGEST else line[:_LONGEST] + ' …'}", err=True)


ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Objective = Annotated[
    str, typer.Option(help="Expression of time, energy, power (ratios to the original) or time_s, energy_j, power_w.")
]
MaxTime = Annotated[
    float | None, typer.Option("--max-time", parser=quantity("s"), help="Bound on time per call, e.g. 2ms.")
]
MaxPower = Annotated[
    float | None, typer.Option("--max-power", parser=quantity("W"), help="Bound on mean power, e.g. 90W.")
]
MaxEnergy = Annotated[
    float | None, typer.Option("--max-energy", parser=quantity("J"), help="Bound on energy per call, e.g. 60mJ.")
]
BatchSizes = Annotated[str | None, typer.Option(help="Batch sizes to compile for, e.g. 1,2,4,8.")]
InputShapes = Annotated[
    list[str] | None, typer.Option(help="Shapes of inputs, e.g. 'data:[1,3,224,224]'; may be repeated.")
]
Target = Annotated[
    str, typer.Option(help="TVM target, e.g. 'llvm -mcpu=haswell'; llvm is this machine, cuda its GPU 0.")
]
Alpha = Annotated[float, typer.Option(min=1.0, help="Graphs that cost less than alpha times the best are kept.")]
Budget = Annotated[int, typer.Option(min=0, help="Graphs that the outer search expands; 0 turns it off.")]
InnerMode = Annotated[Inner, typer.Option(help="How algorithms are assigned.")]
Distance = Annotated[int, typer.Option(min=1, help="Nodes that the neighbourhood search changes at once.")]
BoundBy = Annotated[
    BoundMethod,
    typer.Option(
        "--bound-method", help="How bounds are kept: exactly, or by the best weights between time and energy."
    ),
]
Costs = Annotated[
    str | None,
    typer.Option(
        help="Cost database (path or URL); 'model' for a roofline; mlsys20:FILE replays rows (optimize only). "
        "Default: your own database."
    ),
]
MeterName = Annotated[
    str,
    typer.Option(
        "--meter", help="auto, rapl, nvml, zeus, estimate, record:FILE or replay:FILE.", autocompletion=meters
    ),
]
EnergyConstants = Annotated[
    Path | None,
    typer.Option("--energy-constants", metavar="FILE", help="Constants of the estimate for your target (.toml)."),
]
ProtocolName = Annotated[Protocol, typer.Option(help="How candidates are measured.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Measure again what failed in an earlier run.")]
Measured = Annotated[
    bool,
    typer.Option(
        "--measure/--no-measure",
        help="Time the compiled result; --costs model --no-measure times nothing but what runs before or after the "
        "compiled function (models in parts).",
    ),
]
MaxError = Annotated[float | None, typer.Option(help="Largest relative error that verification accepts.")]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude-algorithm", help="Algorithm family not to use; may be repeated.")
]
SearchTime = Annotated[
    float | None, typer.Option("--search-time", parser=quantity("s"), help="End each search after this time.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random inputs.")]
Frontend = Annotated[
    FrontendName | None, typer.Option(help="Back end; default: the one that the installed TVM serves.")
]
Variants = Annotated[
    str | None,
    typer.Option(
        metavar="frontier:N",
        help="Put N points of the frontier between time and energy into the artifact, from fast to frugal; a session "
        "chooses among them.",
    ),
]
ReportPage = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="Write one page that shows what was found: graphs, operators, frontier, sources.",
    ),
]
TuningRecords = Annotated[
    str | None,
    typer.Option("--tuning-records", metavar="FILE", help="Log of AutoTVM to choose from too, with --frontend relay."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Worker threads; default: the CPUs this process may use.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def make_options(
    objective: str,
    max_time: float | None,
    max_power: float | None,
    max_energy: float | None,
    batch_sizes: str | None,
    input_shapes: list[str] | None,
    **rest: Any,
) -> CompileOptions:
    from joulec.options import CompileOptions, parse_batch_sizes, parse_input_shapes

    return CompileOptions(
        objective=objective,
        max_time_s=max_time,
        max_power_w=max_power,
        max_energy_j=max_energy,
        batch_sizes=None if batch_sizes is None else parse_batch_sizes(batch_sizes),
        input_shapes=parse_input_shapes(*(input_shapes or ())),
        **rest,
    )


def print_json(report: Any) -> None:
    text = json.dumps(report, indent=1, allow_nan=False)
    try:
        typer.echo(text)
    except BrokenPipeError as error:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(OUR_ERROR) from error
