"""The Relax back end (TVM 0.27)."""

try:
    import tvm.relax  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the Relax back end needs TVM 0.27 ({error}); install the extra: pip install 'joulec[relax]'"
    ) from error

from joulec.passes.relax.energy_aware import EnergyAwareOptimize

__all__ = ["EnergyAwareOptimize"]
