"""Users' Keras files: read without running their code, made flat with equal outputs."""
from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepress import keras_files
from edgepress.errors import ModelError, UnsafeModelError

DATA = Path(__file__).parent / "data"
pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def keras() -> Any:
    from edgepress.tf import import_tensorflow

    return import_tensorflow()[1]


@pytest.fixture(scope="module")
def plain(keras: Any) -> Any:
    inputs = keras.Input((8, 8, 3), name="picture")
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="scores")(x))


def randomize(model: Any) -> None:
    random = np.random.default_rng(1)
    model.set_weights([random.uniform(0.2, 0.9, w.shape).astype(w.dtype) if w.dtype.kind == "f" else w for w in model.get_weights()])


def pictures(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 8, 8, 3)).astype(np.float32)


def save(model: Any, folder: Path, kind: str) -> Path:
    path = folder / ("model" + {"keras": ".keras", "h5": ".h5", "saved_model": ""}[kind])
    model.save(path, save_format="tf" if kind == "saved_model" else None)
    return path


@pytest.mark.parametrize("kind", ["keras", "h5", "saved_model"])
def test_plain_models_load_and_answer_the_same(keras: Any, plain: Any, tmp_path: Path, kind: str) -> None:
    loaded = keras_files.load_model(save(plain, tmp_path, kind))
    assert np.allclose(loaded(pictures(), training=False), plain(pictures(), training=False), atol=1e-6)


def with_marker(keras: Any, marker: Path) -> Any:
    """A model whose Lambda writes a file whenever its Python runs."""
    inputs = keras.Input((8,))
    source = f"open({str(marker)!r}, 'w').close()"
    return keras.Model(inputs, keras.layers.Lambda(eval(f"lambda x: ({source}, x)[1]"), name="suspect")(inputs))


@pytest.mark.parametrize("kind", ["keras", "h5", "saved_model"])
def test_code_in_a_file_does_not_run(keras: Any, tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    path = save(with_marker(keras, marker), tmp_path, kind)
    marker.unlink()
    with pytest.raises(UnsafeModelError, match="suspect.*Lambda"):
        keras_files.load_model(path)
    assert not marker.exists()
    keras_files.load_model(path, allow_unsafe=True)
    if kind != "saved_model":  # its traced function is revived there, the Python is read but not called again
        assert marker.exists()


def test_h5_called_keras_is_refused(keras: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = save(with_marker(keras, marker), tmp_path, "h5")
    marker.unlink()
    disguised = Path(shutil.copy(path, tmp_path / "x.keras"))
    with pytest.raises(ModelError, match="HDF5"):
        keras_files.load_model(disguised)
    assert not marker.exists()


def test_saved_model_that_writes_a_file_is_refused(tmp_path: Path) -> None:
    from edgepress.tf import import_tensorflow

    tf, _ = import_tensorflow()

    class Writer(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4])])
        def serve(self, x: Any) -> Any:
            tf.io.write_file(str(tmp_path / "marker"), "ran")
            return {"y": x * 2.0}
    module = Writer()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    with pytest.raises(UnsafeModelError, match="WriteFile"):
        keras_files.load_network(tmp_path / "model")
    assert not (tmp_path / "marker").exists()


def test_saved_model_of_functions(plain: Any, tmp_path: Path) -> None:
    from edgepress.tf import import_tensorflow

    tf, _ = import_tensorflow()

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3])])
        def serve(self, x: Any) -> Any:
            return {"y": plain(x, training=False)}
    module = Module()
    module.network = plain
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    network = keras_files.load_network(tmp_path / "model")
    assert (network.model, network.input_shape, network.output_shape) == (None, (8, 8, 3), (3,))
    assert np.allclose(network.call(pictures()), plain(pictures(), training=False), atol=1e-6)
    with pytest.raises(ModelError, match="no Keras layers"):
        keras_files.load_model(tmp_path / "model")


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_truncated_and_foreign_files(plain: Any, tmp_path: Path, kind: str) -> None:
    path = save(plain, tmp_path, kind)
    whole = path.read_bytes()
    for keep in (0, 3, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:keep])
        with pytest.raises(ModelError):
            keras_files.load_model(path)
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        keras_files.load_model(path)


def test_truncated_saved_model(plain: Any, tmp_path: Path) -> None:
    folder = save(plain, tmp_path, "saved_model")
    graph = folder / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:5000])
    with pytest.raises(ModelError):
        keras_files.load_model(folder)
    with pytest.raises(ModelError, match="no saved_model.pb"):
        keras_files.load_model(tmp_path)


def repacked(path: Path, out: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, members.pop(name, old.read(name)))
        for name, data in members.items():
            new.writestr(name, data)
    return out


def test_zip_with_other_members_is_refused(plain: Any, tmp_path: Path) -> None:
    path = repacked(save(plain, tmp_path, "keras"), tmp_path / "evil.keras", **{"assets/../../escaped": b"x"})
    with pytest.raises(ModelError, match="escaped"):
        keras_files.load_model(path)
    assert not (tmp_path.parent / "escaped").exists()


def test_zip_bomb_is_refused(plain: Any, tmp_path: Path) -> None:
    path = repacked(save(plain, tmp_path, "keras"), tmp_path / "bomb.keras", **{"config.json": b" " * (keras_files.MAX_CONFIG_BYTES + 1)})
    with pytest.raises(ModelError, match="unpack"):
        keras_files.load_model(path)


def test_weights_that_point_out_of_the_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    link, far, huge = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with h5py.File(link, "w") as file:
        file["kernel"] = h5py.ExternalLink("/etc/passwd", "/x")
    with h5py.File(far, "w") as file:
        file.create_dataset("kernel", (10,), "u1", external=[("/etc/passwd", 0, 10)])
    with h5py.File(huge, "w") as file:
        file.create_dataset("kernel", (1 << 40,), "f4", chunks=(1024,))
    for store, message in ((link, "link"), (far, "another file"), (huge, "claim")):
        with pytest.raises(ModelError, match=message):
            keras_files.check_weights(store, source="file")
    loop = io.BytesIO()
    with h5py.File(loop, "w") as file:
        file.create_group("a")["back"] = file["/"]
    keras_files.check_weights(loop, source="file")  # comes to an end


def test_weights_only(plain: Any, tmp_path: Path) -> None:
    plain.save_weights(tmp_path / "w.h5")
    with pytest.raises(ModelError, match="weights only"):
        keras_files.load_model(tmp_path / "w.h5")


def test_unknown_format_version_config(plain: Any, tmp_path: Path) -> None:
    path = repacked(save(plain, tmp_path, "keras"), tmp_path / "odd.keras", **{"config.json": json.dumps({"class_name": "Functional", "config": {}}).encode()})
    with pytest.raises(ModelError, match="damaged"):
        keras_files.load_model(path)


# ---- Keras 3

@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_keras_3_models_are_rebuilt(suffix: str) -> None:
    known = np.load(DATA / "keras3.npz")
    assert known["y"].std(axis=0).max() > 0.02  # the answers depend on the input
    model = keras_files.load_model(DATA / f"keras3.{suffix}")
    assert np.allclose(model(known["x"], training=False), known["y"], atol=1e-5)
    assert np.allclose(keras_files.flatten_model(model)(known["x"], training=False), known["y"], atol=1e-5)


def test_keras_3_layer_without_namesake(tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "keras3.keras") as archive:
        config = archive.read("config.json")
    path = repacked(DATA / "keras3.keras", tmp_path / "x.keras", **{"config.json": config.replace(b'"class_name": "Multiply"', b'"class_name": "Lambda"')})
    with pytest.raises(UnsafeModelError, match="Lambda"):
        keras_files.load_model(path)
    path = repacked(DATA / "keras3.keras", tmp_path / "y.keras", **{"config.json": config.replace(b'"class_name": "Multiply"', b'"class_name": "Maximum"')})
    with pytest.raises(ModelError, match="operation 'Maximum'.*accepted"):
        keras_files.load_model(path)


# ---- flat models

def test_nested_model_is_inlined(keras: Any, tmp_path: Path) -> None:
    below = keras.Input((8, 8, 3))
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, use_bias=False)(below)))
    x = keras.layers.Add()([x, keras.layers.BatchNormalization()(keras.layers.DepthwiseConv2D(3, padding="same")(x))])
    base = keras.Model(below, keras.layers.GlobalAveragePooling2D()(x), name="backbone")
    head = keras.Sequential([keras.layers.Dense(8, activation="relu", input_shape=(4,)), keras.layers.Dropout(0.5), keras.layers.Dense(3, activation="softmax")])
    inputs = keras.Input((8, 8, 3))
    nested = keras.Model(inputs, head(base(inputs, training=False)))
    randomize(nested)
    flat = keras_files.flatten_model(nested)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    x = pictures()
    assert np.array_equal(flat(x, training=False), nested(x, training=False))
    before = [w.numpy() for w in flat.non_trainable_weights]
    flat(x, training=True)  # what was called with training=False stays in inference mode
    assert all(np.array_equal(a, b) for a, b in zip(before, flat.non_trainable_weights))
    flat.save(tmp_path / "flat.keras")
    assert np.array_equal(keras_files.load_model(tmp_path / "flat.keras")(x, training=False), nested(x, training=False))


def test_shared_model_and_equal_names(keras: Any) -> None:
    def part() -> Any:
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(4, activation="tanh", name="dense")(inputs))
    shared, other, inputs = part(), part(), keras.Input((4,))
    nested = keras.Model(inputs, keras.layers.Add()([shared(inputs), other(shared(inputs))]))
    flat = keras_files.flatten_model(nested)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert np.allclose(flat(x), nested(x), atol=1e-6)
    assert flat.count_params() == nested.count_params() == 40


def test_flat_model_is_left_alone(plain: Any) -> None:
    assert keras_files.flatten_model(plain) is plain


def test_a_model_just_saved_is_handed_over_once(plain: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    keras_files.save_model(plain, file)
    copy = Path(shutil.copy(file, tmp_path / "copy.keras"))
    assert keras_files.load_model(copy) is plain  # the same bytes under another name
    again = keras_files.load_model(file)
    assert again is not plain
    assert np.array_equal(again(pictures()), plain(pictures()))


def test_another_file_is_not_taken_for_the_one_just_saved(keras: Any, plain: Any, tmp_path: Path) -> None:
    other = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    other.save(tmp_path / "other.keras")
    keras_files.save_model(plain, tmp_path / "model.keras")
    assert keras_files.load_model(tmp_path / "other.keras").count_params() == other.count_params()
