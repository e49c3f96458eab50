"""Load a SavedModel folder: its Keras layers if it has any, its serving function otherwise."""
from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Tuple, Union

from edgepress import keras_safety
from edgepress.errors import ModelError
from edgepress.tf import import_tensorflow

SIGNATURE = "serving_default"
KERAS_METADATA = "keras_metadata.pb"
MAX_GRAPH_BYTES = 1 << 30
_METRIC = "_tf_keras_metric"


@dataclass(frozen=True)
class Function:
    """The serving function of a SavedModel: float32 `[N, *input_shape]` → float32 `[N, *output_shape]`."""

    call: Callable[[Any], Any]
    input_shape: Tuple[Optional[int], ...]
    output_shape: Tuple[Optional[int], ...]


def load(folder: Path, *, allow_unsafe: bool = False) -> Union[Function, Any]:
    """The `tf_keras.Model` of a SavedModel that Keras wrote, the `Function` of any other.

    Raises:
        UnsafeModelError: layers or graph operators that run code or touch files, and `allow_unsafe` is not given.
        ModelError: damaged, or no usable signature.
    """
    from edgepress.keras_files import reading

    tf, keras = import_tensorflow()
    with reading(folder):
        if (folder / "saved_model.pb").stat().st_size > MAX_GRAPH_BYTES:
            raise ModelError(f"{folder / 'saved_model.pb'} is larger than {MAX_GRAPH_BYTES} bytes", "do not use this file")
        graph = tf.__internal__.saved_model.parse_saved_model(str(folder))
        layers = list(_keras_nodes(keras, folder, graph))
        if not allow_unsafe:
            keras_safety.check_graph(graph, source=str(folder))
            for config in layers:
                keras_safety.check_config(config, source=str(folder))
        if layers and layers[0].get("class_name") in keras_safety.MODELS:
            return keras.models.load_model(str(folder), compile=False)
        return _function(tf, folder)


def _keras_nodes(keras: Any, folder: Path, graph: Any) -> Iterator[dict]:
    """The metadata of every Keras layer in the folder; before TensorFlow 2.5 it was in the graph itself."""
    file = folder / KERAS_METADATA
    if file.is_file():
        metadata = importlib.import_module(f"{keras.__name__}.protobuf.saved_metadata_pb2").SavedMetadata()
        metadata.ParseFromString(file.read_bytes())
        found = [(node.identifier, node.metadata) for node in metadata.nodes]
    else:
        found = [(node.user_object.identifier, node.user_object.metadata) for meta in graph.meta_graphs for node in meta.object_graph_def.nodes]
    for identifier, text in found:
        if identifier.startswith("_tf_keras") and identifier != _METRIC and text:
            yield json.loads(text)


def _function(tf: Any, folder: Path) -> Function:
    loaded = tf.saved_model.load(str(folder))
    signatures = getattr(loaded, "signatures", {})
    if SIGNATURE not in signatures:
        raise ModelError(f"{folder} has the signatures {sorted(signatures)}; accepted: {SIGNATURE!r}", f"save it with signatures={{{SIGNATURE!r}: function}}")
    function = signatures[SIGNATURE]
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(f"{folder} has {len(inputs)} inputs and {len(outputs)} outputs; accepted: one of each", "save a function with one input and one output")
    (name, given), (key, made) = next(iter(inputs.items())), next(iter(outputs.items()))
    for what, spec in (("input", given), ("output", made)):
        if spec.dtype != tf.float32 or spec.shape.rank is None:
            raise ModelError(f"the {what} of {folder} is {spec.dtype.name} of rank {spec.shape.rank}; accepted: float32 of a known rank", "save a function of float32 tensors")

    def call(x: Any) -> Any:
        return function(**{name: x})[key]
    call.owner = loaded  # type: ignore[attr-defined]  # the variables live as long as what owns them
    return Function(call, tuple(given.shape[1:]), tuple(made.shape[1:]))
