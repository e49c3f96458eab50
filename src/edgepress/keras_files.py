"""Load a user's Keras model (`.keras`, `.h5`, SavedModel folder) without running code from the file, and make it flat."""
from __future__ import annotations

import contextlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from edgepress import keras_safety
from edgepress.artifact import digest_file
from edgepress.errors import EdgepressError, ModelError
from edgepress.tf import import_tensorflow

MAX_CONFIG_BYTES = 64 << 20
MAX_WEIGHT_BYTES = 4 << 30
MAX_RATIO = 200  # of unpacked to packed bytes past MAX_CONFIG_BYTES
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_AGAIN = "save it again with model.save(), or copy it again"


@dataclass(frozen=True)
class Network:
    """A loaded network: `call` maps float32 `[N, *input_shape]` to float32 `[N, *output_shape]` in inference mode."""

    call: Callable[[Any], Any]
    input_shape: Tuple[Optional[int], ...]  # without the batch
    output_shape: Tuple[Optional[int], ...]
    model: Optional[Any]  # the tf_keras model, or None for a SavedModel of plain TensorFlow functions
    source: str


_just_saved: Dict[str, Any] = {}  # sha256 of the last file that `save_model` wrote → its model


def save_model(model: Any, path: Path) -> None:
    """Write a model as a legacy `.keras` file, and keep it for the next `load_model` of these very bytes in this process.

    Stages that run one after the other in one process hand the model over without rebuilding it (2 s for MobileNetV2). It is handed over once,
    so whoever changes it changes nobody else's.
    """
    model.save(path, save_format="keras")
    _just_saved.clear()
    _just_saved[digest_file(path)] = model


def load_model(path: Path, *, allow_unsafe: bool = False) -> Any:
    """The `tf_keras.Model` in a `.keras` or `.h5` file or a SavedModel folder; not compiled.

    Raises:
        UnsafeModelError: it would run code that is stored in it, and `allow_unsafe` is not given.
        ModelError: not a Keras model, damaged, or of a Keras that cannot be read.
    """
    network = load_network(path, allow_unsafe=allow_unsafe)
    if network.model is None:
        raise ModelError(f"{path} holds TensorFlow functions, no Keras layers", "it can be converted and quantized, not fine-tuned or pruned")
    return network.model


def load_network(path: Path, *, allow_unsafe: bool = False) -> Network:
    """Like `load_model`, and takes a SavedModel without Keras layers too."""
    kind = file_kind(path)
    if kind == "saved_model":
        from edgepress import saved_models

        loaded = saved_models.load(path, allow_unsafe=allow_unsafe)
        if isinstance(loaded, saved_models.Function):
            return Network(loaded.call, loaded.input_shape, loaded.output_shape, None, str(path))
        return of_model(loaded, source=str(path))
    saved = _just_saved.pop(digest_file(path), None) if _just_saved else None
    if saved is not None:
        return of_model(saved, source=str(path))
    with reading(path):
        return of_model(_load_keras(path, allow_unsafe) if kind == "keras" else _load_h5(path, allow_unsafe), source=str(path))


def peek(path: Path, *, allow_unsafe: bool = False) -> Optional[List[Any]]:
    """What can be told of a file without TensorFlow, whose import takes seconds: whether it is whole and safe, and its input shape (None where only loading tells).

    Raises:
        UnsafeModelError, ModelError: as `load_model`.
    """
    kind = file_kind(path)
    if kind == "saved_model":
        return None
    with reading(path):
        config, version = read_keras_config(path) if kind == "keras" else read_h5_config(path)
    if not allow_unsafe and not version.startswith("3"):
        keras_safety.check_config(config, source=str(path))
    layers = config.get("config", {}).get("layers", []) if isinstance(config.get("config"), dict) else []
    first = layers[0].get("config", {}) if layers and isinstance(layers[0], dict) else {}
    shape = first.get("batch_input_shape") or first.get("batch_shape")
    return shape if isinstance(shape, list) else None


def file_kind(path: Path) -> str:
    """`keras` (zip), `h5` or `saved_model`, by content: Keras itself would read an .h5 that is called .keras, past our check.

    Raises:
        ModelError: neither, or the name says another format.
    """
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise ModelError(f"{path} is not a SavedModel folder: it has no saved_model.pb", "give a .keras or .h5 file, or a SavedModel folder")
        return "saved_model"
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})", "check the path and its permissions") from error
    suffix = path.suffix.lower()
    if head[:4] == b"PK\x03\x04" and suffix == ".keras":
        return "keras"
    if head == _HDF5 and suffix in (".h5", ".hdf5"):
        return "h5"
    raise ModelError(f"{path} is not a Keras model: its content is {'a zip' if head[:2] == b'PK' else 'HDF5' if head == _HDF5 else 'neither a zip nor HDF5'}"
                     "; accepted: .keras (zip), .h5 (HDF5), a SavedModel folder", _AGAIN)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever h5py, zipfile and Keras raise on damaged files into a ModelError."""
    try:
        yield
    except EdgepressError:
        raise
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a hostile file can make them raise anything
        raise ModelError(f"{path} is damaged or no model that legacy Keras reads ({type(error).__name__}: {str(error)[:500]})", _AGAIN) from error


def of_model(model: Any, *, source: str) -> Network:
    """A Keras model with one input and one output as a Network.

    Raises:
        ModelError: several inputs or outputs, or no fixed signature.
    """
    shapes = []
    for what in ("input", "output"):
        try:
            shape = getattr(model, f"{what}_shape")
        except AttributeError as error:
            raise ModelError(f"{source} has no fixed {what} shape", "build or call the model once before it is saved") from error
        if not (isinstance(shape, tuple) and shape and not isinstance(shape[0], (tuple, list, dict))):
            raise ModelError(f"{source} has {len(shape)} {what}s; accepted: one", f"save a model with one {what}")
        shapes.append(tuple(shape[1:]))
    return Network(lambda x: model(x, training=False), shapes[0], shapes[1], model, source)


# ---- .keras

def _load_keras(path: Path, allow_unsafe: bool) -> Any:
    config, version = read_keras_config(path)
    modern = version.split(".")[0].isdigit() and int(version.split(".")[0]) >= 3
    if modern:
        from edgepress import keras3_files

        return keras3_files.load_keras(path, config, allow_unsafe=allow_unsafe)
    if not allow_unsafe:
        keras_safety.check_config(config, source=str(path))
    with zipfile.ZipFile(path) as archive, archive.open(WEIGHTS) as weights:
        check_weights(weights, source=str(path))
    _, keras = import_tensorflow()
    return keras.models.load_model(str(path), compile=False, safe_mode=not allow_unsafe)


def read_keras_config(path: Path) -> Tuple[Dict[str, Any], str]:
    """(config, Keras version) of a `.keras` file; reads the zip alone.

    Raises:
        ModelError: not such a zip, members that do not belong, or more bytes than any model has.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename not in (CONFIG, METADATA, WEIGHTS):
                raise ModelError(f"{path} contains {entry.filename[:100]!r}; accepted: {CONFIG}, {METADATA} and {WEIGHTS}", "a model of plain layers has no other files")
            limit = MAX_WEIGHT_BYTES if entry.filename == WEIGHTS else MAX_CONFIG_BYTES
            if entry.file_size > limit or (entry.file_size > MAX_CONFIG_BYTES and entry.file_size > MAX_RATIO * max(1, entry.compress_size)):
                raise ModelError(f"{path}: {entry.filename} would unpack to {entry.file_size} bytes", "do not use this file")
        config = _json(archive, CONFIG)
        metadata = _json(archive, METADATA) if METADATA in archive.namelist() else {}
    return config, str(metadata.get("keras_version", "2"))


def _json(archive: zipfile.ZipFile, name: str) -> Dict[str, Any]:
    with archive.open(name) as member:
        value = json.loads(member.read(MAX_CONFIG_BYTES + 1))
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object")
    return value


# ---- .h5

def _load_h5(path: Path, allow_unsafe: bool) -> Any:
    config, version = read_h5_config(path)
    if version.startswith("3"):
        from edgepress import keras3_files

        return keras3_files.load_h5(path, config, allow_unsafe=allow_unsafe)
    if not allow_unsafe:
        keras_safety.check_config(config, source=str(path))
    _, keras = import_tensorflow()
    return keras.models.load_model(str(path), compile=False)


def read_h5_config(path: Path) -> Tuple[Dict[str, Any], str]:
    """(config, Keras version) of an `.h5` model; its links and sizes are checked.

    Raises:
        ModelError: weights only, damaged, or links out of the file.
    """
    import h5py

    with reading(path):
        with open(path, "rb") as file:
            check_weights(file, source=str(path))
        with h5py.File(path, "r") as file:
            text, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "2")
    if text is None:
        raise ModelError(f"{path} holds weights only, no model", "save the whole model with model.save(), or give the file as `--weights` of finetune")
    if len(text) > MAX_CONFIG_BYTES:
        raise ModelError(f"{path}: its model_config has {len(text)} bytes", "do not use this file")
    with reading(path):
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError("model_config is not a JSON object")
    return config, version.decode() if isinstance(version, bytes) else str(version)


def check_weights(file: BinaryIO, *, source: str) -> None:
    """Refuse HDF5 weights that point outside the file or would unpack to more than any model has."""
    import h5py

    total = 0
    with h5py.File(file, "r") as store:
        pending, seen = [store], set()
        while pending:
            group = pending.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:  # a group can be its own grandchild
                continue
            seen.add(address)
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ModelError(f"{source}: the weight {name[:100]!r} is a link; accepted: weights inside the file", "do not use this file")
                item = group[name]
                if isinstance(item, h5py.Group):
                    pending.append(item)
                    continue
                if item.external or item.is_virtual:
                    raise ModelError(f"{source}: the weight {name[:100]!r} lies in another file", "do not use this file")
                total += item.size * item.dtype.itemsize
                if total > MAX_WEIGHT_BYTES:
                    raise ModelError(f"{source}: its weights claim more than {MAX_WEIGHT_BYTES} bytes", "do not use this file")


# ---- flat models

def flatten_model(model: Any) -> Any:
    """`model` as one functional model without models inside, same outputs, same weights; itself if it is flat already.

    What is called with `training=False` (the transfer-learning idiom `base(x, training=False)`) stays so, layer by layer.
    TFMOT prunes nothing inside a nested model and says nothing (measured), and its file would hide the backbone's layers.

    Raises:
        ModelError: a subclassed model, whose layers cannot be listed.
    """
    _, keras = import_tensorflow()
    if not getattr(model, "_is_graph_network", False):
        raise ModelError(f"the model {model.name!r} is subclassed: its layers cannot be taken apart", "build it with the functional API")
    if not isinstance(model, keras.Sequential) and not any(isinstance(layer, keras.Model) for layer in model.layers):
        return model
    clones: Dict[int, Any] = {}
    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name.split(":")[0]) for x in model.inputs]
    flat = keras.Model(inputs, _inline(keras, model, inputs, frozen=False, clones=clones), name=model.name)
    for original, clone in clones.values():
        clone.set_weights(original.get_weights())
        clone.trainable = original.trainable
    return flat


def _inline(keras: Any, model: Any, inputs: list, *, frozen: bool, clones: Dict[int, Any]) -> Any:
    """Run the nodes of `model` on new symbolic `inputs`, going into models inside; returns its output or list of outputs."""
    tf, _ = import_tensorflow()
    values: Dict[Any, Any] = {str(id(x)): y for x, y in zip(model.inputs, inputs)}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input or any(x not in values for x in node.flat_input_ids):
                continue
            args, kwargs = node.map_arguments({x: [values[x]] * len(node.flat_input_ids) for x in node.flat_input_ids})  # it pops one per use
            still = frozen or kwargs.get("training") is False
            if isinstance(node.layer, keras.Model):
                outputs = _inline(keras, node.layer, tf.nest.flatten(args), frozen=still, clones=clones)
            else:
                if still and node.layer._expects_training_arg:
                    kwargs["training"] = False
                outputs = _clone(node.layer, clones)(*args, **kwargs)
            values.update(zip(node.flat_output_ids, tf.nest.flatten(outputs)))
    found = [values[str(id(x))] for x in model.outputs]
    return found[0] if len(found) == 1 else found


def _clone(layer: Any, clones: Dict[int, Tuple[Any, Any]]) -> Any:
    """The one new layer that stands for `layer`; a name that another model inside uses too gets a number."""
    if id(layer) not in clones:
        config: Mapping[str, Any] = layer.get_config()
        taken = {clone.name for _, clone in clones.values()}
        name, count = layer.name, 1
        while name in taken:
            count += 1
            name = f"{layer.name}_{count}"
        clones[id(layer)] = layer, layer.__class__.from_config({**config, "name": name})
    return clones[id(layer)][1]
