"""Meters: NVML, RAPL and the estimate, behind one contract (`joulec.profiler.meter.Meter`)."""

from joulec.profiler.meters.choose import ChosenMeter, DeviceKind, choose_meter
from joulec.profiler.meters.estimate import EnergyConstants, EstimateMeter, estimate_energy_j, load_constants
from joulec.profiler.meters.rapl import RaplMeter

__all__ = [
    "ChosenMeter",
    "DeviceKind",
    "EnergyConstants",
    "EstimateMeter",
    "RaplMeter",
    "choose_meter",
    "estimate_energy_j",
    "load_constants",
]
