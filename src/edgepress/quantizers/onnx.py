"""Quantize a float ONNX file: static QDQ and dynamic through onnxruntime, float16 and weight-only with the onnx package alone."""
from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any, Collection, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress.errors import ModelError, UnsupportedError
from edgepress.quantizers import Request, biases_onnx, calibration, equalization_onnx, input_folding_onnx, static
from edgepress.quantizers.calibration import Range
from edgepress.quantizers.input_folding_onnx import drop_unused, initializers, replace
from edgepress.runtimes.base import TensorInfo

NAME = "onnxruntime"
FORMATS = ("onnx",)
SCHEMES = ("float16", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8")
LARGEST_IR = 8  # what onnxruntime from 2021 on reads
WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": None, "MatMul": 1}  # operator → output-channel axis of its second input (Gemm: by transB)
REASON_AI16 = ("16-bit QuantizeLinear exists from ONNX opset 21 on (these files are opset 15, so that old devices read them), and onnxruntime's CPU "
               "provider has no 16-bit integer kernels: it would compute in float and be slower")


REASONS: Mapping[str, str] = {"static_wi8_ai16": REASON_AI16}


def quantize(data: bytes, request: Request) -> Tuple[bytes, Dict[str, Any]]:
    """Bytes of the quantized file and what quantization.json says about how they were made.

    Raises:
        ModelError: the file is damaged or cannot be quantized; the reason is in the message.
    """
    source = load_model(data)
    if request.scheme == "static_wi8_ai8":
        model, facts = _quantize_file(source, request)
    else:
        change = {"float16": lambda m: cast_weights(m), "dynamic_wi8_afp32": lambda m: quantize_dynamic(m, per_channel=request.per_channel),
                  "weight_only_wi8_afp32": lambda m: quantize_weights(m, per_channel=request.per_channel)}[request.scheme]
        model, facts = change(source), {"recipe": {"scheme": request.scheme, "per_channel": request.per_channel, "weights": sorted(weights_of(source))}}
    return finish(model, source), facts


def load_model(data: bytes) -> Any:
    """A ModelProto from bytes.

    Raises:
        ModelError: not an ONNX file, or one whose weights lie in other files.
    """
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"the file is not ONNX ({error})", "copy or convert it again") from error
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelError("the weights of this ONNX file lie in other files", "save it as one file: onnx.save(onnx.load(path), new_path)")
    return model


def _quantize_file(source: Any, request: Request) -> Tuple[Any, Dict[str, Any]]:
    samples = request.samples(input_info(source))
    prepared = static.prepare(source, samples.feeds(input_info(source)), FORM, method=request.method)
    kept = [node.name for node in final_nodes(prepared.model)] + ([] if prepared.folded else prefix_nodes(prepared.model))
    settings = {"per_channel": request.per_channel, "signed_activations": request.signed_activations, "reduce_range": request.reduce_range}
    fused = {name: prepared.ranges[reader] for name, reader in calibration.fused_activations(prepared.model.graph).items()}
    model = quantize_static(prepared.model, ranges={**fused, **prepared.ranges}, keep_float=kept, **settings)
    corrected = biases_onnx.correct_biases(model, prepared.model, prepared.means)
    float_logits = keep_logits_float(model)
    if prepared.folded:
        input_folding_onnx.attach_uint8_input(model, source, prepared.folded)
    recipe = {"quantizer": "onnxruntime.quantization.quantize_static", "format": "QDQ", "weights": "int8",
              "activations": "int8" if request.signed_activations else "uint8", "keep_float": kept, "float_logits": bool(float_logits), **settings}
    return model, {"recipe": recipe, "calibration": {**samples.facts(), "method": request.method}, "input_folding": prepared.facts, "kept_float": kept, "bias_corrected_layers": corrected}


def input_info(model: Any) -> TensorInfo:
    """The only input of a model.

    Raises:
        ModelError: it has several.
    """
    constants = initializers(model)
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ModelError(f"the file has {len(inputs)} inputs; calibration feeds files with one", "choose a scheme without calibration, such as float16")
    kind = inputs[0].type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return TensorInfo(inputs[0].name, shape, helper.tensor_dtype_to_np_dtype(kind.elem_type).name)


def final_nodes(model: Any) -> List[Any]:
    """Softmax and Sigmoid nodes that make an output of the file."""
    outputs = {value.name for value in model.graph.output}
    return [node for node in model.graph.node if node.op_type in ("Softmax", "Sigmoid") and node.output[0] in outputs]


def prefix_nodes(model: Any) -> List[str]:
    """Names of the elementwise nodes on the input of the file, which stay float where they could not be folded."""
    names, name = [], model.graph.input[0].name
    while True:
        users = [node for node in model.graph.node if name in node.input]
        if len(users) != 1 or users[0].op_type not in ("Cast", "Mul", "Add", "Sub", "Div", "Transpose"):
            return names
        names.append(users[0].name)
        name = users[0].output[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer logs advice through the root logger; what matters of it is in quantization.json."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def preprocess(model: Any) -> Any:
    """onnxruntime's own preparation: shapes inferred, constants and batch norms folded, Pad and activation fused.

    Symbolic shape inference is left out: it needs sympy and fails on ordinary files (onnxruntime#10484, PR #21330).
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder, _quiet():
        source, target = Path(folder) / "source.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model, source)
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        return onnx.load(target)


def _cache_file(ranges: Mapping[str, Range], path: Path) -> Path:
    """Our ranges in the form of onnxruntime's calibration cache, the documented way to bring one's own."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData, save_tensors_data

    data = {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), path)
    return path


def quantize_static(model: Any, *, ranges: Mapping[str, Range], keep_float: Sequence[str], per_channel: bool, signed_activations: bool, reduce_range: bool) -> Any:
    """Static QDQ of a prepared float ModelProto.

    Args:
        ranges: activation name → minimum, maximum; every float activation must be there.
        keep_float: names of nodes that stay float.
        signed_activations: int8 instead of uint8; weights are int8 either way.
        reduce_range: 7-bit weights, for x86 without VNNI, whose VPMADDUBSW saturates. Depthwise convolutions keep 8 bits: their kernel
            widens to 16 bits first (onnxruntime/core/mlas, qdwconv_avx2.cpp) and they suffer most (MobileNetV2: agreement 66 % → 88 %).

    Raises:
        ModelError: onnxruntime refused the file; its reason is in the message.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static as ort_quantize_static

    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder, _quiet():
        target = Path(folder) / "quantized.onnx"
        try:
            ort_quantize_static(model, target, quant_format=QuantFormat.QDQ, per_channel=per_channel, reduce_range=reduce_range,
                                activation_type=QuantType.QInt8 if signed_activations else QuantType.QUInt8, weight_type=QuantType.QInt8,
                                nodes_to_exclude=list(keep_float),
                                extra_options={"TensorQuantOverrides": _depthwise_overrides(model) if reduce_range and per_channel else {}}, calibration_cache_path=_cache_file(ranges, Path(folder) / "ranges.json"))
        except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
            raise ModelError(f"onnxruntime cannot quantize this file: {error}", "try another scheme, or convert the model again with opset 15") from error
        return onnx.load(target)


def _depthwise_overrides(model: Any) -> Dict[str, Any]:
    from onnxruntime.quantization import QuantType

    constants, found = initializers(model), {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in constants and any(a.name == "group" and a.i > 1 for a in node.attribute):
            full = {"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": False}
            found[node.input[1]] = [{**full, "axis": 0}, *({**full} for _ in range(constants[node.input[1]].dims[0] - 1))]
    return found


def keep_logits_float(model: Any) -> int:
    """Drop the 8-bit rounding of what a final Softmax or Sigmoid reads (in place); returns how many pairs went.

    The matrix product before it then writes float32, which onnxruntime's kernels do at no cost.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    gone: List[str] = []
    for node in final_nodes(model):
        dequantize = made_by.get(node.input[0])
        quantize = made_by.get(dequantize.input[0]) if dequantize is not None and dequantize.op_type == "DequantizeLinear" else None
        if quantize is not None and quantize.op_type == "QuantizeLinear":
            node.input[0] = quantize.input[0]
            gone += [dequantize.output[0], quantize.output[0]]
    replace(model.graph.node, [node for node in model.graph.node if node.output[0] not in gone])
    return len(gone) // 2


def quantize_dynamic(model: Any, *, per_channel: bool) -> Any:
    """A copy with int8 weights and activations quantized while running (DynamicQuantizeLinear → ConvInteger or MatMulInteger).

    onnxruntime's own quantize_dynamic gives a convolution one scale for all its channels (and ignores per_channel there): MobileNetV2
    fell from 87 % to 8 % on 200 ImageNet photos. Here each output channel has its own. The kernels want unsigned weights with one
    zero point, which int8 + 128 is. Grouped (depthwise) convolutions have few weights and a slow integer kernel: they compute in float,
    from int8 weights (MobileNetV2: 9.0 ms instead of 15.7).
    """
    grouped = {node.input[1] for node in model.graph.node if node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)}
    copy = quantize_weights(model, per_channel=per_channel, only=grouped)
    axes, constants, nodes = weights_of(copy), initializers(copy), []
    for node in copy.graph.node:
        name = node.input[1] if len(node.input) > 1 else ""
        if node.op_type in ("Conv", "Gemm", "MatMul") and name in axes and not _scaled_gemm(node):
            nodes += _dynamic_nodes(copy, node, numpy_helper.to_array(constants[name]), axes[name], per_channel=per_channel)
        else:
            nodes.append(node)
    replace(copy.graph.node, nodes)
    return copy


def _scaled_gemm(node: Any) -> bool:
    return node.op_type == "Gemm" and any((a.name in ("alpha", "beta") and a.f != 1) or (a.name == "transA" and a.i) for a in node.attribute)


def _dynamic_nodes(model: Any, node: Any, values: np.ndarray, axis: int, *, per_channel: bool) -> List[Any]:
    """`node` as integer operators: q(x) ∗ q(W), cast, times both scales, plus the bias."""
    base, convolution = node.output[0], node.op_type == "Conv"
    packed, scale = pack_int8(values, axis, per_channel=per_channel)
    if node.op_type == "Gemm" and axis == 0:
        packed = packed.T
    scale = _behind_channels(scale, values.ndim) if convolution else scale
    bias = node.input[2] if len(node.input) > 2 else ""
    unsigned = np.ascontiguousarray((packed.astype(np.int16) + 128).astype(np.uint8))
    model.graph.initializer.extend([numpy_helper.from_array(unsigned, base + "_weight"), numpy_helper.from_array(scale, base + "_weight_scale"),
                                    numpy_helper.from_array(np.array(128, np.uint8), base + "_weight_zero_point")])
    part = [f"{base}_{name}" for name in ("input", "input_scale", "input_zero_point", "integer", "float", "both_scales")]
    attributes = [a for a in node.attribute] if convolution else []
    integer = helper.make_node("ConvInteger" if convolution else "MatMulInteger", [part[0], base + "_weight", part[2], base + "_weight_zero_point"], [part[3]], name=part[3])
    integer.attribute.extend(attributes)
    scaled = base + "_scaled" if bias else base
    nodes = [helper.make_node("DynamicQuantizeLinear", [node.input[0]], part[:3], name=part[0]), integer,
             helper.make_node("Cast", [part[3]], [part[4]], name=part[4], to=TensorProto.FLOAT),
             helper.make_node("Mul", [part[1], base + "_weight_scale"], [part[5]], name=part[5]),
             helper.make_node("Mul", [part[4], part[5]], [scaled], name=scaled)]
    return nodes + ([_add_bias(model, node, scaled, bias, values.ndim if convolution else None)] if bias else [])


def _add_bias(model: Any, node: Any, scaled: str, bias: str, rank: Optional[int]) -> Any:
    values = numpy_helper.to_array(initializers(model)[bias])
    name = node.output[0] + "_bias"
    model.graph.initializer.append(numpy_helper.from_array(values if rank is None else _behind_channels(values, rank), name))
    return helper.make_node("Add", [scaled, name], [node.output[0]], name=node.output[0] + "_add")


def _behind_channels(values: np.ndarray, rank: int) -> np.ndarray:
    """[C] as [C, 1, …], which broadcasts over the output [N, C, …] of a convolution whose weights have this rank (3: 1-D, 4: images)."""
    return values.reshape(-1, *(1,) * (rank - 2)) if values.size > 1 else values


def weights_of(model: Any) -> Dict[str, int]:
    """Float32 weights of convolutions and matrix products: initializer name → axis of the output channels."""
    constants, found = initializers(model), {}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in constants:
            continue
        tensor = constants[node.input[1]]
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        axis = WEIGHTED[node.op_type]
        if node.op_type == "Gemm":
            axis = 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
        found[tensor.name] = len(tensor.dims) - 1 if node.op_type == "MatMul" else axis
    return found


def pack_int8(values: np.ndarray, axis: int, *, per_channel: bool) -> Tuple[np.ndarray, np.ndarray]:
    """(int8 values, float32 scale: [C] or scalar) symmetric, one scale per index of `axis` or one in all."""
    others = tuple(i for i in range(values.ndim) if i != axis) if per_channel else None
    scale = np.maximum(np.abs(values).max(axis=others) / 127, 1e-12).astype(np.float32)
    return np.clip(np.rint(values / _along(scale, axis, values.ndim)), -127, 127).astype(np.int8), np.asarray(scale)


def _along(scale: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return scale.reshape([-1 if i == axis else 1 for i in range(rank)]) if np.ndim(scale) else np.asarray(scale)


def quantize_weights(model: Any, *, per_channel: bool, only: Optional[Collection[str]] = None) -> Any:
    """A copy with int8 weights (all, or `only` those of these names) behind Cast and Mul; every computation stays float.

    Not DequantizeLinear, which would be the obvious operator: onnxruntime never folds it, so that it runs for every image and keeps
    the convolution from being prepared (15 ms instead of 8 for MobileNetV2). Cast and Mul of constants fold when the file is loaded.
    """
    def pack(name: str, values: np.ndarray, axis: int) -> List[Any]:
        packed, scale = pack_int8(values, axis, per_channel=per_channel)
        return [numpy_helper.from_array(packed, name + "_int8"), numpy_helper.from_array(_along(scale, axis, values.ndim), name + "_scale"),
                helper.make_node("Cast", [name + "_int8"], [name + "_unscaled"], name=name + "_cast", to=TensorProto.FLOAT),
                helper.make_node("Mul", [name + "_unscaled", name + "_scale"], [name], name=name + "_dequantize")]

    return _with_packed_weights(model, pack, only)


def cast_weights(model: Any) -> Any:
    """A copy with float16 weights behind Cast; every computation stays float32, as in a float16 TFLite file on a CPU.

    Float16 arithmetic would make onnxruntime's CPU provider insert two casts around each operator. The Casts here are of constants:
    the runtime folds them when it loads the file.
    """
    def pack(name: str, values: np.ndarray, axis: int) -> List[Any]:
        half = np.clip(values, -65504, 65504).astype(np.float16)
        return [numpy_helper.from_array(half, name + "_float16"), helper.make_node("Cast", [name + "_float16"], [name], name=name + "_cast", to=TensorProto.FLOAT)]

    return _with_packed_weights(model, pack)


def _with_packed_weights(model: Any, pack: Any, only: Optional[Collection[str]] = None) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    axes, nodes = weights_of(copy), []
    for tensor in [tensor for tensor in copy.graph.initializer if tensor.name in axes and (only is None or tensor.name in only)]:
        parts = pack(tensor.name, numpy_helper.to_array(tensor), axes[tensor.name])
        copy.graph.initializer.extend(part for part in parts if isinstance(part, onnx.TensorProto))
        nodes += [part for part in parts if isinstance(part, onnx.NodeProto)]
    made = {node.output[0] for node in nodes}
    replace(copy.graph.initializer, [tensor for tensor in copy.graph.initializer if tensor.name not in made])
    replace(copy.graph.input, [value for value in copy.graph.input if value.name not in made])
    replace(copy.graph.node, nodes + list(copy.graph.node))
    return copy


def finish(model: Any, source: Any) -> bytes:
    """Bytes of a quantized model: IR version and opset of `source` kept (IR at most 8), stray opset domains and tool marks dropped.

    Raises:
        UnsupportedError: the quantizer raised the opset of the standard domain.
    """
    before, after = (next(entry.version for entry in m.opset_import if entry.domain in ("", "ai.onnx")) for m in (source, model))
    if after != before:
        raise UnsupportedError(f"this scheme needs ONNX opset {after}, the float file is opset {before}", "convert again with --opset 15 or another scheme")
    model.ir_version = min(source.ir_version, LARGEST_IR)
    model.producer_name, model.producer_version = source.producer_name, source.producer_version
    del model.metadata_props[:]
    model.metadata_props.extend(source.metadata_props)
    del model.graph.value_info[:]
    drop_unused(model)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


FORM = static.Format(fold=input_folding_onnx.fold, pack=lambda model: model.SerializeToString(), session=calibration.session_onnx, observe=calibration.observe_onnx,
                     prepare=preprocess, exact=lambda model: [node.input[0] for node in final_nodes(model)], weighted_inputs=biases_onnx.weighted_inputs,
                     depthwise_inputs=equalization_onnx.depthwise_inputs, scale_pair=equalization_onnx.scale_pair, channel_axis=1)
