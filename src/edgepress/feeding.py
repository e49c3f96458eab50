"""Between pixels and a file's tensors: normalise, order channels, quantise on the way in; dequantise, softmax on the way out."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepress.errors import ModelError
from edgepress.modelspec import ModelSpec

if TYPE_CHECKING:
    from edgepress.runtimes.base import TensorInfo

_LUMA = np.float32([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow converts to "L"


def feed_pixels(pixels: np.ndarray, info: TensorInfo, spec: ModelSpec) -> np.ndarray:
    """RGB bytes `[N, H, W, 3]` as what the file's input takes, by the file's type and the spec.

    Where the normalisation is inside the graph the bytes go in as they are (an int8 input takes byte − 128: its twin).
    """
    if spec.channels == 1 and pixels.shape[-1] == 3:
        pixels = np.rint(pixels @ _LUMA).astype(np.uint8)[..., None]
    if spec.normalization_inside:
        values = (pixels ^ 0x80).view(np.int8) if info.dtype == "int8" else pixels.astype(info.dtype, copy=False)
    else:
        channels = pixels.shape[-1]
        values = pixels.astype(np.float32) * np.float32(spec.scale[:channels]) + np.float32(spec.offset[:channels])
        if spec.channel_order == "bgr":
            values = values[..., ::-1]
        values = quantize(values, info)
    if spec.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values)


def feed_tensors(rows: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Rows of a caller's array `[N, …]` in the file's shape and type: real numbers are quantised, numbers of the file's own type are taken as stored.

    Raises:
        ModelError: a row does not have as many numbers as the input.
    """
    shape = (len(rows),) + tuple(info.shape[1:])
    known = [n for n in shape[1:] if n != -1]
    if len(known) == len(shape) - 1 and rows[0].size != int(np.prod(known, dtype=np.int64)):
        raise ModelError(f"a row has {rows[0].size} numbers; input {info.name!r} takes {list(info.shape[1:])}", "give rows of the input's shape")
    values = rows if rows.dtype.name == info.dtype else quantize(rows.astype(np.float32), info)
    return np.ascontiguousarray(values.reshape(shape) if len(known) == len(shape) - 1 else values)


def quantize(values: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Real numbers in the file's type: stored = round(real / scale) + zero point, clipped; a plain cast for real types.

    Raises:
        ModelError: an integer type without a scale.
    """
    dtype = np.dtype(info.dtype)
    if dtype.kind not in "iu":
        return values.astype(dtype, copy=False)
    if info.scale is None or info.zero_point is None:
        raise ModelError(f"input {info.name!r} is {info.dtype} without scale and zero point, so real numbers cannot be turned into it",
                         "if the file normalises by itself, say normalization_inside in its model.json")
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values / np.float32(info.scale)) + info.zero_point, limits.min, limits.max).astype(dtype)


def read_scores(output: np.ndarray, info: TensorInfo, *, logits: bool) -> np.ndarray:
    """An output as float32 `[N, C]`: dequantised by its scale and zero point, with a softmax where the file ends in logits."""
    scores = output.astype(np.float32)
    if info.scale is not None and output.dtype.kind in "iu":
        scores = (scores - np.float32(info.zero_point or 0)) * np.float32(info.scale)
    scores = scores.reshape(len(scores), -1) if scores.ndim else scores.reshape(1, 1)
    return softmax(scores) if logits else scores


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, safe for large numbers."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
