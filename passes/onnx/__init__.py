"""ONNX models to graphs and back."""

from joulec.passes.onnx.errors import ModelError
from joulec.passes.onnx.exporter import ExportError, export_onnx
from joulec.passes.onnx.importer import ImportedModel, import_onnx

__all__ = ["ExportError", "ImportedModel", "ModelError", "export_onnx", "import_onnx"]
