"""Read network weights from a file of arrays and put all of them, or none, into a model."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, List, Sequence, Tuple

from edgepress.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

Entry = Tuple[str, List["np.ndarray"]]  # a layer's name and its arrays in Keras' order

# EfficientNet files carry the arrays of the input normalization, which is data here and not a layer.
_NOT_NETWORK = ("normalization", "rescaling")


def read_weights(path: Path) -> List[Entry]:
    """The layers with weights in `path` (.h5 of legacy Keras, weights or whole model; .npz with keys layer/index), in file order.

    Nothing in such a file is executed: a stored architecture is not looked at.

    Raises:
        ModelError: the file cannot be read or is of another kind.
    """
    try:
        entries = _read_npz(path) if path.suffix == ".npz" else _read_h5(path)
    except (OSError, KeyError, ValueError) as error:
        raise ModelError(f"weights file {path} cannot be read ({error}); accepted: .h5 of Keras 2 (layer_names inside) or .npz",
                         "write one with model.save_weights('weights.h5') in legacy Keras") from error
    return _network(entries)


def network_layers(model: object) -> List[Entry]:
    """The layers with weights of a Keras `model`, in its order."""
    return _network([(layer.name, layer.get_weights()) for layer in model.layers])


def _network(entries: List[Entry]) -> List[Entry]:
    return [(name, arrays) for name, arrays in entries if arrays and not name.startswith(_NOT_NETWORK)]


def _read_h5(path: Path) -> List[Entry]:
    import h5py
    import numpy as np

    with h5py.File(path, "r") as file:
        group = file["model_weights"] if "model_weights" in file else file
        if "layer_names" not in group.attrs:
            raise ValueError("no layer_names inside: not a legacy Keras weights file")
        layers = [_text(name) for name in group.attrs["layer_names"]]
        return [(name, [np.asarray(group[name][_text(w)]) for w in group[name].attrs["weight_names"]]) for name in layers]


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _read_npz(path: Path) -> List[Entry]:
    import numpy as np

    entries: List[Entry] = []
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            layer = key.rsplit("/", 1)[0]
            if not entries or entries[-1][0] != layer:
                entries.append((layer, []))
            entries[-1][1].append(file[key].astype(np.float32))
    return entries


def write_npz(path: Path, model: object) -> None:
    """Write the weights of a Keras `model` as half-precision .npz that `read_weights` reads."""
    import numpy as np

    arrays = {f"{layer.name}/{index}": value.astype(np.float16)
              for layer in model.layers for index, value in enumerate(layer.get_weights())}
    np.savez_compressed(path, **arrays)


def assign_weights(model: object, entries: Sequence[Entry], *, source: str) -> List[str]:
    """Put `entries` into `model` by position; returns the names of trailing layers that were left out (a classifier on top).

    Raises:
        ModelError: a layer differs in its number or shape of arrays; the model is untouched then.
    """
    layers = [layer for layer in model.layers if layer.weights]
    for layer, (name, arrays) in zip(layers, entries):
        expected, received = [tuple(w.shape) for w in layer.weights], [a.shape for a in arrays]
        if expected != received:
            raise ModelError(f"weights {source} do not fit: the first layer that differs is {layer.name!r}, which needs {expected}, "
                             f"but the file has {received} (its layer {name!r})",
                             "use the weights of the same family and width, without the classifier on top (…no_top.h5)")
    if len(entries) < len(layers):
        raise ModelError(f"weights {source} do not fit: the file ends after {len(entries)} layers and has none for {layers[len(entries)].name!r}",
                         "use the weights of the same family and width")
    for layer, (_, arrays) in zip(layers, entries):
        layer.set_weights(arrays)
    return [name for name, _ in entries[len(layers):]]
