"""Photos that devices get wrong: turned by EXIF, grey, transparent, 16-bit, CMYK, larger than a decoder wants. Made from a photo or a drawn scene."""
from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np
from PIL import Image

from edgepress.preprocess import decode

ORIENTATION = 0x0112
SIDE = 320  # of the copies; the large one is four times as wide


def hard_photos(folder: Path, source: Optional[Path] = None, *, besides: Sequence[str] = ()) -> List[Path]:
    """Write one photo of each hard kind into `folder`, from a photo or (None) from a drawn scene; not those that are there already, by the first word of their names."""
    image = scene() if source is None else decode(source)
    image = image.resize((SIDE, max(8, round(SIDE * image.height / image.width))), Image.Resampling.LANCZOS)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    present = {_kind(name) for name in besides}
    for name, write in KINDS.items():
        if _kind(name) in present:
            continue
        write(image, folder / name)
        paths.append(folder / name)
    return paths


def _kind(name: str) -> str:
    return name.partition(".")[0].partition("_")[0]


def scene() -> Image.Image:
    """A drawn scene with smooth and sharp parts in every channel, the same everywhere."""
    y, x = np.mgrid[0:240, 0:SIDE].astype(np.float64)
    waves = [127 + 80 * np.sin(x / (17 + 9 * c) + c) * np.cos(y / (23 - 5 * c)) + 40 * np.sin((x + y) / 5) for c in range(3)]
    pixels = np.stack(waves, axis=-1)
    pixels[(x - 220) ** 2 + (y - 90) ** 2 < 3000] = (230, 40, 30)
    pixels[150:210, 40:120] = (20, 60, 210)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=92, exif=exif)


def _transparent(image: Image.Image, path: Path) -> None:
    alpha = np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1))
    Image.merge("RGBA", (*image.split(), Image.fromarray(alpha))).save(path)


def _deep(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path)


def _large(image: Image.Image, path: Path) -> None:
    image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC).save(path, quality=90)  # decoded at a fraction of its size


KINDS: Dict[str, Callable[[Image.Image, Path], None]] = {
    "exif_rotated.jpg": _turned,
    "grey.png": lambda image, path: image.convert("L").save(path),
    "alpha.png": _transparent,
    "sixteen_bit.png": _deep,
    "palette.png": lambda image, path: image.quantize(64).save(path),
    "cmyk.jpg": lambda image, path: image.convert("CMYK").save(path, quality=92),
    "large.jpg": _large,
}
