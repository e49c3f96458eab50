"""Quantize a float TFLite file with AI Edge Quantizer; TensorFlow is not needed."""
from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from edgepress import flatbuffer
from edgepress.converters.quiet import captured_output
from edgepress.errors import UnsupportedError, nearest
from edgepress.quantizers import Request, static_tflite
from edgepress.quantizers.calibration import Range

NAME = "ai_edge_quantizer"
FORMATS = ("tflite",)
STATIC_BITS = {"static_wi8_ai8": 8, "static_wi8_ai16": 16}
SCHEMES = ("float16", "dynamic_wi8_afp32", "weight_only_wi8_afp32", *STATIC_BITS)
REASONS: Mapping[str, str] = {}


def quantize(data: bytes, request: Request) -> Tuple[bytes, Dict[str, Any]]:
    """Bytes of the quantized file and what quantization.json says about how they were made.

    Raises:
        ModelError: the file cannot be quantized; the quantizer's reason is in the message.
    """
    model = flatbuffer.parse_model(data, source="the float file")
    if request.scheme in STATIC_BITS:
        return _quantize_static(model, request)
    recipe = make_recipe(request.scheme, per_channel=request.per_channel, dense_per_tensor=request.dense_per_tensor)
    return flatbuffer.pack_model(apply_recipe(flatbuffer.pack_model(model), recipe=recipe)), {"recipe": recipe}


def _quantize_static(model: Any, request: Request) -> Tuple[bytes, Dict[str, Any]]:
    samples, prepared = static_tflite.prepare_file(model, request, fold=request.scheme == "static_wi8_ai8")
    kept = static_tflite.keep_float(prepared.model)
    recipe = make_recipe(request.scheme, per_channel=request.per_channel, dense_per_tensor=request.dense_per_tensor,
                         keep_float=kept, integer_input=prepared.folded is not None)
    quantized = apply_recipe(flatbuffer.pack_model(prepared.model), recipe=recipe, ranges=prepared.ranges)
    finished, done = static_tflite.finish(quantized, prepared)
    return finished, {"recipe": recipe, **static_tflite.facts(samples, prepared, kept, request), **done}


def weight_config(scheme: str, *, per_channel: bool) -> Dict[str, Any]:
    """The op_config of one recipe entry, in AI Edge Quantizer's own words."""
    half = scheme == "float16"
    config: Dict[str, Any] = {
        "weight_tensor_config": {"num_bits": 16 if half else 8, "symmetric": True, "dtype": "FLOAT" if half else "INT",
                                 "granularity": "CHANNELWISE" if per_channel and not half else "TENSORWISE"},
        "compute_precision": "INTEGER" if scheme == "dynamic_wi8_afp32" or scheme in STATIC_BITS else "FLOAT",
        "explicit_dequantize": half or scheme == "weight_only_wi8_afp32",
        "skip_checks": False, "min_weight_elements": 0}
    if scheme in STATIC_BITS:
        bits = STATIC_BITS[scheme]
        config["activation_tensor_config"] = {"num_bits": bits, "symmetric": bits == 16, "granularity": "TENSORWISE", "dtype": "INT"}
    return config


def make_recipe(scheme: str, *, per_channel: bool = True, dense_per_tensor: bool = False, keep_float: Sequence[str] = (),
                integer_input: bool = False) -> List[Dict[str, Any]]:
    """An AI Edge Quantizer recipe.

    Args:
        dense_per_tensor: one scale per FULLY_CONNECTED weight; runtimes older than TensorFlow 2.17 read only the first of several.
        keep_float: output tensor names of operators that stay float.
        integer_input: the input tensor of the file becomes an integer too; the output stays what it is.
    """
    if scheme not in SCHEMES:
        raise UnsupportedError(f"{NAME} does not know the scheme {scheme!r}; {nearest(scheme, SCHEMES)}")
    algorithm = "float_casting" if scheme == "float16" else "min_max_uniform_quantize"
    recipe = [_entry(".*", "*", algorithm, weight_config(scheme, per_channel=per_channel))]
    if scheme == "dynamic_wi8_afp32":  # its hybrid kernel is delegated nowhere: 17.1 ms instead of 4.8 for MobileNetV2 (float: 6.6)
        recipe.append(_entry(".*", "DEPTHWISE_CONV_2D", algorithm, weight_config("weight_only_wi8_afp32", per_channel=per_channel)))
    if dense_per_tensor and scheme != "float16":
        recipe.append(_entry(".*", "FULLY_CONNECTED", algorithm, weight_config(scheme, per_channel=False)))
    if scheme in STATIC_BITS:
        recipe += [_entry(".*", name, "no_quantize", None) for name in (("OUTPUT",) if integer_input else ("INPUT", "OUTPUT"))]
    return recipe + [_entry(f"^{re.escape(name)};?$", "*", "no_quantize", None) for name in keep_float]


def _entry(regex: str, operation: str, algorithm: str, config: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    return {"regex": regex, "operation": operation, "algorithm_key": algorithm, **({"op_config": config} if config else {})}


def apply_recipe(model: bytes, *, recipe: List[Dict[str, Any]], ranges: Optional[Mapping[str, Range]] = None) -> Any:
    """Apply `recipe` to a float file; `ranges` (activation name → minimum, maximum) where it is static. Returns a ModelT.

    Raises:
        ModelError: AI Edge Quantizer refused the file; its reason is in the message.
    """
    from ai_edge_quantizer import quantizer

    statistics = {name: {"min": np.array([[low]], np.float32), "max": np.array([[high]], np.float32)} for name, (low, high) in (ranges or {}).items()}
    with captured_output("quantizing with AI Edge Quantizer", hint="try --backend tflite_converter, or another scheme"):  # it warns of biases that overflow; biases_tflite mends them
        worker = quantizer.Quantizer(bytearray(model), recipe)
        result = worker.quantize(statistics or None, enable_progress_bar=False, enable_progress_report=False)
    return inline_buffers(bytes(result.quantized_model))


def inline_buffers(data: bytes) -> Any:
    """The ModelT of a file whose buffers lie behind the flatbuffer, with the buffers inside again: old runtimes do not know the other form."""
    model = flatbuffer.parse_model(data, source="the quantized file")
    for buffer in model.buffers:
        if buffer.offset:
            buffer.data = np.frombuffer(data, np.uint8, count=buffer.size, offset=buffer.offset).copy()
            buffer.offset = buffer.size = 0
    return model
