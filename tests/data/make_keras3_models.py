"""Make the tiny Keras 3 files of the tests and what they answer. Run once: python tests/data/make_keras3_models.py"""
from __future__ import annotations

import os
from pathlib import Path

os.environ.pop("TF_USE_LEGACY_KERAS", None)
import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

HERE = Path(__file__).resolve().parent


def network() -> keras.Model:
    """A nested backbone with batch norm, depthwise convolution and a branch; augmentation, arithmetic and dropout around it."""
    inner_input = keras.Input((8, 8, 3), name="inner_input")
    x = layers.ZeroPadding2D(1)(inner_input)
    x = layers.Conv2D(6, 3, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(max_value=6.0)(x)
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    y = layers.BatchNormalization()(y)
    y = layers.SeparableConv2D(6, 3, padding="same", activation="relu")(y)
    x = layers.Concatenate()([layers.Add()([x, y]), x])
    backbone = keras.Model(inner_input, layers.GlobalAveragePooling2D()(x), name="backbone")

    outer = keras.Input((8, 8, 3), name="picture")
    x = layers.RandomFlip()(outer)
    x = layers.Rescaling(2.0, offset=-1.0)(x)
    x = backbone(x, training=False)
    x = layers.Dropout(0.3)(x)
    x = layers.Dense(4, activation="tanh")(x) * 2.0 + 0.5
    return keras.Model(outer, layers.Dense(3, activation="softmax", name="scores")(x), name="keras3")


def main() -> None:
    """Write keras3.keras, keras3.h5 and keras3.npz (x, y) beside this script."""
    model = network()
    random = np.random.default_rng(0)
    for layer in [*model.get_layer("backbone").layers, *model.layers]:
        for weight in layer.weights if not isinstance(layer, keras.Model) else ():
            if weight.dtype == "float32":
                weight.assign(random.uniform(0.3, 0.9, weight.shape) if "variance" in weight.path else random.normal(0, 0.7, weight.shape))
    model.save(HERE / "keras3.keras")
    model.save(HERE / "keras3.h5")
    x = random.uniform(0, 1, (5, 8, 8, 3)).astype(np.float32)
    np.savez_compressed(HERE / "keras3.npz", x=x, y=model.predict(x, verbose=0))


if __name__ == "__main__":
    main()
