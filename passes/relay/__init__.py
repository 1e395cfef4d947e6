"""The Relay back end (TVM 0.19)."""

from joulec.tvm_version import require_tvm

require_tvm("relay")

from joulec.passes.relay.energy_aware import EnergyAwareOptimize  # noqa: E402

__all__ = ["EnergyAwareOptimize"]
