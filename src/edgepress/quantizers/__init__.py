"""The quantizer table: name → module with `NAME`, `FORMATS`, `SCHEMES` and `quantize(data, request)`; imported only when one is used."""
from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Callable, Mapping, Optional

from edgepress.errors import UnsupportedError, nearest

if TYPE_CHECKING:
    from edgepress.quantizers.samples import Samples
    from edgepress.runtimes.base import TensorInfo

BACKENDS: Mapping[str, str] = {"ai_edge_quantizer": "edgepress.quantizers.tflite", "tflite_converter": "edgepress.quantizers.tflite_converter",
                               "onnxruntime": "edgepress.quantizers.onnx"}
DEFAULT: Mapping[str, str] = {"tflite": "ai_edge_quantizer", "onnx": "onnxruntime"}


@dataclass(frozen=True)
class Request:
    """What a back-end is asked to make."""

    scheme: str
    samples: Callable[["TensorInfo"], "Samples"]  # calibration inputs for a file with this input; an error where there are none
    method: str = "minmax"
    per_channel: bool = True
    dense_per_tensor: bool = False  # for runtimes that read only the first scale of a FULLY_CONNECTED weight
    signed_activations: bool = True  # ONNX: int8 rather than uint8
    reduce_range: bool = False  # ONNX: 7-bit weights


def load_backend(name: Optional[str], form: str, scheme: str) -> ModuleType:
    """The module that makes `scheme` for files of format `form`.

    Raises:
        UnsupportedError: this back-end knows neither this format nor this scheme.
    """
    chosen = DEFAULT[form] if name in (None, "auto") else name
    module = importlib.import_module(BACKENDS[chosen])
    if form not in module.FORMATS:
        raise UnsupportedError(f"{chosen} cannot read {form} files; it reads {' and '.join(module.FORMATS)}", f"use --backend {DEFAULT[form]}")
    if scheme not in module.SCHEMES:
        reason = module.REASONS.get(scheme, nearest(scheme, module.SCHEMES))
        raise UnsupportedError(f"{chosen} cannot make {scheme}: {reason}", f"use --backend {DEFAULT[form]}" if chosen != DEFAULT[form] else "choose another scheme")
    return module
