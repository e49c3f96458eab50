"""Keras network → float TFLite file: one trace, one frozen graph, the model contract around it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple

from edgepress import flatbuffer
from edgepress.converters.quiet import captured_output
from edgepress.errors import ModelError
from edgepress.tf import import_tensorflow

INPUT_NAME = "image"
SIGNATURE = "serving_default"
GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"
_FLEX_HINT = "replace the layer that makes them, or pass --allow-flex if the place where it will run has the Flex delegate"


@dataclass(frozen=True)
class Graph:
    """What stands around the network in the file.

    The network takes float32 `[batch, *shape]`, already normalised. With `input_type` uint8 the file takes raw bytes and computes
    y = x·scale + offset (per channel, or None where nothing is to be done) itself.
    """

    shape: Tuple[int, ...]  # without the batch
    batch: Optional[int] = 1  # None: dynamic
    input_type: str = "uint8"  # uint8 | float32
    scale: Optional[Tuple[float, ...]] = None
    offset: Optional[Tuple[float, ...]] = None
    gray: bool = False  # the network takes one channel; the file takes RGB
    reverse_channels: bool = False  # the network was trained on BGR
    ending: str = "none"  # none | softmax | binary (sigmoid p → [1 − p, p]) | binary_logit
    input_name: str = INPUT_NAME
    output_name: str = "probabilities"
    allow_flex: bool = False


def convert(network: Callable[[Any], Any], graph: Graph) -> bytes:
    """The bytes of a float TFLite file that computes `network` as `graph` says: one input, one output, signature `serving_default`.

    The same network gives the same bytes. A concrete function alone keeps the converter off its slow way through a SavedModel
    (MobileNetV2 224 on two cores: about 1 s against 10 s by `from_keras_model`).

    Raises:
        ModelError: TensorFlow cannot convert it, or it needs operators that no small runtime has.
    """
    tf, _ = import_tensorflow()
    with captured_output("the TFLite converter", hint="replace the layer it names; convert does not change what the network computes"):
        data = _run_converter(tf, _trace(tf, network, graph))
    model = flatbuffer.parse_model(data, source="the converted file")
    _check_operators(model, allow_flex=graph.allow_flex)
    return flatbuffer.pack_model(_named(model, graph))


def _trace(tf: Any, network: Callable[[Any], Any], graph: Graph) -> Any:
    spec = tf.TensorSpec([graph.batch, *graph.shape], getattr(tf, graph.input_type), name=graph.input_name)

    @tf.function(input_signature=[spec], autograph=False)
    def serve(x: Any) -> Any:
        return _end(tf, network(_normalize(tf, x, graph)), graph)
    return serve.get_concrete_function()


def _normalize(tf: Any, x: Any, graph: Graph) -> Any:
    """CAST → MUL → ADD, each only if it does something: the int8 quantizer recognises exactly this."""
    if graph.input_type == "uint8":
        x = tf.cast(x, tf.float32)
        if graph.gray:
            x = tf.reduce_sum(x * tf.constant(GRAY), axis=-1, keepdims=True)
        if graph.scale is not None and set(graph.scale) != {1.0}:
            x = x * _constant(tf, graph.scale)
        if graph.offset is not None and set(graph.offset) != {0.0}:
            x = x + _constant(tf, graph.offset)
    return tf.reverse(x, axis=[-1]) if graph.reverse_channels else x


def _constant(tf: Any, values: Tuple[float, ...]) -> Any:
    return tf.constant(values[0] if len(set(values)) == 1 else list(values), tf.float32)


def _end(tf: Any, y: Any, graph: Graph) -> Any:
    if graph.ending == "softmax":
        return tf.nn.softmax(y)
    if graph.ending == "binary_logit":
        y = tf.sigmoid(y)
    return tf.concat([1.0 - y, y], axis=-1) if graph.ending.startswith("binary") else tf.identity(y)


def _run_converter(tf: Any, function: Any) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])  # no trackable object: it freezes the graph itself instead of saving it first
    # Everything may pass here: our own message then lists every operator that may not, the converter's is pages of MLIR.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.allow_custom_ops = True
    return converter.convert()


def _check_operators(model: Any, *, allow_flex: bool) -> None:
    custom, flex = flatbuffer.custom_operators(flatbuffer.count_operators(model))
    if custom:  # nothing anywhere runs these
        raise ModelError(f"the network needs operators that TFLite does not have: {', '.join(custom + flex)}", "replace the layer that makes them")
    if flex and not allow_flex:
        raise ModelError(f"the network needs operators that are not built into TFLite: {', '.join(flex)}", _FLEX_HINT)


def _named(model: Any, graph: Graph) -> Any:
    """The model with the tensor names and the signature of the contract."""
    schema = flatbuffer.import_schema()
    main = model.subgraphs[0]
    if len(main.inputs) != 1 or len(main.outputs) != 1:
        raise ModelError(f"the converted file has {len(main.inputs)} inputs and {len(main.outputs)} outputs; accepted: one of each")
    entries: List[Any] = []
    for index, name in ((main.inputs[0], graph.input_name), (main.outputs[0], graph.output_name)):
        main.tensors[index].name = name.encode()
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), int(index)
        entries.append(entry)
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE.encode(), 0
    signature.inputs, signature.outputs = entries[:1], entries[1:]
    model.signatureDefs = [signature]
    return model
