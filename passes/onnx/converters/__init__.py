"""One converter per ONNX operator that joulec models; one file per family."""

from collections.abc import Mapping

from joulec.passes.onnx.converters import convolution, elementwise, matmul, normalisation, pooling, views
from joulec.passes.onnx.converters.base import Builder, Converter, Source

CONVERTERS: Mapping[str, Converter] = {
    **convolution.CONVERTERS,
    **elementwise.CONVERTERS,
    **matmul.CONVERTERS,
    **normalisation.CONVERTERS,
    **pooling.CONVERTERS,
    **views.CONVERTERS,
}
"""By ONNX operator type. A converter returns the node's results, or None where joulec's operators do not cover it."""

__all__ = ["CONVERTERS", "Builder", "Converter", "Source"]
