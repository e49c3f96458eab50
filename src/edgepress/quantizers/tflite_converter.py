"""Quantize a float TFLite file with TFLiteConverter's own post-training quantizer, run on the flatbuffer: the second opinion.

`TFLiteConverter.convert()` makes a float flatbuffer, calibrates it (writes minimum and maximum into each tensor) and hands it to an MLIR
pass. The last two steps need no Keras model, so they work here on any float file, with the ranges of our own calibration.
"""
from __future__ import annotations

import copy
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from edgepress import flatbuffer
from edgepress.converters.quiet import captured_output
from edgepress.quantizers import Request, static_tflite
from edgepress.quantizers.calibration import Range
from edgepress.tf import import_tensorflow

NAME = "tflite_converter"
FORMATS = ("tflite",)
SCHEMES = ("static_wi8_ai8",)
_NEEDS_KERAS = "TFLiteConverter makes it while it converts, from the Keras model; it has no step for a finished float file"
REASONS: Mapping[str, str] = {"float16": _NEEDS_KERAS, "dynamic_wi8_afp32": _NEEDS_KERAS, "weight_only_wi8_afp32": "TFLiteConverter has no weight-only scheme",
                              "static_wi8_ai16": "its 16-bit quantizer is the deprecated one outside MLIR and calibrates by itself"}


def quantize(data: bytes, request: Request) -> Tuple[bytes, Dict[str, Any]]:
    """Bytes of the quantized file and what quantization.json says about how they were made.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
        ModelError: the converter refused the file; what it printed is in the message.
    """
    model = flatbuffer.parse_model(data, source="the float file")
    samples, prepared = static_tflite.prepare_file(model, request, fold=True)
    kept = static_tflite.keep_float(prepared.model)
    quantized = run_converter(with_ranges(prepared.model, prepared.ranges), keep_float=kept, per_channel=request.per_channel,
                              dense_per_tensor=request.dense_per_tensor, integer_input=prepared.folded is not None)
    recipe = {"quantizer": "tensorflow.lite mlir_quantize", "keep_float": kept, "per_channel": request.per_channel, "dense_per_tensor": request.dense_per_tensor}
    finished, done = static_tflite.finish(quantized, prepared)
    return finished, {"recipe": recipe, **static_tflite.facts(samples, prepared, kept, request), **done}


def with_ranges(model: Any, ranges: Mapping[str, Range]) -> bytes:
    """The float file with `ranges` in its tensors, as the converter's calibrator leaves them."""
    schema = flatbuffer.import_schema()
    model = copy.deepcopy(model)
    for tensor in model.subgraphs[0].tensors:
        limits = ranges.get(tensor.name.decode("utf-8", "replace"))
        if limits is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.min, tensor.quantization.max = (np.array([value], np.float32) for value in limits)
    return flatbuffer.pack_model(model)


def run_converter(data: bytes, *, keep_float: Sequence[str], per_channel: bool, dense_per_tensor: bool, integer_input: bool) -> Any:
    """The quantized ModelT. The output stays float32; so does the input unless `integer_input`.

    Raises:
        ModelError: the converter refused the file.
    """
    tensorflow, _ = import_tensorflow()
    converter = _converter_module(tensorflow)
    with captured_output("quantizing with TFLiteConverter", hint="use --backend ai_edge_quantizer"):
        result = converter.mlir_quantize(data, disable_per_channel=not per_channel, input_data_type=tensorflow.int8 if integer_input else tensorflow.float32,
                                         denylisted_nodes=set(keep_float), disable_per_channel_for_dense_layers=dense_per_tensor)
    return flatbuffer.parse_model(bytes(result), source="the quantized file")


def _converter_module(tensorflow: Any) -> Any:
    """tensorflow/lite/python/convert.py: not public, but where TFLiteConverter itself gets its quantizer from."""
    import importlib

    return importlib.import_module(f"{tensorflow.__name__}.lite.python.convert")
