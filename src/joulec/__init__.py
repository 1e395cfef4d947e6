"""joulec: an energy-aware compiler and power-capped runtime for neural networks."""

__version__ = "0.1.0"
