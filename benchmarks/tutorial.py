"""The work of a transfer-learning tutorial, done by the usual script and by edgepress, timed one after the other in one run.

The usual script follows TensorFlow's own guides: a frozen MobileNetV2 224 inside a Sequential model, ten epochs of `fit` for the head,
`TFLiteConverter.from_keras_model` once per variant, tf2onnx, and a loop that scores each file on the test images. edgepress makes the same kinds of
file (float32, float16, dynamic, weight-only or full-integer, int8, ONNX) and scores each on the same images.

    python benchmarks/tutorial.py --photos PHOTOS --weights WEIGHTS.h5      # PHOTOS holds train/ and test/ with one folder per class
"""
from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCHEMES = ("float32", "float16", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8")


def usual_script(photos: Path, weights: Path, out: Path) -> dict:
    """What a tutorial does, in its own words: Keras 3, tf.data, one converter call per variant."""
    import numpy as np
    import tensorflow as tf

    data = {split: tf.keras.utils.image_dataset_from_directory(photos / split, image_size=(224, 224), batch_size=32, shuffle=split == "train", seed=0)
            for split in ("train", "test")}
    base = tf.keras.applications.MobileNetV2(include_top=False, weights=str(weights), input_shape=(224, 224, 3))
    base.trainable = False
    inputs = tf.keras.Input((224, 224, 3))
    x = base(inputs / 127.5 - 1.0, training=False)
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    outputs = tf.keras.layers.Dense(len(data["train"].class_names), activation="softmax")(x)
    model = tf.keras.Model(inputs, outputs)
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data["train"], epochs=10, validation_data=data["test"], verbose=2)

    def representative():
        for image, _ in data["train"].unbatch().batch(1).take(100):
            yield [image]

    def convert(**settings) -> bytes:
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        for key, value in settings.items():
            target, _, name = key.rpartition("__")
            setattr(converter.target_spec if target else converter, name, value)
        return converter.convert()

    optimize = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    files = {"float32.tflite": convert(), "float16.tflite": convert(**optimize, target_spec__supported_types=[tf.float16]), "dynamic.tflite": convert(**optimize),
             "int8.tflite": convert(**optimize, representative_dataset=representative),
             "full_int8.tflite": convert(**optimize, representative_dataset=representative, target_spec__supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8],
                                         inference_input_type=tf.uint8, inference_output_type=tf.uint8)}
    for name, content in files.items():
        (out / name).write_bytes(content)
    import tf2onnx

    signature = [tf.TensorSpec((1, 224, 224, 3), tf.float32, name="image")]
    tf2onnx.convert.from_function(tf.function(lambda image: model(image, training=False)), input_signature=signature, output_path=str(out / "float32.onnx"))
    images = np.concatenate([x.numpy() for x, _ in data["test"]])
    targets = np.concatenate([y.numpy() for _, y in data["test"]])
    return {name: _score_tflite(tf, out / name, images, targets) for name in files} | {"float32.onnx": _score_onnx(out / "float32.onnx", images, targets)}


def _score_tflite(tf, path: Path, images, targets) -> float:
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    right = 0
    for image, target in zip(images, targets):
        interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
        interpreter.invoke()
        right += int(interpreter.get_tensor(sink["index"]).argmax() == target)
    return right / len(targets)


def _score_onnx(path: Path, images, targets) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return sum(int(session.run(None, {name: image[None]})[0].argmax() == target) for image, target in zip(images, targets)) / len(targets)


def edgepress_run(photos: Path, weights: Path, out: Path) -> dict:
    """The same through edgepress: dataset, head (one view of each photo, as the script has), convert, quantize (100 calibration images, as the script), evaluate."""
    from edgepress.pipeline import Runner, plan
    from edgepress.single import build_recipe, runtimes_by_format

    recipe = build_recipe(photos, {"strategy": "head", "weights": str(weights), "schemes": SCHEMES, "runtimes": ("litert", "onnxruntime"), "views": 1, "samples": 100})
    steps = [s for s in plan(recipe, runtimes=runtimes_by_format(recipe))
             if s.stage in ("dataset", "finetune", "convert") or s.stage in ("quantize", "evaluate") and (s.variant.endswith(".tflite") or s.variant == "float32.onnx")]
    runner = Runner(recipe, out, on_step=lambda name, status, seconds: None)
    runner.run_steps(steps)
    return {s.variant: json.loads((runner.artifacts[s.id] / "evaluation.json").read_text())["accuracy"] for s in steps if s.stage == "evaluate"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--only", choices=("usual_script", "edgepress_run"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        accuracy = globals()[options.only](options.photos.resolve(), options.weights.resolve(), options.out)
        (options.out / "accuracy.json").write_text(json.dumps(accuracy))
        return
    result = {}
    for name in ("edgepress_run", "usual_script"):
        out = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        command = [sys.executable, __file__, "--photos", str(options.photos), "--weights", str(options.weights), "--only", name, "--out", str(out)]
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=sys.stderr)
        result[name] = {"seconds": round(time.monotonic() - started, 1), "accuracy": json.loads((out / "accuracy.json").read_text())}
        shutil.rmtree(out)
    result["ratio"] = round(result["usual_script"]["seconds"] / result["edgepress_run"]["seconds"], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
