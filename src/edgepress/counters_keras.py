"""Count the work in a legacy-Keras model from its layers' shapes; see counters.py."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from edgepress.counters import Counts, Op, heavy, product

MOVES = {"InputLayer", "Reshape", "Flatten", "ZeroPadding2D", "Concatenate", "Permute", "Cropping2D", "Dropout", "SpatialDropout2D", "UpSampling2D", "RepeatVector"}
_WIDTH = 4  # float32


def count(path: Path) -> Counts:
    """See counters.count_file. Imports TensorFlow; the file runs no code of its own."""
    from edgepress.keras_files import load_model

    return count_model(load_model(path), source=str(path))


def count_model(model: Any, *, source: str = "the model") -> Counts:
    """The work in a built model; nested models are counted layer by layer."""
    ops = tuple(_count_layer(layer) for layer in _layers(model))
    trainable = sum(product(w.shape) for w in _unique(model.weights) if "moving_" not in w.name)
    parameters = sum(product(w.shape) for w in _unique(model.weights))
    return Counts(file=source, format="keras", ops=ops, parameters=parameters, trainable=trainable, weight_bytes=parameters * _WIDTH)


def _unique(weights: Any) -> List[Any]:
    return list({id(weight): weight for weight in weights}.values())


def _layers(model: Any) -> Iterator[Any]:
    """All layers; wrappers (pruning, quantization-aware training) give the layer inside."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield getattr(layer, "layer", layer)


def _count_layer(layer: Any) -> Op:
    kind, output = type(layer).__name__, _shape(layer.output_shape)
    facts: Dict[str, Any] = {"group": "movement" if kind in MOVES else "elementwise"}
    kernel = _kernel(layer)
    if kernel and kind in ("Conv2D", "Conv1D", "Conv3D"):  # [..., in/groups, out]
        groups = int(getattr(layer, "groups", 1))
        facts = heavy("depthwise" if groups > 1 and kernel[-2] == 1 else "convolution", outputs=output, kernel=product(kernel[:-1]), depth=product(kernel[:-1]))
    elif kernel and kind in ("DepthwiseConv2D", "DepthwiseConv1D"):  # [h, w, in, multiplier]
        facts = heavy("depthwise", outputs=output, kernel=product(kernel[:-2]), depth=product(kernel[:-2]))
    elif kernel and kind == "SeparableConv2D":
        depthwise, pointwise = tuple(layer.depthwise_kernel.shape), tuple(layer.pointwise_kernel.shape)
        facts = heavy("convolution", outputs=output, kernel=product(pointwise[:-1]), depth=product(pointwise[:-1]))
        facts["macs"] += product(output[:-1]) * product(depthwise)
    elif kernel and kind in ("Conv2DTranspose", "Conv1DTranspose"):  # [h, w, out, in]
        facts = {**heavy("convolution", outputs=output, kernel=0, depth=product(kernel[:-1])), "macs": product(_shape(layer.input_shape)) * product(kernel[:-1])}
    elif kernel and kind == "Dense":
        facts = heavy("dense", outputs=output, kernel=kernel[0], depth=kernel[0])
    values = sum(product(w.shape) for w in layer.weights)
    return Op(**facts, name=layer.name, kind=kind, dtype="float32", biases=_biases(layer, kind), parameters=values, weight_bytes=values * _WIDTH,
              input_bytes=_bytes(getattr(layer, "input_shape", ())), output_bytes=product(output) * _WIDTH)


def _kernel(layer: Any) -> Tuple[int, ...]:
    for name in ("depthwise_kernel", "kernel"):
        if getattr(layer, name, None) is not None:
            return tuple(int(n) for n in getattr(layer, name).shape)
    return ()


def _biases(layer: Any, kind: str) -> int:
    """One addition a channel: of a bias, or of the batch normalization that becomes one when the file is converted."""
    if kind == "BatchNormalization":
        return product(layer.beta.shape) if layer.center else 0
    bias = getattr(layer, "bias", None)
    return product(bias.shape) if bias is not None and getattr(layer, "use_bias", False) else 0


def _shape(shape: Any) -> Tuple[int, ...]:
    """The first shape of what may be a list of them, open sizes as 1."""
    first = shape[0] if isinstance(shape, list) or (shape and isinstance(shape[0], (tuple, list))) else shape
    return tuple(1 if n is None else int(n) for n in first)


def _bytes(shape: Any) -> int:
    shapes = shape if isinstance(shape, list) or (shape and isinstance(shape[0], (tuple, list))) else [shape]
    return sum(product(1 if n is None else n for n in one) for one in shapes) * _WIDTH
