"""The embedded default: scikit-learn's 1,797 handwritten digits of 8x8 pixels, as PNG files in class folders."""
from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from edgepress.errors import MissingDependencyError

NAME = "digits"


def write_digits(folder: Path) -> None:
    """Write `folder`/<digit>/<number>.png: grey, white ink (16 of scikit-learn's levels = 255) on black.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", extra="train", why="the digits default") from error
    digits = load_digits()
    values = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for number, (image, target) in enumerate(zip(values, digits.target)):
        file = folder / str(target) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_png(image))


def _png(grey: np.ndarray) -> bytes:
    """A small uint8 [h, w] image as PNG, not compressed: the same bytes with every zlib, so the split by content is the same everywhere."""
    raw = b"".join(b"\0" + row.tobytes() for row in grey)
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF) + raw + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in ((b"IHDR", header), (b"IDAT", stored), (b"IEND", b"")))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
