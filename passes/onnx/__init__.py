"""ONNX models to graphs."""

from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.importer import ImportedModel, import_onnx

__all__ = ["ImportedModel", "ModelError", "import_onnx"]
