"""Which TVM is installed, told without importing it: 0.19 brings Relay, 0.27 has it no more."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Frontend = Literal["relax", "relay"]

_NEEDS: dict[Frontend, tuple[str, str]] = {
    "relax": ("Relax", "TVM 0.27"),
    "relay": ("Relay", "TVM 0.19"),
}


def installed_frontend() -> Frontend | None:
    """The back end that the installed TVM serves; None without TVM."""
    found = find_spec("tvm")
    if found is None or not found.submodule_search_locations:
        return None
    folders = [Path(folder) for folder in found.submodule_search_locations]
    return "relay" if any((folder / "relay").is_dir() for folder in folders) else "relax"


def require_tvm(frontend: Frontend) -> None:
    """Make sure that the TVM of a back end is installed.

    Raises:
        ImportError: it is missing, or the other one is there; the message names the extra.
    """
    there = installed_frontend()
    if there == frontend:
        return
    name, version = _NEEDS[frontend]
    extra = f"pip install 'joulec[{frontend}]'"
    if there is None:
        raise ImportError(f"the {name} back end needs {version}, and no TVM is installed; install the extra: {extra}")
    other = _NEEDS[there][1]
    raise ImportError(
        f"the {name} back end needs {version}, but {other} is installed, and both cannot be at once; "
        f"in an environment of its own, install the extra: {extra}"
    )
