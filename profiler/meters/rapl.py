"""CPU energy from the RAPL counters that Linux shows under ``/sys/class/powercap``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from joulec.costdb.cost import EnergySource
from joulec.profiler.candidate import NO_WORK, Work
from joulec.profiler.meter import MeterError, Reading

POWERCAP_ROOT = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"intel-rapl:\d+")
_STEP_S = 1e-3
"""The counters step about once a millisecond: both ends of a window together are off by less, most of the time."""
_HIGHEST_PACKAGE_W = 1000.0
"""No package draws more for long: how soon a counter can come round to where it was."""


@dataclass(frozen=True)
class Domain:
    """One counter: a package (``package-0``) or the memory behind it (``package-0/dram``).

    Attributes:
        label: for people.
        energy_file: counter in microjoules.
        range_uj: the counter's highest value; after it comes zero.
    """

    label: str
    energy_file: Path
    range_uj: int

    def read_uj(self) -> int:
        """The counter in microjoules.

        Raises:
            MeterError: it cannot be read, with what to do about it.
        """
        return _read_int(self.energy_file)


def rapl_domains(root: Path = POWERCAP_ROOT) -> tuple[Domain, ...]:
    """Every package of the machine and the DRAM domain of each, where it has one.

    Left out: ``core`` and ``uncore`` (parts of a package), ``psys`` (contains the packages) and ``intel-rapl-mmio``
    (the packages once more). AMD's processors appear under the same names.

    Raises:
        MeterError: the machine shows no package counter, or it cannot be read.
    """
    if not root.is_dir():
        raise MeterError(
            f"RAPL is not there: {root} does not exist. Load the kernel module (`modprobe intel_rapl_msr`); "
            "most virtual machines and all non-Linux systems have no RAPL: use --meter estimate there"
        )
    domains = []
    for package in sorted(path for path in root.iterdir() if _PACKAGE.fullmatch(path.name)):
        name = _read_text(package / "name")
        if not name.startswith("package"):
            continue
        domains.append(_domain(package, name))
        parts = (part for part in sorted(root.glob(f"{package.name}:*")) if _read_text(part / "name") == "dram")
        domains.extend(_domain(part, f"{name}/dram") for part in parts)
    if not domains:
        raise MeterError(
            f"RAPL is not there: {root} holds no package domain (intel-rapl:0). "
            "Load the kernel module (`modprobe intel_rapl_msr`), or use --meter estimate"
        )
    return tuple(domains)


def _domain(folder: Path, label: str) -> Domain:
    return Domain(label, folder / "energy_uj", _read_int(folder / "max_energy_range_uj"))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise MeterError(
            f"RAPL may not be read: no permission for {file}. Run `sudo chmod o+r "
            f"{file.parent.parent}/intel-rapl:*/energy_uj` (until the next boot), or for good the udev rule "
            'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod -f o+r /sys%p/energy_uj"'
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise MeterError(f"RAPL cannot be read: {file}: {error}. Use --meter estimate") from error


def _read_int(file: Path) -> int:
    text = _read_text(file)
    if not text.isdecimal():
        raise MeterError(f"RAPL cannot be read: {file} holds {text!r}, not a number. Use --meter estimate")
    return int(text)


class RaplMeter:
    """Energy of all packages and their memory, from counters that step about once a millisecond.

    The counters are the whole machine's: other processes' energy is in them.
    """

    name = "rapl"
    source: EnergySource = "rapl"
    window_s = 0.1

    def __init__(self, root: Path = POWERCAP_ROOT, clock: Callable[[], float] = time.perf_counter) -> None:
        """Find the domains and read each once.

        Raises:
            MeterError: no package domain is there, or a counter may not be read.
        """
        self.domains = rapl_domains(root)
        self._clock = clock
        self._start: tuple[float, tuple[int, ...]] | None = None
        for domain in self.domains:
            domain.read_uj()

    @property
    def longest_window_s(self) -> float:
        """Windows beyond this could hide a whole round of a counter."""
        return min(domain.range_uj for domain in self.domains) * 1e-6 / _HIGHEST_PACKAGE_W

    def begin(self) -> None:
        """Open a window.

        Raises:
            MeterError: a counter cannot be read.
        """
        counters = tuple(domain.read_uj() for domain in self.domains)
        self._start = (self._clock(), counters)

    def end(self, work: Work = NO_WORK) -> Reading:
        """Close the window; the work is ignored.

        Raises:
            MeterError: no window is open, a counter cannot be read, or the window was longer than `longest_window_s`.
        """
        if self._start is None:
            raise MeterError("end() without begin(): the RAPL meter has no window open")
        (start_s, before), self._start = self._start, None
        seconds = self._clock() - start_s
        after = [domain.read_uj() for domain in self.domains]
        if seconds > self.longest_window_s:
            raise MeterError(
                f"a RAPL window of {seconds:.0f} s is too long: the counter may have come round more than once "
                f"after {self.longest_window_s:.0f} s. Use several shorter windows"
            )
        used_uj = 0
        for domain, first, last in zip(self.domains, before, after, strict=True):
            used_uj += last - first if last >= first else last - first + domain.range_uj + 1
        spread = _STEP_S / seconds if seconds > 0 else None
        return Reading(seconds, used_uj * 1e-6, self.source, spread=spread)

    def close(self) -> None:
        """Nothing to release."""
        self._start = None
