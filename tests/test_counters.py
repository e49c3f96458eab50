"""Work is counted exactly: the published tables of networks, and small files whose work is known by hand, in all three formats."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress import probe_models
from edgepress.backbones import BACKBONES
from edgepress.counters import count_file, format_counts
from edgepress.errors import ModelError
from edgepress.inspection import describe, format_description

TINY = Path(__file__).resolve().parent / "data"
# d-li14/mobilenetv2.pytorch, README: millions of operations at each input size; 3.51 million parameters (3,504,872).
MOBILENET_V2 = {224: 300.79, 192: 221.33, 160: 154.10, 128: 99.09, 96: 56.31}


@pytest.fixture(scope="module")
def keras() -> Any:
    from edgepress.tf import import_tensorflow

    return import_tensorflow()[1]


def by_group(path: Path) -> Dict[str, int]:
    return {group: facts["macs"] for group, facts in count_file(path).summary()["groups"].items() if facts["macs"]}


# ---- published tables

@pytest.mark.tensorflow
@pytest.mark.parametrize("size", MOBILENET_V2)
def test_mobilenet_v2_is_the_published_table(keras: Any, size: int) -> None:
    from edgepress.counters_keras import count_model

    counts = count_model(keras.applications.MobileNetV2(weights=None, input_shape=(size, size, 3)))
    assert round((counts.macs + counts.biases) / 1e6, 2) == MOBILENET_V2[size]
    assert (counts.trainable, counts.parameters) == (3_504_872, 3_538_984)
    if size == 224:
        assert (counts.macs, counts.activations) == (300_774_272, 6_679_112)  # timm's table: 6.68 million activations


@pytest.mark.tensorflow
@pytest.mark.parametrize("name, macs, parameters, options", [
    ("MobileNet", 568_740_352, 4_253_864, {}),  # arXiv 1704.04861, table 4: 569 million, 4.2 million parameters
    ("VGG16", 15_346_630_656, 14_714_688, {"include_top": False, "pooling": "avg", "input_shape": (224, 224, 3)}),  # with its dense layers 15.47 thousand million
    ("ResNet50", 3_857_973_248, 25_636_712, {})])  # arXiv 1512.03385, table 1: 3.8 thousand million; PyTorch's 4.09 has the stride in the 3x3 convolution
def test_other_published_networks(keras: Any, name: str, macs: int, parameters: int, options: Dict[str, Any]) -> None:
    from edgepress.counters_keras import count_model

    counts = count_model(getattr(keras.applications, name)(weights=None, **options))
    assert (counts.macs, counts.parameters) == (macs, parameters)


@pytest.mark.tensorflow
@pytest.mark.parametrize("family", ["mobilenet_v1", "mobilenet_v2", "glyphs", "squeezenet_1.1"])
def test_the_backbone_table_says_what_is_counted(keras: Any, family: str) -> None:
    from edgepress.counters_keras import count_model

    row = BACKBONES[family]
    counts = count_model(row.build(keras, keras.Input((row.sizes[0], row.sizes[0], 3)), row.widths[0] if row.widths else None))
    assert counts.macs / 1e6 == pytest.approx(row.mmac, rel=0.05) and counts.parameters / 1e6 == pytest.approx(row.mparams, abs=0.06)


@pytest.mark.tensorflow
def test_the_three_formats_of_one_network_have_the_same_work(keras: Any, tmp_path: Path) -> None:
    from edgepress.counters_keras import count_model
    from edgepress.modelspec import NORMALIZATIONS, ModelSpec, to_json
    from edgepress.recipe import ConvertConfig
    from edgepress.stages.convert import convert

    body = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), alpha=0.35, include_top=False, pooling="avg")
    x = keras.layers.Dense(5, bias_initializer=keras.initializers.RandomNormal())(body.output)
    model = keras.Model(body.input, keras.layers.Softmax(name="probabilities")(x))
    random = np.random.default_rng(0)  # equal constants, such as biases that are all 0, would be stored once
    model.set_weights([random.uniform(0.5, 1.0, w.shape) * 0.1 for w in model.get_weights()])
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "in" / "model.keras")
    scale, offset = NORMALIZATIONS["-1..1"]
    (tmp_path / "in" / "model.json").write_text(to_json(ModelSpec(labels=tuple("abcde"), input_height=96, input_width=96, scale=scale, offset=offset)))
    convert(tmp_path / "out", model=tmp_path / "in", config=ConvertConfig())
    expected = count_model(model)
    saved = count_file(tmp_path / "in" / "model.keras")
    assert (saved.macs, saved.parameters) == (expected.macs, expected.parameters)
    folded = sum(op.parameters for op in expected.ops if op.kind in ("Conv2D", "DepthwiseConv2D", "Dense")) + sum(op.biases for op in expected.ops if op.kind == "BatchNormalization")
    for name in ("model.tflite", "model.onnx"):
        found = count_file(tmp_path / "out" / name)
        assert (found.macs, found.biases, found.activations, found.unknown) == (expected.macs, expected.biases, expected.activations, ()), name
        assert found.parameters == folded, name  # batch normalization became biases
        assert found.dtype == "float32" and by_group(tmp_path / "out" / name).keys() == {"convolution", "depthwise", "dense"}


# ---- by hand

@pytest.mark.parametrize("name, dtype, weight_bytes", [("tiny_float.tflite", "float32", 248 * 4), ("tiny_int8.tflite", "int8", 240 + 8 * 4), ("tiny_float.onnx", "float32", 248 * 4)])
def test_a_tiny_file(name: str, dtype: str, weight_bytes: int) -> None:
    """8 x 8 pixels, one 3x3 convolution with stride 2 (3 → 8), a dense layer (8 → 3)."""
    counts = count_file(TINY / name)
    assert by_group(TINY / name) == {"convolution": 4 * 4 * 8 * 27, "dense": 24}
    assert (counts.biases, counts.parameters, counts.dtype, counts.weight_bytes) == (8, 8 * 27 + 8 + 24, dtype, weight_bytes)


@pytest.mark.parametrize("kind", ["dense", "depthwise"])
@pytest.mark.parametrize("integer", [False, True])
def test_probes_have_the_work_they_say(tmp_path: Path, kind: str, integer: bool) -> None:
    for suffix, make in (("tflite", probe_models.tflite_probe), ("onnx", probe_models.onnx_probe)):
        path = tmp_path / f"probe.{suffix}"
        path.write_bytes(make(kind, integer=integer))
        [op] = count_file(path).ops
        assert (op.macs, op.group, op.dtype) == (probe_models.MACS[kind], "convolution" if kind == "dense" else "depthwise", "int8" if integer else "float32")
        side, channels = probe_models.SIDE, probe_models.DENSE_CHANNELS if kind == "dense" else probe_models.DEPTHWISE_CHANNELS
        assert op.input_bytes == op.output_bytes == side * side * channels * (1 if integer else 4)


def onnx_file(path: Path, nodes: list, constants: Dict[str, np.ndarray], *, inputs: tuple, outputs: tuple) -> Path:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
                              [numpy_helper.from_array(v, n) for n, v in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), str(path))
    return path


def test_onnx_groups_batches_and_integers(tmp_path: Path) -> None:
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    grouped = onnx_file(tmp_path / "g.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], group=2)], {"w": zeros(6, 2, 3, 3)}, inputs=("N", 4, 5, 5), outputs=("N", 6, 3, 3))
    assert count_file(grouped).macs == 6 * 9 * 2 * 9 and count_file(grouped).ops[0].group == "convolution"
    depthwise = onnx_file(tmp_path / "d.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], group=4)], {"w": zeros(8, 1, 3, 3)}, inputs=(1, 4, 5, 5), outputs=(1, 8, 3, 3))
    assert count_file(depthwise).macs == 8 * 9 * 9 and count_file(depthwise).ops[0].group == "depthwise"
    turned = onnx_file(tmp_path / "t.onnx", [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], {"w": zeros(4, 3, 2, 2)}, inputs=(1, 4, 5, 5), outputs=(1, 3, 10, 10))
    assert count_file(turned).macs == 4 * 25 * 3 * 4
    gemm = onnx_file(tmp_path / "m.onnx", [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"w": zeros(7, 10), "b": zeros(7)}, inputs=(1, 10), outputs=(1, 7))
    assert (count_file(gemm).macs, count_file(gemm).biases, count_file(gemm).parameters) == (70, 7, 77)
    opened = onnx_file(tmp_path / "o.onnx", [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])], {"w": zeros(2, 3, 2, 2)}, inputs=("N", 3, "H", "W"), outputs=("N", 2, "h", "w"))
    assert count_file(opened).macs == 112 * 112 * 2 * 12  # as it is measured: one photo of 224 pixels
    scale = {"s": np.float32(0.1), "z": np.uint8(0), "wq": np.zeros((7, 10), np.int8), "zw": np.int8(0)}
    pairs = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]), helper.make_node("DequantizeLinear", ["wq", "s", "zw"], ["w"]),
             helper.make_node("Gemm", ["d", "w"], ["y"], transB=1)]
    quantized = count_file(onnx_file(tmp_path / "q.onnx", pairs, scale, inputs=(1, 10), outputs=(1, 7)))
    gemm_op = next(op for op in quantized.ops if op.kind == "Gemm")
    assert (gemm_op.dtype, gemm_op.weight_bytes, gemm_op.input_bytes, gemm_op.parameters) == ("int8", 70, 10, 70) and len(quantized.ops) == 3  # the weights' DequantizeLinear is folded


@pytest.mark.tensorflow
def test_keras_layers_by_hand(keras: Any) -> None:
    from edgepress.counters_keras import count_model

    layers = keras.layers
    x = inputs = keras.Input((10, 10, 4))
    x = layers.Conv2D(6, 3, groups=2, use_bias=True)(x)  # 8x8x6 x 3x3x2
    x = layers.SeparableConv2D(5, 3, padding="same")(x)  # 8x8 x (6x9 + 6x5)
    x = layers.Conv2DTranspose(3, 2, strides=2)(x)  # every input value x 2x2x3
    model = keras.Model(inputs, layers.Dense(2, use_bias=False)(layers.Flatten()(layers.MaxPool2D(4)(x))))
    assert [op.macs for op in count_model(model).ops if op.macs] == [64 * 6 * 18, 64 * (54 + 30), 64 * 5 * 12, 4 * 4 * 3 * 2]


# ---- in the commands

def test_show_says_the_work() -> None:
    facts = describe(TINY / "tiny_float.onnx")
    assert facts["work"]["macs"] == 3480 and "3,480 multiply-accumulates (3,488 with biases)" in format_description(facts)
    assert format_counts({"macs": 300_774_272, "biases": 18_056, "activations": 6_679_112, "unknown": ["Foo f"]}) == \
        "300.77 million multiply-accumulates (300.79 million with biases), 6.68 million activations; not counted: Foo f"
    assert describe(TINY / "tiny_float.keras")["work"] is None


@pytest.mark.parametrize("name, message", [("nowhere.tflite", "does not exist"), ("made.txt", "is no model file"), ("damaged.tflite", "truncated or damaged"), ("damaged.onnx", "truncated")])
def test_wrong_input(tmp_path: Path, name: str, message: str) -> None:
    if name != "nowhere.tflite":
        source = (TINY / f"tiny_float{Path(name).suffix}") if name.startswith("damaged") else TINY / "tiny_float.onnx"
        (tmp_path / name).write_bytes(source.read_bytes()[:300])
    with pytest.raises(ModelError, match=message):
        count_file(tmp_path / name)
