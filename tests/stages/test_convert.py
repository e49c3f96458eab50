"""The convert stage: files that keep the contract and answer what Keras answers."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest

from edgepress import flatbuffer, onnx_summary
from edgepress.errors import ModelError, RecipeError, UnsafeModelError
from edgepress.metadata import extract_spec
from edgepress.modelspec import NORMALIZATIONS, ModelSpec, read_spec, to_json
from edgepress.recipe import ConvertConfig
from edgepress.runtimes import load_runtime

pytestmark = pytest.mark.tensorflow
SCALE, OFFSET = NORMALIZATIONS["imagenet"]
SPEC = ModelSpec(labels=("a", "b", "c"), input_height=12, input_width=10, scale=SCALE, offset=OFFSET, name="tiny")


@pytest.fixture(scope="module")
def keras() -> Any:
    from edgepress.tf import import_tensorflow

    return import_tensorflow()[1]


def network(keras: Any, *, channels: int = 3, ending: str = "softmax", classes: int = 3, size: tuple = (12, 10)) -> Any:
    """Padding, depthwise convolution, batch norm, flatten into a Dense with a bias: what converters trip over. Random, answers spread."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((*size, channels))
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(keras.layers.ZeroPadding2D(1)(inputs))
    x = keras.layers.BatchNormalization(moving_variance_initializer=keras.initializers.RandomUniform(0.3, 0.9))(x)
    x = keras.layers.ReLU(6.0)(keras.layers.DepthwiseConv2D(3, padding="same")(x))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D((x.shape[1], x.shape[2]))(x))
    x = keras.layers.Dense(classes, bias_initializer=keras.initializers.RandomNormal(), activation=ending if ending != "softmax" else None)(x)
    return keras.Model(inputs, keras.layers.Softmax(name="probabilities")(x) if ending == "softmax" else x)


@pytest.fixture()
def artifact(keras: Any, tmp_path: Path) -> Path:
    """What the finetune stage leaves."""
    folder = tmp_path / "finetuned"
    folder.mkdir()
    network(keras).save(folder / "model.keras")
    (folder / "model.json").write_text(to_json(SPEC))
    return folder


def convert(model: Path, out: Path, **options: Any) -> dict:
    from edgepress.stages.convert import convert as stage

    out.mkdir()
    stage(out, model=model, config=ConvertConfig(**options))
    return json.loads((out / "conversion.json").read_text())


def answer(path: Path, *inputs: np.ndarray) -> np.ndarray:
    session = load_runtime("litert" if path.suffix == ".tflite" else "onnxruntime").open_model(str(path), threads=1)
    try:
        return np.concatenate([session.run([x])[0] for x in inputs])
    finally:
        session.close()


def photos(count: int = 5, size: tuple = (12, 10)) -> list:
    return list(np.random.default_rng(7).integers(0, 256, (count, 1, *size, 3)).astype(np.uint8))


def test_contract_of_both_files(keras: Any, artifact: Path, tmp_path: Path) -> None:
    record = convert(artifact, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["conversion.json", "model.json", "model.onnx", "model.tflite"]
    pixels = photos()
    model = keras.models.load_model(artifact / "model.keras", compile=False)
    expected = np.concatenate([model(x.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET), training=False) for x in pixels])
    assert expected.std(axis=0).max() > 0.01
    for entry in record["files"]:
        path = tmp_path / "out" / entry["file"]
        assert np.abs(answer(path, *pixels) - expected).max() < 1e-5
        assert entry["parity"]["passed"] and entry["parity"]["inputs"] == 16
        assert (entry["inputs"], entry["outputs"]) == ([{"name": "image", "shape": [1, 12, 10, 3], "dtype": "uint8"}], [{"name": "probabilities", "shape": [1, 3], "dtype": "float32"}])
        assert entry["custom_operators"] == [] and not entry.get("flex_operators")
        assert extract_spec(path) == SPEC
    assert read_spec(tmp_path / "out") == SPEC
    assert record["files"][0]["signatures"] == [{"name": "serving_default", "inputs": ["image"], "outputs": ["probabilities"]}]
    assert (record["files"][1]["opset"], record["files"][1]["ir_version"]) == ({"ai.onnx": 15}, 8)
    assert record["files"][1]["operators"]["Transpose"] == 1


def test_normalisation_is_cast_mul_add_in_front(artifact: Path, tmp_path: Path) -> None:
    convert(artifact, tmp_path / "out", formats=("tflite",))
    model = flatbuffer.load_model_t(tmp_path / "out" / "model.tflite")
    names = flatbuffer.operator_names(model)
    assert [names[op.opcodeIndex] for op in model.subgraphs[0].operators[:3]] == ["CAST", "MUL", "ADD"]


def test_same_bytes_in_another_process(artifact: Path, tmp_path: Path) -> None:
    convert(artifact, tmp_path / "here")
    code = ("import sys; from pathlib import Path; from edgepress.recipe import ConvertConfig; from edgepress.stages.convert import convert;"
            "convert(Path(sys.argv[1]), model=Path(sys.argv[2]), config=ConvertConfig())")
    (tmp_path / "there").mkdir()
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "there"), str(artifact)], capture_output=True, env={"PYTHONHASHSEED": "5", "PATH": "/usr/bin:/bin"})
    assert ran.returncode == 0, ran.stderr.decode()[-2000:]
    assert ran.stdout == b""
    for name in ("model.tflite", "model.onnx", "model.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_dynamic_batch(artifact: Path, tmp_path: Path) -> None:
    convert(artifact, tmp_path / "out", batch=None)
    pixels = photos()
    for name in ("model.tflite", "model.onnx"):
        path = tmp_path / "out" / name
        assert np.allclose(answer(path, np.concatenate(pixels)), answer(path, *pixels), atol=1e-6)
    assert onnx_summary.summarize(tmp_path / "out" / "model.onnx")["inputs"][0]["shape"] == ["batch", 12, 10, 3]


def test_nchw_float32_and_logits(keras: Any, artifact: Path, tmp_path: Path) -> None:
    record = convert(artifact, tmp_path / "out", layout="nchw", input_type="float32", output="logits")
    raw = photos(1)[0]
    x = raw.astype(np.float32) * np.float32(SCALE) + np.float32(OFFSET)
    logits = [answer(tmp_path / "out" / "model.tflite", x), answer(tmp_path / "out" / "model.onnx", np.ascontiguousarray(x.transpose(0, 3, 1, 2)))]
    model = keras.models.load_model(artifact / "model.keras", compile=False)
    for values in logits:
        odds = np.exp(values - values.max())
        assert np.allclose(odds / odds.sum(), model(x, training=False), atol=1e-5) and abs(values.sum() - 1) > 1e-3
    onnx = extract_spec(tmp_path / "out" / "model.onnx")
    assert (onnx.layout, onnx.input_type, onnx.output, onnx.normalization_inside) == ("nchw", "float32", "logits", False)
    assert extract_spec(tmp_path / "out" / "model.tflite").layout == "nhwc"
    assert "Transpose" not in record["files"][1]["operators"] and record["files"][0]["outputs"][0]["name"] == "logits"


def own(keras: Any, tmp_path: Path, **options: Any) -> Path:
    path = tmp_path / "own.h5"
    network(keras, **options).save(path)
    return path


def test_own_model_says_what_it_needs(keras: Any, tmp_path: Path) -> None:
    path = own(keras, tmp_path)
    with pytest.raises(RecipeError, match="normalization"):
        convert(path, tmp_path / "a")
    record = convert(path, tmp_path / "b", input_type="float32", formats=("tflite",))
    assert record["model_spec"] is None and "no ModelSpec" in record["notes"][0] and not (tmp_path / "b" / "model.json").exists()
    (tmp_path / "labels.txt").write_text("x\ny\n")
    with pytest.raises(ModelError, match="lists 2 labels"):
        convert(path, tmp_path / "c", normalization="0..1", labels=str(tmp_path / "labels.txt"))
    (tmp_path / "labels.txt").write_text("x\ny\nz\n")
    convert(path, tmp_path / "d", normalization="0..1", labels=str(tmp_path / "labels.txt"), formats=("onnx",))
    assert extract_spec(tmp_path / "d" / "model.onnx").labels == ("x", "y", "z")
    assert not (tmp_path / "d" / "model.tflite").exists()


def test_options_that_model_json_answers_already(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="model.json"):
        convert(artifact, tmp_path / "out", normalization="0..1")
    (artifact / "model.json").write_text(to_json(ModelSpec(labels=("a", "b"), input_height=12, input_width=10)))
    with pytest.raises(ModelError, match="2 labels"):
        convert(artifact, tmp_path / "out2")


@pytest.mark.parametrize("ending, classes, columns", [("linear", 3, 3), ("sigmoid", 1, 2), ("linear", 1, 2)])
def test_endings_become_probabilities(keras: Any, tmp_path: Path, ending: str, classes: int, columns: int) -> None:
    record = convert(own(keras, tmp_path, ending=ending, classes=classes), tmp_path / "out", normalization="0..1")
    for name in ("model.tflite", "model.onnx"):
        values = answer(tmp_path / "out" / name, *photos())
        assert values.shape == (5, columns) and np.allclose(values.sum(axis=1), 1, atol=1e-5)
    assert all(entry["parity"]["passed"] for entry in record["files"]) and record["notes"]


def test_bgr_network_takes_rgb(keras: Any, tmp_path: Path) -> None:
    path = own(keras, tmp_path)
    convert(path, tmp_path / "out", normalization="caffe", channel_order="bgr")
    model = keras.models.load_model(path, compile=False)
    pixels = photos()
    scale, offset = NORMALIZATIONS["caffe"]
    expected = np.concatenate([model((x * np.float32(scale) + np.float32(offset))[..., ::-1], training=False) for x in pixels])
    for name in ("model.tflite", "model.onnx"):
        assert np.abs(answer(tmp_path / "out" / name, *pixels) - expected).max() < 1e-4
    assert "REVERSE_V2" not in flatbuffer.count_operators(flatbuffer.load_model_t(tmp_path / "out" / "model.tflite"))
    assert read_spec(tmp_path / "out").channel_order == "rgb"


def test_grey_network_takes_rgb(keras: Any, tmp_path: Path) -> None:
    path = own(keras, tmp_path, channels=1)
    convert(path, tmp_path / "out", normalization="0..1")
    model = keras.models.load_model(path, compile=False)
    grey = np.random.default_rng(0).integers(0, 256, (1, 12, 10, 1)).astype(np.uint8)
    expected = np.asarray(model(grey / np.float32(255), training=False))
    assert np.abs(answer(tmp_path / "out" / "model.tflite", np.repeat(grey, 3, axis=-1)) - expected).max() < 1e-5


def test_not_a_picture(keras: Any, tmp_path: Path) -> None:
    inputs = keras.Input((20,))
    keras.Model(inputs, keras.layers.Dense(20)(keras.layers.Dense(4, activation="relu")(inputs))).save(tmp_path / "ad.h5")
    with pytest.raises(RecipeError, match="no picture classifier"):
        convert(tmp_path / "ad.h5", tmp_path / "a")
    record = convert(tmp_path / "ad.h5", tmp_path / "b", input_type="float32")
    assert [entry["inputs"][0]["shape"] for entry in record["files"]] == [[1, 20], [1, 20]] and record["contract"] is False


@pytest.mark.parametrize("function, message", [("sinh", "not built into TFLite: FlexSinh"), ("digamma", "does not have: Digamma")])
def test_foreign_operators_are_named(keras: Any, tmp_path: Path, function: str, message: str) -> None:
    from edgepress.tf import import_tensorflow

    tf, _ = import_tensorflow()
    inputs = keras.Input((12, 10, 3))
    flat = keras.layers.Flatten()(getattr(tf.math, function)(inputs))
    keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(flat)).save(tmp_path / "flex.keras")
    with pytest.raises(ModelError, match=message):
        convert(tmp_path / "flex.keras", tmp_path / "out", normalization="0..1", formats=("tflite",))
    if function == "sinh":
        record = convert(tmp_path / "flex.keras", tmp_path / "allowed", normalization="0..1", formats=("tflite",), allow_flex=True)
        assert record["files"][0]["flex_operators"] == ["FlexSinh"] and record["files"][0]["parity"]["passed"] is None


def test_hard_swish_keeps_no_transposes(keras: Any, tmp_path: Path) -> None:
    x = inputs = keras.Input((12, 10, 3))
    for _ in range(2):
        x = keras.layers.Conv2D(4, 3)(x)
        x = keras.layers.Multiply()([x, keras.layers.ReLU(6.0)(x + 3.0) * (1 / 6)])
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(inputs, x).save(tmp_path / "hs.keras")
    record = convert(tmp_path / "hs.keras", tmp_path / "out", normalization="0..1")
    operators = [entry["operators"] for entry in record["files"]]
    assert (operators[0]["HARD_SWISH"], operators[1]["HardSwish"], operators[1]["Transpose"]) == (2, 2, 1)  # the one is at the input


def test_unsafe_model_is_refused_by_the_stage(keras: Any, tmp_path: Path) -> None:
    inputs = keras.Input((12, 10, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x, name="suspect")(inputs)).save(tmp_path / "bad.h5")
    with pytest.raises(UnsafeModelError, match="suspect"):
        convert(tmp_path / "bad.h5", tmp_path / "out")


def test_a_wrong_file_is_an_error(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepress.converters import parity

    monkeypatch.setattr(parity, "reference", lambda answer, graph, inputs: np.full((len(inputs), 3), 1 / 3))
    with pytest.raises(ModelError, match="answer something else"):
        convert(artifact, tmp_path / "out", formats=("tflite",))
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["files"][0]["parity"]["passed"] is False


@pytest.mark.data
def test_mlperf_tiny_resnet(shared_data: Any, tmp_path: Path) -> None:
    record = convert(shared_data("weights/mlperf_tiny/pretrainedResnet.h5"), tmp_path / "out", normalization="0..255")
    assert max(entry["parity"]["max_abs_difference"] for entry in record["files"]) < 1e-4
    folder = shared_data("datasets/mlperf_tiny/ic01")
    rows = [line.split(",") for file in folder.glob("*.csv") for line in file.read_text().split()]
    pixels = [np.frombuffer((folder / name).read_bytes(), np.uint8).reshape(1, 32, 32, 3) for name, *_ in rows]
    truth = np.array([int(row[-1]) for row in rows])
    for name in ("model.tflite", "model.onnx"):
        assert (answer(tmp_path / "out" / name, *pixels).argmax(axis=1) == truth).mean() == 0.855  # MLPerf Tiny's own float file, DATA.md


@pytest.mark.data
@pytest.mark.parametrize("name", ["ad01.h5", "kws_ref_model"])
def test_mlperf_tiny_without_pictures(shared_data: Any, tmp_path: Path, name: str) -> None:
    record = convert(shared_data(f"weights/mlperf_tiny/{name}"), tmp_path / "out", input_type="float32")
    assert all(entry["parity"]["passed"] for entry in record["files"])


@pytest.mark.data
@pytest.mark.parametrize("config, file, said", [
    ("ConvertConfig()", None, "nobody said what pictures"), ("ConvertConfig(normalization='0..1', labels='none.txt')", None, "cannot be read"), ("ConvertConfig(normalization='0..1')", 30_000, "damaged")])
def test_what_is_wrong_is_said_before_tensorflow_is_imported(tmp_path: Path, shared_data, config: str, file: Optional[int], said: str) -> None:
    model = tmp_path / "vww.h5"
    model.write_bytes(shared_data("weights/mlperf_tiny/vww_96.h5").read_bytes()[:file])
    code = (f"import sys\nfrom pathlib import Path\nfrom edgepress.recipe import ConvertConfig\nfrom edgepress.stages import STAGES\n"
            f"try:\n    STAGES['convert'].prepare(Path({str(tmp_path)!r}), model=Path({str(model)!r}), config={config})\n"
            f"except Exception as error:\n    print(error)\nprint('tensorflow' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert said in done.stdout and done.stdout.endswith("False\n")
