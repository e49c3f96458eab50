"""The converter table: format → module. Each writes one float file; `onnx` starts from the file that `tflite` wrote."""
from __future__ import annotations

from typing import Mapping

CONVERTERS: Mapping[str, str] = {"tflite": "edgepress.converters.tflite", "onnx": "edgepress.converters.onnx"}
