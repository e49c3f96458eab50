"""Decide from its description alone whether loading a Keras model would run code that came with the file.

Legacy Keras ignores `safe_mode` for .h5 and SavedModel (a Lambda in either ran while it was loaded, measured with tf_keras 2.21), and a
config may name any importable module. So every class, function and module that a config names must be on a list before Keras sees it.
"""
from __future__ import annotations

import re
from typing import Any, Iterable, List, Mapping, Optional, Set

from edgepress.errors import UnsafeModelError

LAYERS = frozenset("""
Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization
BatchNormalizationV1 BatchNormalizationV2 Bidirectional CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose
ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Flatten GRU GRUCell GRUV2
GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
GroupNormalization Identity InputLayer InputSpec LSTM LSTMCell LSTMV2 LayerNormalization LeakyReLU LocallyConnected1D LocallyConnected2D Masking MaxPooling1D MaxPooling2D
MaxPooling3D Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute RNN RandomBrightness RandomContrast RandomCrop RandomFlip RandomHeight RandomRotation
RandomTranslation RandomWidth RandomZoom ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell SlicingOpLambda Softmax
SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells Subtract TFOpLambda ThresholdedReLU TimeDistributed
UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
""".split())  # left out: Lambda (code), TensorFlowOpLayer (any operator), TextVectorization and the lookups (files)
MODELS = frozenset({"Functional", "Model", "Sequential"})
SMALL_OBJECTS = frozenset("""
Constant GlorotNormal GlorotUniform HeNormal HeUniform Initializer LecunNormal LecunUniform Ones Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
L1 L1L2 L2 OrthogonalRegularizer MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm Policy DTypePolicy TensorShape TypeSpec __tuple__ __ellipsis__ slice
__keras_tensor__ __numpy__ __tensor__
""".split())
FUNCTIONS = frozenset("""
elu exponential gelu hard_sigmoid hard_silu hard_swish leaky_relu linear log_softmax mish relu relu6 selu sigmoid silu softmax softplus softsign swish tanh
""".split())
_MODULE = re.compile(r"(builtins|(tensorflow\.(python\.)?)?(tf_)?keras(\.(layers|models|initializers|regularizers|constraints|activations|mixed_precision|dtype_policies|engine|src|ops"
                     r"|_tf_keras|keras)\b[\w.]*)?)$")
_OPERATOR = re.compile(r"(compat\.v1\.)?(math\.\w+|nn\.\w+|__operators__\.\w+|keras\.activations\.\w+|image\.resize|linalg\.matmul|"
                       r"(add|subtract|multiply|divide|reshape|cast|concat|clip_by_value|expand_dims|squeeze|transpose|reduce_\w+|pad|split|stack|unstack|tile|identity|maximum|"
                       r"minimum|matmul|tanh|sigmoid|exp|sqrt|square|abs|convert_to_tensor|gather|shape|slice|strided_slice|where|zeros_like|ones_like|flatten|reverse))$")
_NOT_DESERIALIZED = {"compile_config", "training_config", "build_config", "build_input_shape", "save_spec", "full_save_spec", "inbound_nodes"}
_HINT = "get the model from someone you trust, rebuild it from known layers, or pass --allow-unsafe to run the code in it"
MAX_DEPTH = 200
# Operators of a TensorFlow graph that touch anything but tensors.
_DANGEROUS_OPERATOR = re.compile(r"PyFunc|File|Reader|^Read(?!VariableOp)|Write(?!V3$)|^Save|^Restore|^Load|Dataset|Iterator|Summary|^Debug|^Print|Remote|^_?Send|^_?Recv|Rpc|Checkpoint|Grpc")


def check_config(config: Any, *, source: str, extra_classes: Iterable[str] = ()) -> None:
    """Refuse a Keras config (nested dicts and lists, as in config.json) that names anything outside the lists above.

    Raises:
        UnsafeModelError: names the layer, and the class, module or function.
    """
    _walk(config, layer="the model", source=source, extra=frozenset(extra_classes), depth=0)


def _walk(value: Any, *, layer: str, source: str, extra: frozenset, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise UnsafeModelError(f"{source}: the config is nested deeper than {MAX_DEPTH} levels", _HINT)
    if isinstance(value, Mapping):
        layer = _name(value) or layer
        _check_object(value, layer=layer, source=source, extra=extra)
    items: Iterable[Any] = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        if key == "inbound_nodes":
            _check_nodes(item, layer=layer, source=source)
        if key not in _NOT_DESERIALIZED:
            _walk(item, layer=layer, source=source, extra=extra, depth=depth + 1)


def _name(value: Mapping[str, Any]) -> Optional[str]:
    config = value.get("config")
    name = config.get("name") if isinstance(config, Mapping) else None
    return f"layer {name!r}" if isinstance(name, str) else None


def _check_object(value: Mapping[str, Any], *, layer: str, source: str, extra: frozenset) -> None:
    kind, module, registered = value.get("class_name"), value.get("module"), value.get("registered_name")
    if "function_type" in value or any(key.endswith("_function_type") for key in value if isinstance(key, str)):
        raise UnsafeModelError(f"{source}: {layer} holds Python code", _HINT)
    if kind is None:
        return
    if not isinstance(kind, str):
        raise UnsafeModelError(f"{source}: {layer} has a class name that is not a name", _HINT)
    if kind == "function" and _function_is_known(value):
        return
    if kind not in LAYERS | MODELS | SMALL_OBJECTS | extra:
        what = "a Lambda layer: Python code from the file runs when it is loaded" if kind in ("Lambda", "__lambda__") else f"the class {kind!r}, which is not one of Keras' own plain layers"
        raise UnsafeModelError(f"{source}: {layer} is {what}", _HINT)
    if module is not None and not (isinstance(module, str) and _MODULE.match(module)):
        raise UnsafeModelError(f"{source}: {layer} names the module {module!r}; accepted: modules of Keras", _HINT)
    if isinstance(registered, str) and ">" in registered and not registered.startswith(("Keras>", "keras>")):
        raise UnsafeModelError(f"{source}: {layer} is registered as {registered!r}, which is not Keras' own", _HINT)
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        _check_operator(value.get("config"), layer=layer, source=source)


def _function_is_known(value: Mapping[str, Any]) -> bool:
    config, module = value.get("config"), value.get("module")
    name = config if isinstance(config, str) else config.get("name") if isinstance(config, Mapping) else None
    return name in FUNCTIONS and (module is None or bool(_MODULE.match(str(module))))


def _check_operator(config: Any, *, layer: str, source: str) -> None:
    function = config.get("function") if isinstance(config, Mapping) else None
    if not isinstance(function, str) or not _OPERATOR.match(function):
        raise UnsafeModelError(f"{source}: {layer} calls the TensorFlow function {function!r}; accepted: tf.math, tf.nn and plain array operations", _HINT)


def _check_nodes(nodes: Any, *, layer: str, source: str) -> None:
    """Call arguments hold tensors and plain values; a class name there other than the known data classes would be instantiated."""
    pending: List[Any] = [nodes]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            kind = value.get("class_name")
            if kind is not None and not (isinstance(kind, str) and kind in SMALL_OBJECTS):
                raise UnsafeModelError(f"{source}: {layer} is called with an object of class {kind!r}", _HINT)
            pending.extend(value.values())
        elif isinstance(value, (list, tuple)):
            pending.extend(value)


def check_graph(saved_model: Any, *, source: str) -> None:
    """Refuse a SavedModel (protobuf) whose graph would read, write or call out when it is loaded or run.

    Walked: all that is reachable from the signatures and initialisers, and every library function but the checkpoint saver's own.

    Raises:
        UnsafeModelError: names the operator.
    """
    for meta in saved_model.meta_graphs:
        functions = {f.signature.name: f for f in meta.graph_def.library.function}
        nodes = {node.name: node for node in meta.graph_def.node}
        saver = _saver_functions(meta, nodes)
        reachable = _reachable_nodes(meta, nodes)
        called = _called(reachable, functions)
        for node in (*reachable, *(n for name, f in functions.items() if name not in saver or name in called for n in f.node_def)):
            if _DANGEROUS_OPERATOR.search(node.op):
                raise UnsafeModelError(f"{source}: its graph contains the operator {node.op} ({node.name}), which reaches beyond tensors", _HINT)


def _roots(meta: Any) -> Set[str]:
    tensors = [info.name for signature in meta.signature_def.values() for info in signature.outputs.values()]
    for collection in ("saved_model_main_op", "legacy_init_op", "table_initializer", "saved_model_assets"):
        if collection in meta.collection_def:
            tensors += list(meta.collection_def[collection].node_list.value)
    return {tensor.split(":")[0].lstrip("^") for tensor in tensors}


def _reachable_nodes(meta: Any, nodes: Mapping[str, Any]) -> List[Any]:
    pending, seen = [name for name in _roots(meta) if name in nodes], set()
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += [source for source in (i.split(":")[0].lstrip("^") for i in nodes[name].input) if source in nodes]
    return [nodes[name] for name in sorted(seen)]


def _function_names(node: Any) -> Set[str]:
    names = {attr.func.name for attr in node.attr.values() if attr.func.name}
    return names | {f.name for attr in node.attr.values() for f in attr.list.func}


def _called(nodes: Iterable[Any], functions: Mapping[str, Any]) -> Set[str]:
    """Functions that `nodes` call, directly or through others."""
    pending = [name for node in nodes for name in _function_names(node)]
    seen: Set[str] = set()
    while pending:
        name = pending.pop()
        if name in functions and name not in seen:
            seen.add(name)
            pending += [inner for node in functions[name].node_def for inner in _function_names(node)]
    return seen


def _saver_functions(meta: Any, nodes: Mapping[str, Any]) -> Set[str]:
    """What only the checkpoint saver calls: reading variables does not execute it."""
    saver = meta.saver_def
    names = {name.split(":")[0] for name in (saver.save_tensor_name, saver.restore_op_name, saver.filename_tensor_name)}
    return {function for name in names if name in nodes for function in _function_names(nodes[name])}
