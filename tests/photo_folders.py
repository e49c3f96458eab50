"""Small folders of photos for tests: every photo is different, and different to the eye."""
from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image


def photo(seed: int, *, size: tuple = (40, 30)) -> Image.Image:
    """A smooth random picture, so that copies stay recognizable after re-encoding."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def class_folders(root: Path, *, labels: Sequence[str] = ("cat", "dog"), count: int = 12, seed: int = 0) -> Path:
    """`count` PNG photos in a folder per label."""
    for k, label in enumerate(labels):
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            photo(seed + 10_000 * k + i).save(root / label / f"{seed + i:05}.png", compress_level=1)
    return root
