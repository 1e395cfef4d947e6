"""A process in which TVM's ONNX frontend is tried: it may crash or hang. See `joulec.passes.servant`."""

from __future__ import annotations

from joulec.passes.relax.frontend import attempt
from joulec.passes.servant import serve

if __name__ == "__main__":
    serve(attempt)
