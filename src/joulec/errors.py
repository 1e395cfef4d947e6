"""Which errors are the user's, and how the command line ends on each."""

from __future__ import annotations

import sys

USER_ERROR = 2
OUR_ERROR = 1
INTERRUPTED = 130

_USER_ERRORS = (
    ("joulec.passes.onnx.errors", "ModelError"),
    ("joulec.passes.module_errors", "ImportModuleError"),
    ("joulec.passes.module_errors", "BuildError"),
    ("joulec.passes.module_errors", "TuningRecordsError"),
    ("joulec.passes.kernels.target", "TargetError"),
    ("joulec.passes.search.objective", "ObjectiveError"),
    ("joulec.passes.search.choices", "CostingError"),
    ("joulec.sources", "SourceError"),
    ("joulec.passes.onnx.exporter_writer", "ExportError"),
    ("joulec.passes.replay.rows", "ReplayError"),
    ("joulec.passes.search.totals", "BoundsError"),
    ("joulec.quantities", "QuantityError"),
    ("joulec.profiler.meter", "MeterError"),
    ("joulec.costdb.store", "CostStoreError"),
    ("joulec.runtime.artifact", "ArtifactError"),
    ("joulec.runtime.external", "ExternalError"),
    ("joulec.runtime.machines", "GpuError"),
    ("joulec.profiler.nvcc", "NvccError"),
    ("joulec.runtime.inputs", "InputError"),
    ("joulec.runtime.variant", "VariantError"),
    ("joulec.runtime.cap", "CapError"),
    ("joulec.runtime.metrics", "MetricsError"),
    ("joulec.runtime.simulator.device", "DeviceError"),
    ("joulec.runtime.simulator.traces", "TraceError"),
    ("joulec.options", "OptionError"),
)


def exit_code(error: BaseException) -> int:
    """2 where the user can mend it, 130 for an interrupt, else 1."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    known = (getattr(sys.modules.get(module), name, None) for module, name in _USER_ERRORS)
    if any(isinstance(kind, type) and isinstance(error, kind) for kind in known):
        return USER_ERROR
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
        return USER_ERROR
    if isinstance(error, ImportError) and "joulec[" in str(error):
        return USER_ERROR
    return OUR_ERROR
