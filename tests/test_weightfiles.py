"""Weights go into a network whole or not at all."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgepress.errors import ModelError
from edgepress.weightfiles import assign_weights, network_layers, read_weights, write_npz


class Layer(SimpleNamespace):
    """As much of a Keras layer as the module touches."""

    def __init__(self, name: str, *arrays: np.ndarray) -> None:
        super().__init__(name=name, weights=list(arrays))

    def get_weights(self) -> list:
        return self.weights

    def set_weights(self, arrays: list) -> None:
        self.weights = arrays


def network(*shapes: tuple) -> SimpleNamespace:
    return SimpleNamespace(layers=[Layer("image")] + [Layer(f"conv{i}", np.full(shape, i, np.float32)) for i, shape in enumerate(shapes)])


def test_npz_round_trip_keeps_order_and_half_precision(tmp_path: Path) -> None:
    source = network((2, 3), (12,), (1, 1))
    source.layers[1].weights[0][:] = 0.1
    write_npz(tmp_path / "w.npz", source)
    entries = read_weights(tmp_path / "w.npz")
    assert [name for name, _ in entries] == ["conv0", "conv1", "conv2"]
    assert entries[0][1][0].dtype == np.float32
    np.testing.assert_allclose(entries[0][1][0], 0.1, rtol=1e-3)  # half precision has 11 bits


def test_legacy_h5_weights_and_whole_models_are_read_in_file_order(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for inside in ("", "model_weights"):
        with h5py.File(tmp_path / f"w{inside}.h5", "w") as file:
            group = file.create_group(inside) if inside else file
            group.attrs["layer_names"] = [b"zulu", b"pool", b"alpha", b"normalization"]
            for name in ("zulu", "pool", "alpha", "normalization"):
                layer = group.create_group(name)
                layer.attrs["weight_names"] = [] if name == "pool" else [b"kernel:0"]
                if name != "pool":
                    layer["kernel:0"] = np.zeros((2, 2), np.float32)
        assert [name for name, _ in read_weights(tmp_path / f"w{inside}.h5")] == ["zulu", "alpha"]


def test_the_first_layer_that_differs_is_named_and_nothing_is_loaded() -> None:
    model = network((2, 3), (4,), (5,))
    entries = [("a", [np.ones((2, 3))]), ("b", [np.ones(9)]), ("c", [np.ones(5)])]
    with pytest.raises(ModelError, match=r"conv1.*\(4,\).*\(9,\).*'b'"):
        assign_weights(model, entries, source="x.h5")
    assert model.layers[1].weights[0].max() == 0  # conv0 fitted, and still has its own


def test_a_file_that_ends_early_is_refused_and_a_classifier_on_top_is_left_out() -> None:
    model = network((2, 3), (4,))
    with pytest.raises(ModelError, match="ends after 1 layers and has none for 'conv1'"):
        assign_weights(model, [("a", [np.ones((2, 3))])], source="x.h5")
    assert assign_weights(model, [("a", [np.ones((2, 3))]), ("b", [np.ones(4)]), ("predictions", [np.ones(7)])], source="x.h5") == ["predictions"]
    assert model.layers[2].weights[0].min() == 1


@pytest.mark.parametrize("name, content", [("w.h5", b"not hdf5"), ("w.npz", b"not a zip"), ("w.h5", b"")])
def test_damaged_files_are_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / name)


def test_normalization_layers_are_no_part_of_the_network() -> None:
    assert [name for name, _ in network_layers(SimpleNamespace(layers=[Layer("normalization", np.ones(3)), Layer("stem", np.ones(3))]))] == ["stem"]
