"""The Python API from a model to answers: compile, call, look at what was found, save, load.

Costs come from a roofline here, so that nothing but the result is measured and the example takes seconds; leave
``costs="model"`` out to measure operators on your machine.

    python examples/python_api.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from small_model import small_model

import joulec


def main() -> None:
    """Compile a small model for two batch sizes and use it."""
    x = np.random.default_rng(1).standard_normal((5, 3, 16, 16)).astype("float32")
    with joulec.compile(small_model(), objective="energy", batch_sizes=[1, 4], costs="model") as model:
        y = model(x)  # any number of rows: here one batch of 4 and one of 1
        print(f"{len(x)} rows in, {y.shape} out")
        for entry in model.manifest.entries:
            predicted, measured = entry.predicted, entry.measured
            print(f"batch {entry.batch}: predicted {predicted.time_s * 1e6:.1f} µs ({predicted.time_source}), ", end="")
            print(f"{measured.time_s * 1e6:.1f} µs ({measured.time_source})")
            print("  " + ", ".join(f"{one.node}: {one.algorithm}" for one in entry.assignment))
        with tempfile.TemporaryDirectory() as folder:
            path = model.save(Path(folder, "small.joulec"))
            with joulec.load(path) as loaded:
                same = np.allclose(loaded(x=x), y, rtol=1e-5, atol=1e-6)  # inputs by position or by name
                print(f"saved, {path.stat().st_size / 1e3:.0f} kB, loaded; same answers: {same}")


if __name__ == "__main__":
    main()
