"""Tiny flat models and images for the pruning tests."""
from __future__ import annotations

from typing import Any, Tuple

import numpy as np

from edgepress.modelspec import NORMALIZATIONS, ModelSpec
from edgepress.pruning.training import Images
from edgepress.tf import import_tensorflow

SIDE = 16
CLASSES = ("dark", "light", "striped")


def tiny_spec() -> ModelSpec:
    scale, offset = NORMALIZATIONS["-1..1"]
    return ModelSpec(labels=CLASSES, input_height=SIDE, input_width=SIDE, scale=scale, offset=offset, normalization_inside=False, input_type="float32")


def tiny_model() -> Any:
    """Stem, depthwise, pointwise and dense layers with batch normalisation: one of each kind that matters."""
    _, keras = import_tensorflow()
    layers = keras.layers
    keras.utils.set_random_seed(1)
    image = layers.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(6.0)(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.Conv2D(32, 1, name="pointwise")(x)
    x = layers.BatchNormalization(name="pointwise_bn")(x)
    x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(len(CLASSES), name="logits")(x)
    return keras.Model(image, layers.Softmax(name="probabilities")(x))


def tiny_images(count: int = 48) -> Images:
    """Dark, light and striped squares: learned in a few steps."""
    generator = np.random.default_rng(0)
    targets = np.arange(count) % 3
    pixels = generator.integers(0, 40, size=(count, SIDE, SIDE, 3))
    pixels[targets == 1] += 200
    pixels[targets == 2, ::2] += 200
    return Images(pixels.astype(np.uint8), targets.astype(np.int64))


def dense_model() -> Tuple[Any, ModelSpec]:
    """Only dense layers, which TFMOT prunes in blocks too."""
    _, keras = import_tensorflow()
    layers = keras.layers
    image = layers.Input((SIDE, SIDE, 3))
    x = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten()(image))
    x = layers.Dense(len(CLASSES), name="logits")(x)
    return keras.Model(image, layers.Softmax(name="probabilities")(x)), tiny_spec()
