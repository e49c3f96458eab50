"""Make the tiny model files of the fast tests: 8x8 RGB bytes in, probabilities of red, green and blue out.

Run once with TensorFlow, tf2onnx and onnx installed: python tests/data/make_models.py
The network is written by hand, not trained: three filters average one colour each, so the right answer for a plain image is known.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Iterator

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from edgepress.tf import import_tensorflow  # noqa: E402

HERE = Path(__file__).resolve().parent
LABELS = ("red", "green", "blue")


def kernels() -> tuple[np.ndarray, np.ndarray]:
    """(convolution kernel [3, 3, 3, 8], dense kernel [8, 3]): filters 0–2 average a colour over 3x3, 3–7 are noise nobody listens to much."""
    random = np.random.default_rng(0)
    convolution = random.normal(0, 0.002, (3, 3, 3, 8)).astype(np.float32)
    convolution[..., :3] = np.eye(3, dtype=np.float32) / 9 / 255
    dense = random.normal(0, 0.05, (8, 3)).astype(np.float32)
    dense[:3] = 8 * np.eye(3, dtype=np.float32) - 4 * (1 - np.eye(3, dtype=np.float32))
    return convolution, dense


def network(tf: Any, *, input_type: Any) -> Any:
    """A concrete function `[1, 8, 8, 3]` → `[1, 3]`."""
    convolution, dense = kernels()

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], input_type, name="image")])
    def run(image: Any) -> dict[str, Any]:
        x = tf.cast(image, tf.float32)
        x = tf.nn.relu(tf.nn.conv2d(x, convolution, strides=2, padding="SAME"))
        x = tf.reduce_mean(x, axis=[1, 2])
        return {"probabilities": tf.nn.softmax(tf.linalg.matmul(x, dense))}
    return run.get_concrete_function()


def calibration() -> Iterator[list[np.ndarray]]:
    """Plain and noisy images."""
    random = np.random.default_rng(1)
    for colour in (*np.eye(3), np.zeros(3), np.ones(3)):
        yield [np.broadcast_to(255 * colour, (1, 8, 8, 3)).astype(np.float32)]
    for _ in range(20):
        yield [random.integers(0, 256, (1, 8, 8, 3)).astype(np.float32)]


def main() -> None:
    """Write tiny_float.tflite, tiny_int8.tflite, tiny_float.onnx and tiny_float.keras beside this script."""
    tf, keras = import_tensorflow()
    concrete = network(tf, input_type=tf.uint8)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    (HERE / "tiny_float.tflite").write_bytes(converter.convert())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([network(tf, input_type=tf.float32)])
    converter.optimizations, converter.representative_dataset = [tf.lite.Optimize.DEFAULT], calibration
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.float32
    (HERE / "tiny_int8.tflite").write_bytes(converter.convert())
    write_onnx()
    write_keras(keras)


def write_keras(keras: Any) -> None:
    """The same network for legacy Keras: float32 input 0…255, any batch."""
    convolution, dense = kernels()
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", use_bias=False, name="convolution")(image)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(3, use_bias=False, name="logits")(x)
    model = keras.Model(image, keras.layers.Activation("softmax", name="probabilities")(x), name="tiny")
    model.get_layer("convolution").set_weights([convolution])
    model.get_layer("logits").set_weights([dense])
    model.save(HERE / "tiny_float.keras")


def write_onnx() -> None:
    """The float file as ONNX, with the ModelProto contract of `convert`: opset 15, IR 8."""
    import onnx
    import tf2onnx

    model, _ = tf2onnx.convert.from_tflite(str(HERE / "tiny_float.tflite"), opset=15)
    model.ir_version = min(model.ir_version, 8)
    onnx.save(model, str(HERE / "tiny_float.onnx"))


if __name__ == "__main__":
    main()
