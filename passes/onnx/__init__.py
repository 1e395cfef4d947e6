"""ONNX models to graphs and back."""
