"""The one way a photo becomes pixels: decode, orient, RGB, resize. Host, calibration and device all use it.

Device-safe: standard library, NumPy and Pillow, Python 3.9. Every rule is fixed here, so two machines with the same Pillow get the same bytes:
EXIF orientation is applied, transparency is laid on white, 16-bit samples keep their high byte (Pillow alone would clip them to white),
animations give their first frame, and resizing is bilinear with support that grows with the reduction (so it does not alias).
"""
from __future__ import annotations

import io
import os
import struct
import threading
from typing import Any, Mapping, Optional, Tuple, Union

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgepress.errors import DatasetError

Source = Union[str, "os.PathLike[str]", bytes]
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 512 << 20  # no photo is larger; bounds the memory one file can take
RESIZES = ("stretch", "crop", "pad")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
                      ".mpo", ".jp2", ".j2k", ".avif", ".ico"})
# Pillow would also open EPS (starts Ghostscript) and formats without a signature, which take any file for an image.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
RARE_FORMATS = ("WEBP", "TIFF", "MPO", "JPEG2000", "AVIF", "ICO")
_REDUCING_GAP = 3.0  # Pillow: indistinguishable from a full resize, and much faster for large reductions
_SMALLEST_REDUCED = 600
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_TURNS: Mapping[Any, Any] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}
_opening = threading.Lock()


class UnusableImage(DatasetError):
    """An image file that cannot be used. `reason` says why, without the file's name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be used: {reason}", "replace or remove this file")
        self.reason = reason


def name_of(source: Source) -> str:
    """How messages and JSON call a source; bytes of a file name that are not UTF-8 become \\x escapes."""
    return "an image" if isinstance(source, bytes) else os.fsencode(source).decode("utf-8", "backslashreplace")


def decode(source: Source, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an image file, upright, in mode RGB.

    Args:
        source: a path, or the bytes of the file.
        max_pixels: width × height above which a file is refused from its header, before anything is decompressed.

    Raises:
        UnusableImage: (a DatasetError) missing, empty, not an image, truncated, or larger than `max_pixels`.
    """
    return _decode(source, max_pixels, None)[0]


def decode_reduced(source: Source, *, side: int, max_pixels: int = MAX_PIXELS) -> Tuple[Image.Image, Tuple[int, int]]:
    """As `decode`, for an image that will be resized to at most `side` pixels: a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size.

    Both sides stay at least twice `side`, and 600. A 12-megapixel photo takes 20 ms instead of 49, resized to 224 its pixels differ by 1 at most.

    Returns:
        The image, and the (width, height) of the whole upright photo.
    """
    return _decode(source, max_pixels, max(2 * side, _SMALLEST_REDUCED))


def _decode(source: Source, max_pixels: int, smallest: Optional[int]) -> Tuple[Image.Image, Tuple[int, int]]:
    name = name_of(source)
    data = source if isinstance(source, bytes) else read_bytes(source)
    try:
        image = _open(data)
        width, height = image.size
        if width * height > max_pixels:
            raise UnusableImage(name, f"{width}x{height} is {width * height / 1e6:.1f} megapixels, more than the {max_pixels / 1e6:g} accepted (a decompression bomb?)")
        reduced = smallest is not None and image.draft(None, (smallest, smallest))  # None for other formats
        image.load()
        orientation = _orientation(image)
        image = _to_rgb(image)
        turn = _TURNS.get(orientation)
        image = image if turn is None else image.transpose(turn)
        return image, image.size if not reduced else (height, width) if orientation in (5, 6, 7, 8) else (width, height)
    except UnusableImage:
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, …
        raise UnusableImage(name, _explain(error, data)) from error


def read_bytes(path: Union[str, "os.PathLike[str]"]) -> bytes:
    """The bytes of an image file.

    Raises:
        UnusableImage: cannot be read, or is larger than any photo.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise UnusableImage(name_of(path), f"{size / 2**20:.0f} MiB is more than the {MAX_FILE_BYTES >> 20} MiB accepted")
            return file.read()
    except OSError as error:
        raise UnusableImage(name_of(path), f"it cannot be read ({error.strerror})") from error


def to_pixels(image: Image.Image, *, size: Tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """An RGB image as uint8 `[h, w, 3]`, resized bilinearly.

    Args:
        size: (height, width) in pixels.
        resize: stretch (ignores the aspect ratio) | crop (the largest centered part of the right aspect ratio) | pad (all of it, between black bars).

    Raises:
        ValueError: a resize rule that does not exist.
    """
    height, width = size
    if resize == "stretch":
        return _resized(image, (width, height))
    if resize == "crop":
        scale = max(width / image.width, height / image.height)
        left, top = max(0.0, (image.width - width / scale) / 2), max(0.0, (image.height - height / scale) / 2)
        return _resized(image, (width, height), (left, top, image.width - left, image.height - top))
    if resize == "pad":
        scale = min(width / image.width, height / image.height)
        inner = min(width, max(1, round(image.width * scale))), min(height, max(1, round(image.height * scale)))
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[top:top + inner[1], left:left + inner[0]] = _resized(image, inner)
        return canvas
    raise ValueError(f"resize is {resize!r}; accepted: {', '.join(RESIZES)}")


def load_pixels(source: Source, spec: Any, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A photo as the pixels that a contract model with this ModelSpec takes: uint8 RGB `[h, w, 3]`.

    Raises:
        UnusableImage: as `decode`.
    """
    size = spec.input_height, spec.input_width
    return to_pixels(decode_reduced(source, side=max(size), max_pixels=max_pixels)[0], size=size, resize=spec.resize)


def _resized(image: Image.Image, size: Tuple[int, int], box: Optional[Tuple[float, float, float, float]] = None) -> np.ndarray:
    if image.size != size or box is not None:
        image = image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP)
    return np.array(image, dtype=np.uint8)


def _open(data: bytes) -> Image.Image:
    """Open without Pillow's own size check, which only warns up to 178 megapixels; `decode` has its own limit."""
    with _opening:  # MAX_IMAGE_PIXELS is a global of Pillow
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            Image.init()  # imports every plugin, 50 ms: only for files that are rare
            return Image.open(io.BytesIO(data), formats=[name for name in RARE_FORMATS if name in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation 1–8. An EXIF block that cannot be read counts as none: the pixels are whole."""
    try:
        return image.getexif().get(_ORIENTATION)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_high_bytes(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_bytes(image: Image.Image) -> np.ndarray:
    """Grey samples of more than 8 bits as uint8 `[h, w]`: by the range of their type where it tells, so that dark photos stay dark."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]  # a TIFF may hold 12 bits in 16
        return (values >> (min(bits, 16) - 8)).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float64))
    if image.mode == "I":
        top = 65535.0 if values.max() <= 65535 else 2.0 ** 31 - 1
    else:  # floats have no range of their own: 0…1, 0…255, 0…65535, or up to their maximum
        top = next((limit for limit in (1.0, 255.0, 65535.0) if values.max() <= limit), values.max())
    return np.clip(values * (255 / top), 0, 255).astype(np.uint8)


def _explain(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty (0 bytes)"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"hevc", b"msf1"):
        return "HEIC is not read here; convert it to JPEG first"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or its header is damaged"
    return f"it is damaged ({str(error) or type(error).__name__})"
