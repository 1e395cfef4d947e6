"""What a user may ask of a compilation; the command line and the Python API share it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class CompileOptions:
    """Options of ``joulec compile`` and `joulec.compile`.

    Attributes:
        objective: an expression, a Python function of (totals, origin totals), or an `Objective`.
        max_time_s: bound on seconds per call of each batch size.
        max_energy_j: bound on joules per call.
        max_power_w: bound on mean watts.
        batch_sizes: batch sizes to compile for; None keeps the model's own shapes.
        input_shapes: shapes of inputs by name; needed for dynamic dimensions.
        entry: which function of an IRModule is compiled; None takes ``main``, or the only one that is public.
        target: TVM target, e.g. ``llvm`` (this machine), ``llvm -mcpu=haswell`` or ``cuda`` (its GPU 0).
        threads: worker threads; None takes the process's CPU affinity.
        alpha: relaxation of the outer search.
        budget: graphs that the outer search expands; 0 turns it off.
        inner: how algorithms are assigned.
        distance: d of the inner search's neighbourhood.
        bound_method: how bounds are kept: exactly, or by the best weights between time and energy.
        costs: the cost database's URL or path, ``model`` for a roofline, None for the user's own database.
        meter: ``auto``, ``nvml``, ``rapl`` or ``estimate``.
        energy_constants: constants of the estimate in place of the shipped ones (TOML).
        protocol: measurement protocol.
        exclude_algorithms: algorithm families that must not be used.
        max_error: largest relative error against the original that is accepted; None takes the default.
        search_time_s: seconds after which a search returns the best so far, measuring included.
        seed: seed of random inputs.
        retry_failed: measure again what failed in an earlier run.
        measure: time the compiled result; with ``costs="model"`` too, False compiles in a fraction of a second.
        frontend: ``relax`` or ``relay``; None takes the one that the installed TVM serves.
        tuning_records: a log of AutoTVM whose configurations are candidates too; Relay only.
        variants: ``frontier:3`` (or 3) compiles so many points of the frontier between time and energy into one
            artifact; None compiles the objective's best alone.
        report: where a page that shows what was found is to be written (.html); it has the frontier traced. None
            writes none.
    """

    objective: str | Callable[..., Any] | Any = "energy"
    max_time_s: float | None = None
    max_energy_j: float | None = None
    max_power_w: float | None = None
    batch_sizes: Sequence[int] | None = None
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    entry: str | None = None
    target: str = "llvm"
    threads: int | None = None
    alpha: float = 1.05
    budget: int = 300
    inner: Literal["exact", "neighbourhood", "none"] = "exact"
    distance: int = 2
    bound_method: Literal["exact", "weights"] = "exact"
    costs: str | None = None
    meter: str = "auto"
    energy_constants: Path | None = None
    protocol: Literal["adaptive", "paper"] = "adaptive"
    exclude_algorithms: tuple[str, ...] = ()
    max_error: float | None = None
    search_time_s: float | None = None
    seed: int = 0
    retry_failed: bool = False
    measure: bool = True
    frontend: Literal["relax", "relay"] | None = None
    tuning_records: str | None = None
    variants: str | int | None = None
    report: Path | str | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            OptionError: one is; the message names it.
        """
        positive = ("max_time_s", "max_energy_j", "max_power_w", "max_error", "search_time_s", "threads", "distance")
        for name in positive:
            value = getattr(self, name)
            _require(value is None or value > 0, name, "above 0", value)
        _require(self.alpha >= 1, "alpha", "at least 1", self.alpha)
        _require(self.budget >= 0, "budget", "at least 0", self.budget)
        _require(self.seed >= 0, "seed", "at least 0", self.seed)
        for name, known in (
            ("inner", ("exact", "neighbourhood", "none")),
            ("bound_method", ("exact", "weights")),
            ("protocol", ("adaptive", "paper")),
            ("frontend", (None, "relax", "relay")),
        ):
            _require(
                getattr(self, name) in known, name, f"one of {', '.join(filter(None, known))}", getattr(self, name)
            )


class OptionError(ValueError):
    """An option's text that cannot be read."""


def check_artifact(path: Path) -> None:
    """Say what to do where nothing, or a model, stands in the place of an artifact.

    Raises:
        OptionError: there is no such file, or it is called as ONNX models are.
    """
    if not path.exists():
        raise OptionError(f"{path} does not exist; name an artifact that joulec compile wrote")
    if path.suffix.lower() == ".onnx":
        artifact = path.with_suffix(".joulec")
        raise OptionError(f"{path} is an ONNX model: compile it first, e.g. joulec compile {path} -o {artifact}")


def _require(holds: bool, name: str, wanted: str, value: object) -> None:
    if not holds:
        raise OptionError(f"{name} must be {wanted}, not {value!r}")


def parse_batch_sizes(text: str) -> tuple[int, ...]:
    """``1,2,4,8`` as numbers.

    Raises:
        OptionError: they are not whole numbers from 1 on.
    """
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"--batch-sizes {text!r}: write whole numbers, e.g. 1,2,4,8") from error
    if min(sizes) < 1:
        raise OptionError(f"--batch-sizes {text!r}: a batch has at least one row")
    return sizes


def parse_input_shapes(*texts: str) -> dict[str, tuple[int, ...]]:
    """``name:[1,3,224,224] other:[1,10]`` (tvmc's form), once or several times, as shapes by name.

    Raises:
        OptionError: a text has another form, or an input is given two shapes.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        for name, shape in _shapes_in(text):
            if shapes.setdefault(name, shape) != shape:
                raise OptionError(
                    f"--input-shapes gives {name!r} both {list(shapes[name])} and {list(shape)}; give one"
                )
    return shapes


def _shapes_in(text: str) -> list[tuple[str, tuple[int, ...]]]:
    entry = r"([^\s,:\[\]][^\[\]]*?)\s*:\s*\[([\d\s,]*)\]"
    found = re.findall(entry, text)
    if not found or re.sub(entry, "", text).strip(" ,"):
        raise OptionError(f"--input-shapes {text!r}: write name:[1,3,224,224], several separated by a space")
    return [(name.strip(), tuple(int(size) for size in sizes.split(",") if size.strip())) for name, sizes in found]
