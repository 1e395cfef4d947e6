"""What the first paper prints in its Tables 1 to 5, copied by hand; nothing of it is computed here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """A cell group in the paper's units; energy in J per 1000 inferences is mJ per inference."""

    time_ms: float
    power_w: float
    energy_mj: float


MIX = "0.5 power + 0.5 energy"

NORMAL_TIME_S = 0.843e-3
NORMAL_POWER_W = 91.8
NORMAL_ENERGY_J = 77.40e-3
"""What mixed objectives on SqueezeNet are relative to."""

TABLE_1 = {
    "conv1": {"A": Figures(0.0195, 144.5, 2.81), "B": Figures(0.0209, 84.0, 1.75)},
    "conv2": {"A": Figures(0.00941, 58.0, 0.545), "B": Figures(0.0175, 47.0, 0.822)},
    "conv3": {"A": Figures(0.165, 190.8, 31.4), "B": Figures(0.146, 116.0, 16.9), "C": Figures(0.083, 144.0, 11.9)},
}
TABLE_2 = (
    Figures(0.862, 80.78, 69.66),
    Figures(0.801, 83.28, 66.73),
    Figures(0.778, 84.10, 65.42),
    Figures(0.758, 84.77, 64.33),
    Figures(0.740, 85.49, 63.32),
    Figures(0.721, 86.53, 62.43),
    Figures(0.696, 89.20, 62.13),
    Figures(0.686, 90.45, 62.12),
)
"""The estimated values."""
TABLE_3 = {
    "SqueezeNet": {
        "origin": Figures(0.916, 101.2, 92.72),
        "MetaFlow best time": Figures(0.749, 112.1, 84.04),
        "best time": Figures(0.683, 107.2, 73.26),
        "best energy": Figures(0.736, 86.50, 63.67),
        "best power": Figures(2.183, 59.20, 129.2),
        MIX: Figures(0.935, 75.40, 70.52),
    },
    "ResNet": {
        "origin": Figures(2.079, 79.55, 165.4),
        "MetaFlow best time": Figures(2.033, 80.00, 162.6),
        "best time": Figures(1.926, 78.00, 150.2),
        "best energy": Figures(1.982, 75.00, 148.6),
        "best power": Figures(6.540, 52.27, 341.9),
        MIX: Figures(2.233, 67.81, 151.4),
    },
}
TABLE_4 = {
    "best time": (0.0, Figures(0.683, 107.2, 73.26)),
    "0.8 time + 0.2 energy": (0.2, Figures(0.693, 101.2, 70.16)),
    "0.6 time + 0.4 energy": (0.4, Figures(0.707, 93.50, 66.13)),
    "0.4 time + 0.6 energy": (0.6, Figures(0.719, 89.00, 64.06)),
    "0.2 time + 0.8 energy": (0.8, Figures(0.715, 89.33, 63.88)),
    "best energy": (1.0, Figures(0.736, 86.50, 63.67)),
}
"""The weight on energy, and the figures."""
TABLE_5 = {
    "origin": Figures(0.916, 101.0, 92.72),
    "outer search only": Figures(0.776, 108.0, 83.87),
    "inner search only": Figures(0.843, 91.8, 77.40),
    "both": Figures(0.736, 86.5, 63.67),
}
