"""Rebuild a model that Keras 3 saved, out of legacy Keras layers: same names, same weights, same outputs.

Legacy Keras reads neither Keras 3's configs nor its call nodes. Networks of plain layers map one to one: the config is walked, every
layer is made again by its legacy namesake and called as the config says, and the weights go in by the paths that Keras 3 writes.
"""
from __future__ import annotations

import inspect
import re
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

from edgepress import keras_safety
from edgepress.errors import ModelError
from edgepress.tf import import_tensorflow

# Arithmetic between tensors is a node of its own in Keras 3.
OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b, "Subtract": lambda a, b: a - b, "Multiply": lambda a, b: a * b, "TrueDivide": lambda a, b: a / b, "Divide": lambda a, b: a / b,
}
IDENTITIES = frozenset({"RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness", "RandomCrop", "GaussianNoise", "Dropout",
                        "SpatialDropout2D", "AlphaDropout", "GaussianDropout"})  # in inference; with Keras 3 they carry random state
_HINT = "load it with Keras 3, and give the layers and weights to legacy Keras: TF_USE_LEGACY_KERAS=1, same functional model, load_weights(...), model.save(...)"
_CONVERTED = ("convert reads Keras 3 files of plain layers; this one needs more. " + _HINT)
Config = Mapping[str, Any]


def load_keras(path: Path, config: Config, *, allow_unsafe: bool) -> Any:
    """The legacy model of a Keras 3 `.keras` file, whose config is read already.

    Raises:
        UnsafeModelError: it would run code stored in it.
        ModelError: a layer that has no legacy namesake, or weights that do not fit.
    """
    import h5py

    from edgepress.keras_files import WEIGHTS, check_weights

    with zipfile.ZipFile(path) as archive, archive.open(WEIGHTS) as weights:
        check_weights(weights, source=str(path))
        model = _build(path, config, allow_unsafe)
        weights.seek(0)
        with h5py.File(weights, "r") as store:
            for layer, place in _places(config, model, "layers"):
                _set_weights(path, layer, _stored(store, place))
    return model


def load_h5(path: Path, config: Config, *, allow_unsafe: bool) -> Any:
    """The legacy model of an `.h5` file that Keras 3 wrote: weights lie there by layer name."""
    import h5py

    model = _build(path, config, allow_unsafe)
    with h5py.File(path, "r") as store:
        groups = store["model_weights"]
        for layer in model.layers:
            names = groups[layer.name].attrs.get("weight_names", []) if layer.name in groups else []
            values = [groups[layer.name][name][()] for name in names]
            _set_weights(path, layer, values, order=layer.trainable_weights + layer.non_trainable_weights)
    return model


def _set_weights(path: Path, layer: Any, values: List[Any], *, order: Any = None) -> None:
    order = layer.weights if order is None else order
    shapes = [tuple(weight.shape) for weight in order], [value.shape for value in values]
    if shapes[0] != shapes[1]:
        raise ModelError(f"{path}: layer {layer.name!r} has weights of shapes {shapes[1]}, legacy Keras expects {shapes[0]}", _HINT)
    for weight, value in zip(order, values):
        weight.assign(value)


def _build(path: Path, config: Config, allow_unsafe: bool) -> Any:
    if not allow_unsafe:
        keras_safety.check_config(config, source=str(path), extra_classes=OPERATORS)
    return _model(path, config)


def _model(path: Path, config: Config) -> Any:
    """A legacy functional model of a Keras 3 Functional or Sequential config."""
    _, keras = import_tensorflow()
    inner = config.get("config")
    if config.get("class_name") not in keras_safety.MODELS or not isinstance(inner, Mapping) or "layers" not in inner:
        raise ModelError(f"{path} holds a model of class {config.get('class_name')!r}; accepted: Functional, Sequential", _HINT)
    inputs, outputs = _sequential(path, keras, inner) if config["class_name"] == "Sequential" else _functional(path, keras, inner)
    return keras.Model(inputs, outputs, name=inner.get("name"))


def _sequential(path: Path, keras: Any, config: Config) -> Tuple[Any, Any]:
    layers = list(config["layers"])
    shape = config.get("build_input_shape")
    if layers and layers[0]["class_name"] == "InputLayer":
        shape = layers.pop(0)["config"].get("batch_shape")
    if not shape:
        raise ModelError(f"{path}: the Sequential model has no input shape", "start it with an Input layer")
    first = x = keras.Input(batch_shape=shape)
    for layer in layers:
        x = _layer(path, keras, layer)(x)
    return first, x


def _functional(path: Path, keras: Any, config: Config) -> Tuple[Any, Any]:
    values: Dict[Tuple[str, int, int], Any] = {}
    waiting: List[Tuple[str, int, Any, Config]] = []  # name, index of the call, layer, call
    for layer in config["layers"]:
        name = layer["name"]
        if layer["class_name"] == "InputLayer":
            values[name, 0, 0] = keras.Input(batch_shape=layer["config"].get("batch_shape"), name=name, dtype=_dtype(layer["config"].get("dtype")))
            continue
        made = _layer(path, keras, layer)
        waiting += [(name, index, made, node) for index, node in enumerate(layer["inbound_nodes"])]
    while waiting:
        ready = [entry for entry in waiting if all(key in values for key in _sources(entry[3]))]
        if not ready:
            raise ModelError(f"{path}: its call nodes have no beginning", _HINT)
        for entry in ready:
            name, index, made, node = entry
            kwargs = {key: _resolve(value, values) for key, value in node.get("kwargs", {}).items() if value is not None}
            outputs = made(*[_resolve(value, values) for value in node["args"]], **kwargs)
            for position, output in enumerate(outputs if isinstance(outputs, (list, tuple)) else [outputs]):
                values[name, index, position] = output
            waiting.remove(entry)
    return ([values[key] for key in _ends(config["input_layers"])], [values[key] for key in _ends(config["output_layers"])])


def _ends(spec: Any) -> List[Tuple[str, int, int]]:
    return [tuple(spec)] if spec and isinstance(spec[0], str) else [tuple(entry) for entry in spec]


def _sources(value: Any) -> Iterator[Tuple[str, int, int]]:
    """Keys of all tensors inside a call node."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            yield tuple(value["config"]["keras_history"])
        else:
            for item in value.values():
                yield from _sources(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _sources(item)


def _resolve(value: Any, values: Mapping[Tuple[str, int, int], Any]) -> Any:
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        return values[tuple(value["config"]["keras_history"])]
    return [_resolve(item, values) for item in value] if isinstance(value, list) else value


def _dtype(dtype: Any) -> Any:
    return dtype["config"]["name"] if isinstance(dtype, Mapping) else dtype


def _layer(path: Path, keras: Any, layer: Config) -> Callable[..., Any]:
    """The legacy layer (or function) for one entry of a Keras 3 config."""
    kind, config = layer["class_name"], dict(layer["config"])
    if kind in keras_safety.MODELS:
        return _model(path, layer)
    if _is_operation(layer):
        if kind not in OPERATORS:
            raise ModelError(f"{path}: {layer['name']!r} is the operation {kind!r}; accepted between layers: {', '.join(OPERATORS)}", _CONVERTED)
        return OPERATORS[kind]
    if kind in IDENTITIES:
        return keras.layers.Activation("linear", name=config.get("name"))
    cls = getattr(keras.layers, kind, None)
    if cls is None:
        raise ModelError(f"{path}: the layer {config.get('name')!r} is a {kind}, which legacy Keras does not have", _CONVERTED)
    return cls.from_config(_legacy_config(cls, config))


def _is_operation(layer: Config) -> bool:
    """Whether an entry is arithmetic between tensors; an .h5 does not say, but layers of that name take one list of tensors."""
    nodes = layer.get("inbound_nodes", [])
    return str(layer.get("module", "")).startswith("keras.src.ops") or (layer["class_name"] in OPERATORS and bool(nodes) and all(len(node["args"]) == 2 for node in nodes))


def _legacy_config(cls: Any, config: Dict[str, Any]) -> Dict[str, Any]:
    """`config` without what only Keras 3 knows. Initialisers and regularisers go too: the weights come from the file, training is over."""
    known = set()
    for base in cls.__mro__:
        known |= set(inspect.signature(base.__init__).parameters) if "__init__" in vars(base) else set()
    known |= {"name", "trainable", "dtype"}
    dropped = re.compile(r".*_(initializer|regularizer|constraint)$")
    made = {key: value for key, value in config.items() if key in known and not dropped.match(key)}
    if "dtype" in made:
        made["dtype"] = _dtype(made["dtype"])
    if "batch_shape" in config and "batch_input_shape" in known:
        made["batch_input_shape"] = config["batch_shape"]
    return made


# ---- weights of a .keras file: layers/<snake_case class>[_n]/vars/<i>

def _places(config: Config, model: Any, inside: str) -> Iterator[Tuple[Any, str]]:
    """(legacy layer, its group in the weight file): Keras 3 numbers the layers of one class in the order of the config."""
    counts: Dict[str, int] = {}
    by_name = {layer.name: layer for layer in model.layers}
    for entry in config["config"]["layers"]:
        if _is_operation(entry):
            continue
        stem = _snake(entry["class_name"])
        place = f"{inside}/{stem}" + (f"_{counts[stem]}" if stem in counts else "")
        counts[stem] = counts.get(stem, 0) + 1
        layer = by_name.get(entry["config"].get("name"))
        if entry["class_name"] in keras_safety.MODELS:
            yield from _places(entry, layer, f"{place}/layers")
        elif layer is not None and layer.weights:
            yield layer, place


def _snake(name: str) -> str:
    """Keras' own rule for names of groups."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _stored(store: Any, place: str) -> List[Any]:
    """The arrays of one layer, those of its parts (a wrapped layer, a cell) included, in the order of their paths."""
    if place not in store:
        return []
    own = store[place]["vars"] if "vars" in store[place] else {}
    values = [own[str(i)][()] for i in range(len(own))]
    for part in store[place]:
        if part not in ("vars", "seed_generator"):
            values += _stored(store, f"{place}/{part}")
    return values
