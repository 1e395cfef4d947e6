"""The Relax back end (TVM 0.27)."""

from joulec.tvm_version import require_tvm

require_tvm("relax")

from joulec.passes.relax.energy_aware import EnergyAwareOptimize  # noqa: E402

__all__ = ["EnergyAwareOptimize"]
