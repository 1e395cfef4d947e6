"""The compiling back ends and what `joulec.compiler` needs of each, loaded when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulec.tvm_version import Frontend, installed_frontend, require_tvm

if TYPE_CHECKING:
    from joulec.passes.graph import Graph
    from joulec.passes.verification import Reference
    from joulec.passes.workbench import Workbench


@dataclass(frozen=True)
class Tools:
    """One back end.

    Attributes:
        frontend: its name.
        workbench: the kind of bench on which it searches.
        exporter: makes an exporter (`add` per graph, then `finish`) for a target.
        build_library: compiles what was exported to a shared library.
        prepare: an IRModule with its entry as ``main`` and shapes fixed (entry or None, input shapes, batch or None),
            and whether a dimension became the batch.
        import_module: an IRModule's ``main`` as a graph.
        reference: what computes an unoptimised IRModule, with the names of its inputs.
        families: names of algorithms that may be left out.
    """

    frontend: Frontend
    workbench: type[Workbench]
    exporter: Callable[[Any], Any]
    build_library: Callable[[Any, Any, Path], None]
    prepare: Callable[[Any, str | None, Mapping[str, Sequence[int]], int | None], tuple[Any, bool]]
    import_module: Callable[[Any], Graph]
    reference: Callable[[Any, Sequence[str]], Reference]
    families: tuple[str, ...]


def chosen_frontend(asked: str | None) -> Frontend:
    """The back end asked for, or the one that the installed TVM serves; Relax where there is none.

    Raises:
        ImportError: its TVM is missing, or the other one is installed; the message names the extra.
    """
    frontend: Frontend = "relay" if (asked or installed_frontend()) == "relay" else "relax"
    require_tvm(frontend)
    return frontend


def load_tools(frontend: Frontend) -> Tools:
    """The tools of a back end whose TVM is installed."""
    return _relay() if frontend == "relay" else _relax()


def _relax() -> Tools:
    from joulec.passes.kernels.cuda.registry import CUDA_KERNELS
    from joulec.passes.kernels.registry import KERNELS
    from joulec.passes.relax.agreement import ALGORITHM
    from joulec.passes.relax.build import build_library
    from joulec.passes.relax.entry import prepared
    from joulec.passes.relax.export import Exporter
    from joulec.passes.relax.importer import import_relax
    from joulec.passes.relax.reference import relax_reference
    from joulec.passes.relax.workbench import Workbench

    names = [kernel.name for kernel in KERNELS] + [kernel.name for kernel in CUDA_KERNELS]
    families = tuple(dict.fromkeys([*names, ALGORITHM]))
    return Tools(
        "relax", Workbench, lambda target: Exporter(), build_library, prepared, import_relax, relax_reference, families
    )


def _relay() -> Tools:
    from joulec.passes.relay.algorithm import FAMILIES
    from joulec.passes.relay.build import build_library
    from joulec.passes.relay.export import Exporter
    from joulec.passes.relay.importer import import_relay
    from joulec.passes.relay.reference import relay_reference
    from joulec.passes.relay.workbench import Workbench

    return Tools("relay", Workbench, Exporter, build_library, _as_it_is, import_relay, relay_reference, FAMILIES)


def _as_it_is(
    module: Any, entry: str | None, input_shapes: Mapping[str, Sequence[int]], batch: int | None
) -> tuple[Any, bool]:
    """A Relay module, whose shapes are fixed when it is made.

    Raises:
        ImportModuleError: something else than `main` as it stands is asked for.
    """
    from joulec.passes.module_errors import ImportModuleError

    if entry not in (None, "main") or input_shapes:
        raise ImportModuleError(
            "of a Relay module 'main' is compiled, for its own shapes; give neither entry nor shapes"
        )
    return module, False
