"""Energy from the work done: what remains where no sensor can be read."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import MeterError, Reading

CONSTANTS_FILE = Path(__file__).parent.parent / "energy_constants.toml"


@dataclass(frozen=True)
class EnergyConstants:
    """What an operation and a byte cost on one class of target; orders of magnitude, sources in the data file.

    Attributes:
        target_class: the table they come from, e.g. ``x86-64-avx512``.
        static_w: power that the target draws while the process runs, whatever it computes, all its threads included.
        flop_j: joules per arithmetic operation.
        dram_byte_j: joules per byte from or to memory.
        cache_byte_j: joules per byte between the second- or last-level cache and the core.
        register_byte_j: joules per byte between the first-level cache and registers.
    """

    target_class: str
    static_w: float
    flop_j: float
    dram_byte_j: float
    cache_byte_j: float
    register_byte_j: float

    def __str__(self) -> str:
        """In a line, for the provenance."""
        parts = (self.flop_j, self.dram_byte_j, self.cache_byte_j, self.register_byte_j)
        dynamic = " ".join(f"{one:g}" for one in parts)
        return f"{self.target_class}: {self.static_w:g} W; J per operation and byte {dynamic}"


_KEYS = frozenset(field.name for field in fields(EnergyConstants)) - {"target_class"} | {"thread_w"}


def load_constants(target_class: str, threads: int = 1, file: Path | None = None) -> EnergyConstants:
    """The constants of a class of target (`joulec.profiler.cpu.CpuFacts.isa`, or ``cuda``).

    Args:
        target_class: a table of the data file; an unknown class gets the table ``generic``.
        threads: busy threads; each adds the table's ``thread_w`` to the static power.
        file: a TOML file of the same form whose tables and keys take precedence over the shipped ones.

    Raises:
        MeterError: the file cannot be read, or holds a key or value that is none of the model's.
    """
    shipped = _read(CONSTANTS_FILE)
    own = _read(file) if file is not None else {}
    known = target_class in shipped or target_class in own
    table = {**shipped["generic"], **shipped.get(target_class, {}), **own.get(target_class if known else "generic", {})}
    static_w = table["static_w"] + threads * table["thread_w"]
    rest = {key: table[key] for key in _KEYS - {"static_w", "thread_w"}}
    return EnergyConstants(target_class=target_class if known else "generic", static_w=static_w, **rest)


def _read(file: Path) -> Mapping[str, Mapping[str, float]]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MeterError(f"cannot read the energy constants in {file}: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise MeterError(f"{file}: `{name}` stands outside a table; put it under a class such as [x86-64-avx512]")
        for key, value in table.items():
            if key not in _KEYS:
                raise MeterError(f"{file}: [{name}] has an unknown key `{key}`; known are {', '.join(sorted(_KEYS))}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise MeterError(f"{file}: [{name}] {key} = {value!r} is no finite number at or above zero")
    return tables


def estimate_energy_j(work: Work, seconds: float, constants: EnergyConstants) -> float:
    """Joules of one execution that does ``work`` in ``seconds``: static power times time, plus each operation and byte.

    The form is that of Molka et al. 2010 (see ``energy_constants.toml``).
    """
    return (
        constants.static_w * seconds
        + constants.flop_j * work.flops
        + constants.dram_byte_j * work.dram_bytes
        + constants.cache_byte_j * work.cache_bytes
        + constants.register_byte_j * work.register_bytes
    )


class EstimateMeter:
    """The meter for targets without a readable sensor: it measures time and computes joules from the work passed."""

    name = "estimate"
    source: EnergySource = "estimated"
    window_s = 0.0

    def __init__(self, constants: EnergyConstants, clock: Callable[[], float] = time.perf_counter) -> None:
        self.constants = constants
        self._clock = clock
        self._start_s: float | None = None

    def begin(self) -> None:
        """Open a window."""
        self._start_s = self._clock()

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window. Without any work the static part alone is known, so ``joules`` is None.

        Raises:
            MeterError: no window is open.
        """
        if self._start_s is None:
            raise MeterError("end() without begin(): the estimate meter has no window open")
        seconds, self._start_s = self._clock() - self._start_s, None
        joules = None if work == NO_WORK else estimate_energy_j(work, seconds, self.constants)
        return Reading(seconds, joules, self.source)

    def close(self) -> None:
        """Nothing to release."""
        self._start_s = None
