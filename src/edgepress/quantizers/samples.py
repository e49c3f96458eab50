"""Calibration inputs of a float file: photos (as pixels) or tensors, and how each becomes what the file's input takes."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np

from edgepress.errors import DatasetError, RecipeError
from edgepress.feeding import feed_pixels, feed_tensors
from edgepress.imageset import calibration_images, pixel_file
from edgepress.modelspec import ModelSpec
from edgepress.own_spec import guess_spec
from edgepress.quantizers.calibration import Feeds
from edgepress.runtimes.base import TensorInfo

TENSOR_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True)
class Samples:
    """Rows to calibrate with: uint8 pixels [N, H, W, 3] or tensors [N, …], and where they came from."""

    values: np.ndarray
    kind: str  # images | tensors
    digests: Tuple[str, ...]
    spec: Optional[ModelSpec]

    def feeds(self, info: TensorInfo) -> Feeds:
        """Inputs of batch 1 for a file whose input is `info`."""
        if self.kind == "images":
            return Feeds(self.values, lambda row: feed_pixels(row[None], info, self.spec))
        return Feeds(self.values, lambda row: feed_tensors(row[None], info))

    def facts(self) -> Dict[str, Any]:
        """What quantization.json says about them."""
        return {"count": len(self.values), "kind": self.kind, "sha256": list(self.digests)}


def load_samples(source: Optional[Path], *, file: str, info: TensorInfo, spec: Optional[ModelSpec], count: int, seed: int, cache: Path, scheme: str) -> Samples:
    """Calibration inputs of `file` from a dataset artifact (training split only), photos, or a .npy/.npz array [N, …].

    Raises:
        RecipeError: there is no `source`.
        DatasetError: it holds nothing usable.
        ModelError: photos for a file whose input is no image, or a float image input without a ModelSpec.
    """
    if source is None:
        raise RecipeError(f"{scheme} chooses activation ranges on real inputs and was given none",
                          "add --calibration DIR (a dataset, or a folder of photos like those it will see; 100 are enough)")
    if source.suffix.lower() in TENSOR_SUFFIXES:
        return _load_tensors(source, count=count, seed=seed)
    spec = spec or guess_spec(file, shape=info.shape, dtype=info.dtype, otherwise="give --calibration a .npy array [N, …] of inputs")
    images = calibration_images(source, count=count, seed=seed)
    return Samples(np.load(pixel_file(images, spec, cache=cache), mmap_mode="r"), "images", images.digests, spec)


def _load_tensors(source: Path, *, count: int, seed: int) -> Samples:
    from edgepress.artifact import digest_file

    try:
        loaded = np.load(source, allow_pickle=False)
        values = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise DatasetError(f"{source} cannot be read as an array of inputs ({error})", "give a .npy file [N, …] saved by numpy.save") from error
    if values.ndim < 2 or not len(values):
        raise DatasetError(f"{source} has shape {list(values.shape)}; accepted: one row per input, [N, …]", "stack the inputs along a first axis")
    order = np.random.default_rng(seed).permutation(len(values))[:count]
    return Samples(values[np.sort(order)], "tensors", (digest_file(source),), None)

