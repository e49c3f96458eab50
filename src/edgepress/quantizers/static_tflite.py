"""Static quantization of a TFLite file, as far as it is the same whichever quantizer does it."""
from __future__ import annotations

from typing import Any, Dict, List, Tuple

from edgepress import flatbuffer
from edgepress.errors import ModelError
from edgepress.quantizers import Request, biases_tflite, calibration, equalization_tflite, input_folding, static
from edgepress.quantizers.input_folding import OPS, op_code
from edgepress.quantizers.samples import Samples
from edgepress.runtimes.base import TensorInfo

ELEMENTWISE = (OPS.CAST, OPS.MUL, OPS.ADD, OPS.SUB, OPS.DIV)
def input_info(model: Any) -> TensorInfo:
    """The only input of a model.

    Raises:
        ModelError: it has several, or several subgraphs.
    """
    graph = model.subgraphs[0]
    if len(graph.inputs) != 1 or len(model.subgraphs) != 1:
        raise ModelError(f"the file has {len(graph.inputs)} inputs and {len(model.subgraphs)} subgraphs; calibration feeds files with one",
                         "choose a scheme without calibration, such as float16")
    facts = flatbuffer.summarize(model)["inputs"][0]
    return TensorInfo(facts["name"], tuple(facts["shape"]), facts["dtype"])


def prepare_file(model: Any, request: Request, *, fold: bool) -> Tuple[Samples, static.Prepared]:
    """Calibration inputs, and the model folded and calibrated with them."""
    info = input_info(model)
    samples = request.samples(info)
    return samples, static.prepare(model, samples.feeds(info), FORM, method=request.method, fold=fold)


def final_operators(model: Any) -> List[Any]:
    """SOFTMAX and LOGISTIC operators that make an output of the file: they stay float (their int8 twins round to 1/256)."""
    graph = model.subgraphs[0]
    outputs = set(map(int, graph.outputs))
    return [op for op in graph.operators if op_code(model, op) in (OPS.SOFTMAX, OPS.LOGISTIC) and int(op.outputs[0]) in outputs]


def _logits(model: Any) -> Tuple[str, ...]:
    return tuple(_name(model, op.inputs[0]) for op in final_operators(model))


def keep_float(model: Any) -> List[str]:
    """Output tensor names of the operators that stay float: the final softmax, and elementwise ones on uint8 input where they were not folded."""
    graph = model.subgraphs[0]
    names = [_name(model, op.outputs[0]) for op in final_operators(model)]
    index = int(graph.inputs[0])
    if graph.tensors[index].type != input_folding.UINT8:
        return names
    while True:
        users = [op for op in graph.operators if index in list(map(int, op.inputs))]
        if len(users) != 1 or op_code(model, users[0]) not in ELEMENTWISE:
            return names
        index = int(users[0].outputs[0])
        names.append(_name(model, index))


def _name(model: Any, index: Any) -> str:
    return model.subgraphs[0].tensors[int(index)].name.decode("utf-8", "replace")


FORM = static.Format(fold=input_folding.fold, pack=flatbuffer.pack_model, session=calibration.session_tflite,
                     observe=lambda model: calibration.observe_tflite(flatbuffer.pack_model(model)), prepare=lambda model: model,
                     exact=_logits, weighted_inputs=biases_tflite.weighted_inputs,
                     depthwise_inputs=equalization_tflite.depthwise_inputs, scale_pair=equalization_tflite.scale_pair, channel_axis=-1)


def finish(quantized: Any, prepared: static.Prepared) -> Tuple[bytes, Dict[str, Any]]:
    """Bytes of the quantized ModelT, its biases mended and the uint8 input back in front; and what was done."""
    done = {"widened_channels": biases_tflite.widen_dead_channels(quantized, prepared.model),
            "bias_corrected_layers": biases_tflite.correct_biases(quantized, prepared.model, prepared.means)}
    if prepared.folded:
        input_folding.attach_uint8_input(quantized, prepared.folded.zero_point)
    return flatbuffer.pack_model(quantized), done


def facts(samples: Samples, prepared: static.Prepared, kept: List[str], request: Request) -> Dict[str, Any]:
    """What quantization.json says about calibration and folding."""
    return {"calibration": {**samples.facts(), "method": request.method}, "input_folding": prepared.facts, "kept_float": kept}
