"""The second paper's twenty jobs (Table 2) on a model of its Tesla P40.

The paper prints the clocks, 50 W and 250 W, the batch sizes, the complexity of each network (Table 1) and where
throughput saturates; it prints no throughput and no power of a configuration. Everything else here is a choice that
agrees with its text, so results are a model's and not the card's. The frugal variant's factors are those between "best
time" and "best energy" in the first paper's Table 3.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from joulec.runtime.policies.protocol import Prediction, Predictions
from joulec.runtime.simulator.device import (
    Curve,
    Device,
    Noise,
    Power,
    Sensor,
    Spikes,
    Temperature,
    Time,
    Variant,
)
from joulec.runtime.simulator.traces import Trace

P40_CLOCKS_MHZ = (544, 632, 734, 835, 949, 1063, 1189, 1303, 1430, 1531)
PAPER_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MFLOPS = {
    "IncV1": 13.22, "IncV2": 22.34, "IncV3": 54.25, "MobV1": 8.42, "MobV2": 6.94,
    "NASNET": 10.51, "PNASNET": 10.06, "Res50": 51.01, "Res101": 88.89, "Res152": 120.08,
}  # fmt: skip
_CAPS_W = {
    "ImageNet": (191, 123, 228, 195, 84, 159, 246, 143, 167, 218),
    "Caltech": (125, 192, 165, 98, 208, 135, 136, 198, 236, 188),
}
_FRUGAL = {"Inc": Variant(1.058, 0.88), "Res": Variant(1.029, 0.962)}
_SMALL = Variant(1.078, 0.807)


@dataclass(frozen=True)
class Job:
    """What runs: a device, a cap and a load over time. ``steady``: neither changes."""

    name: str
    device: Device
    cap_w: Trace
    arrivals: Trace | None = None
    steady: bool = True


def p40(network: str, dataset: str) -> Device:
    """The model of a P40 that runs one of Table 1's networks on one of the two datasets.

    Computing takes 49 us per row and MFLOP of Table 1 at full efficiency; small networks need more rows to fill the
    card. Images of ImageNet take longer to prepare than those of Caltech 256 (Section 3: with them MobileNet hardly
    gains by a larger batch).
    """
    size = _MFLOPS[network] / max(_MFLOPS.values())
    half = 2.0 + 4.0 * (1 - size)
    return Device(
        name=f"P40 {network} {dataset}",
        time=Time(
            work_s=49e-6 * _MFLOPS[network],
            overhead_s=0.003,
            preparation_s=0.0006 if dataset == "ImageNet" else 0.0002,
            clock_share=0.85,
            efficiency=Curve(half_batch=half),
        ),
        power=Power(
            idle_w=50.0,
            full_w=130.0 + 110.0 * size**0.5,
            max_w=250.0,
            preparation_w=70.0,
            clock_exponent=2.0,
            load=Curve(half_batch=half),
        ),
        batches=PAPER_BATCHES,
        clocks_hz=tuple(mhz * 1e6 for mhz in P40_CLOCKS_MHZ),
        variants=(Variant(), _FRUGAL.get(network[:3], _SMALL)),
        temperature=Temperature(0.2, 60.0, 0.0008),
        noise=Noise(time=0.01, power=0.004, sensor=0.008),
        spikes=Spikes(share=0.2, height=0.05),
        sensor=Sensor(period_s=0.1, window_s=0.1),
    )


def paper_jobs() -> list[Job]:
    """Table 2, in its order."""
    return [
        Job(f"{number} {network} {dataset}", p40(network, dataset), Trace.constant(float(cap_w)))
        for number, (dataset, network, cap_w) in enumerate(
            (
                (dataset, network, cap)
                for dataset, caps in _CAPS_W.items()
                for network, cap in zip(_MFLOPS, caps, strict=True)
            ),
            1,
        )
    ]


def prior(device: Device, seed: int, error: float = 0.2) -> Predictions:
    """What an optimizer might predict: the truth, each entry off by up to ``error`` on its own."""
    chance = random.Random(seed)
    return Predictions(
        {
            item: Prediction(
                device.batch_s(item) * (1 + chance.uniform(-error, error)),
                device.window_w(item) * (1 + chance.uniform(-error, error)),
            )
            for item in device.space
        },
        error,
    )
