"""joulec: an energy-aware compiler and power-capped runtime for neural networks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joulec.runtime.model import Model
    from joulec.runtime.session import Session

__version__ = "0.1.0"
__all__ = ["Session", "compile", "load"]


def compile(
    model: Any,
    *,
    objective: Any = "energy",
    batch_sizes: Sequence[int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    progress: bool = False,
    **options: Any,
) -> Model:
    """Compile a model so that it costs the least under the objective.

    Args:
        model: path of an ONNX file, an ``onnx.ModelProto``, or a Relax IRModule.
        objective: an expression such as ``energy`` or ``0.5*energy + 0.5*time``, or a Python function of
            (totals, totals of the original graph).
        batch_sizes: batch sizes to compile for; the model's own when omitted.
        input_shapes: shapes of inputs by name; needed for dynamic dimensions.
        progress: say on standard error what is being done, as ``joulec compile`` does; a first compilation takes
            minutes.
        **options: ``entry="forward"`` (which function of an IRModule), ``variants="frontier:3"``,
            ``report="found.html"`` and the other fields of `joulec.options.CompileOptions`.

    Returns:
        The model, ready to be called; ``model.manifest`` says what was chosen, predicted and measured.

    Raises:
        ValueError: the model, the objective, the target or a bound cannot be honoured; the message says why.
        joulec.passes.verification.VerificationError: the result differs from the original; nothing is returned.
    """
    from contextlib import nullcontext

    from joulec.compiler import compile_model
    from joulec.options import CompileOptions
    from joulec.page import check_page, write_page
    from joulec.render import Display

    chosen = CompileOptions(
        objective=objective, batch_sizes=batch_sizes, input_shapes=dict(input_shapes or {}), **options
    )
    if chosen.report is not None:
        check_page(chosen.report)
    with Display() if progress else nullcontext() as display:
        compiled = compile_model(model, chosen, display)
    if chosen.report is not None:
        name = model if isinstance(model, str | os.PathLike) else type(model).__name__
        try:
            write_page(compiled, chosen, name, chosen.report)
        except BaseException:
            compiled.model.close()
            raise
    return compiled.model


def load(path: str | os.PathLike[str], *, threads: int | None = None, variant: str | None = None) -> Model:
    """Load an artifact that ``joulec compile`` or `Model.save` wrote; see `joulec.runtime.loading.load`."""
    from joulec.runtime.loading import load as load_model

    return load_model(path, threads=threads, variant=variant)


def __getattr__(name: str) -> Any:
    if name == "Session":
        from joulec.runtime.session import Session

        return Session
    if name in ("passes", "runtime"):
        import importlib

        return importlib.import_module(f"joulec.{name}")
    raise AttributeError(f"module 'joulec' has no attribute {name!r}")
