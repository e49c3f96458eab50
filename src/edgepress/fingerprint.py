"""What this machine makes of given photos, step by step: digests of decoding and resizing, and the file's raw answers. Device-safe.

Two machines that run this on the same photos can be compared, and a difference is located: in decoding, in resizing, or in inference.
"""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgepress.errors import DatasetError
from edgepress.feeding import feed_pixels
from edgepress.preprocess import decode_reduced, read_bytes, to_pixels

if TYPE_CHECKING:
    from edgepress.modelspec import ModelSpec
    from edgepress.runtimes.base import Session, TensorInfo


def library_versions() -> Dict[str, str]:
    """Versions of what turns files into pixels."""
    import PIL

    return {"numpy": np.__version__, "pillow": PIL.__version__}


def photo_steps(path: Path, spec: ModelSpec) -> Tuple[Dict[str, Any], Optional[np.ndarray]]:
    """Digests of a photo after decoding and after resizing, and its pixels uint8 [H, W, 3]; {"error"} and None where it cannot be decoded here."""
    size = spec.input_height, spec.input_width
    try:
        image, whole = decode_reduced(read_bytes(path), side=max(size))
    except DatasetError as error:
        return {"error": error.message}, None
    pixels = to_pixels(image, size=size, resize=spec.resize)
    return {"size": list(whole), "decoded_sha256": hashlib.sha256(image.tobytes()).hexdigest(), "pixels_sha256": array_digest(pixels)}, pixels


def array_digest(array: np.ndarray) -> str:
    """Digest of an array's values, shape and type."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def photo_answers(session: Session, photos: Sequence[Path], given: np.ndarray, spec: ModelSpec) -> Tuple[List[Dict[str, Any]], np.ndarray]:
    """Steps of every photo, and answers float32 [2N, K]: first those to the given pixels (inference alone), then those to this machine's own (the whole way).

    Args:
        given: uint8 [N, H, W, 3]: the pixels that the other machine made of the same photos.
    """
    steps, first, second = [], [], []
    for path, pixels in zip(photos, given):
        step, own = photo_steps(path, spec)
        answer = _answer(session, pixels, spec)
        different = own is not None and not np.array_equal(own, pixels)
        if own is not None and different:
            step["pixels_max_difference"] = int(np.abs(own.astype(np.int16) - pixels.astype(np.int16)).max())
        steps.append(step)
        first.append(answer)
        second.append(_answer(session, own, spec) if different else answer)
    return steps, np.stack(first + second)


def tensor_answers(session: Session, inputs: Sequence[Sequence[np.ndarray]]) -> Tuple[List[Dict[str, Any]], np.ndarray]:
    """Digest of every input, and answers float32 [N, K], of a file whose inputs are not photos."""
    steps = [{"inputs_sha256": hashlib.sha256("".join(map(array_digest, arrays)).encode()).hexdigest()} for arrays in inputs]
    return steps, np.stack([_flat(session.run(list(arrays)), session.outputs) for arrays in inputs])


def _answer(session: Session, pixels: np.ndarray, spec: ModelSpec) -> np.ndarray:
    array = feed_pixels(pixels[None], session.inputs[0], spec)
    batch = session.inputs[0].shape[0] if session.inputs[0].shape else 1
    return _flat([output[:1] if batch > 1 else output for output in session.run([np.repeat(array, batch, axis=0) if batch > 1 else array])], session.outputs)


def _flat(outputs: Sequence[np.ndarray], infos: Sequence[TensorInfo]) -> np.ndarray:
    """All outputs one after the other as real numbers, float32 [K]."""
    rows = []
    for output, info in zip(outputs, infos):
        values = np.asarray(output).astype(np.float32).ravel()
        if info.scale is not None and np.asarray(output).dtype.kind in "iu":
            values = (values - np.float32(info.zero_point or 0)) * np.float32(info.scale)
        rows.append(values)
    return np.concatenate(rows) if rows else np.zeros(0, np.float32)
