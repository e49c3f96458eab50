"""The one way a photo becomes pixels: decode, EXIF orientation, RGB, resize. Host, calibration and device all use it."""
from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Tuple, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgepress.errors import DatasetError

MAX_PIXELS = 64_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
Source = Union[str, Path, bytes]


def decode(source: Source, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an image file as upright RGB: alpha over white, 16-bit scaled (Pillow alone clips it), CMYK converted.

    Args:
        source: a path, or the bytes of the file.
        max_pixels: a larger image is refused from its header, before anything is decoded.

    Raises:
        DatasetError: not an image, truncated, or too large; the message names the file and the reason.
    """
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ours is the stricter cap, and a palette with transparency is handled below
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.width * image.height > max_pixels:
                    raise DatasetError(f"{name} has {image.width} x {image.height} pixels; accepted: at most {max_pixels / 1e6:g} megapixels")
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
    except DatasetError:
        raise
    except UnidentifiedImageError as error:
        raise DatasetError(f"{name} is empty" if _size(source) == 0 else f"{name} is not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{name} has too many pixels; accepted: at most {max_pixels / 1e6:g} megapixels") from error
    except (OSError, SyntaxError, ValueError, IndexError, EOFError, TypeError, AttributeError, KeyError, MemoryError) as error:  # what Pillow's plug-ins raise on damaged files
        raise DatasetError(f"{name} is damaged or truncated ({error})") from error


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else Path(source).stat().st_size


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return _from_high_depth(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_high_depth(image: Image.Image) -> Image.Image:
    """16-bit (and 32-bit integer or float) grey as 8-bit: 0…65535 becomes 0…255; values that fit in 8 bits stay."""
    values = np.asarray(image).astype(np.float64)
    top = float(values.max()) if values.size else 0.0
    if image.mode == "F" and top <= 1.0:
        values = values * 255.0
    elif image.mode.startswith("I;16") or top > 255.0:
        values = values * (255.0 / 65535.0)
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def to_pixels(image: Image.Image, *, size: Tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """Bilinear resize with antialiasing to uint8 [height, width, 3].

    Args:
        size: (height, width) in pixels.
        resize: stretch (ignores the aspect ratio) | crop (fills, then cuts the centre) | pad (fits, black around it).
    """
    height, width = size
    if resize == "crop":
        scaled = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    elif resize == "pad":
        scaled = ImageOps.pad(image, (width, height), method=Image.Resampling.BILINEAR, color=(0, 0, 0))
    else:
        scaled = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled, dtype=np.uint8)


def load_pixels(source: Source, spec: Any, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A photo as the pixels that the model of `spec` (a ModelSpec) takes: uint8 [height, width, 3], RGB."""
    return to_pixels(decode(source, max_pixels=max_pixels), size=(spec.input_height, spec.input_width), resize=spec.resize)
