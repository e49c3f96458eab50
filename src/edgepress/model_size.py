"""How small a model file is, can be sent, and could be at best: gzip, xz, zstd, and the entropy of its weights."""
from __future__ import annotations

import lzma
import shutil
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterable, Iterator, Optional

import numpy as np

SMALLEST = 64
ZSTD_LEVEL = 19
_BLOCK = 1 << 20


def packed_bytes(file: Path) -> Dict[str, Optional[int]]:
    """Sizes after gzip, xz and zstd; all at once, since each takes seconds for a large file."""
    packers = {"gzip": gzip_bytes, "xz": xz_bytes, "zstd": zstd_bytes}
    with ThreadPoolExecutor(len(packers)) as pool:
        return dict(zip(packers, pool.map(lambda packer: packer(file), packers.values())))


def gzip_bytes(file: Path) -> int:
    """Size after gzip -9: what a download of the file costs."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return sum(len(packer.compress(block)) for block in _blocks(file)) + len(packer.flush())


def xz_bytes(file: Path) -> int:
    """Size after xz -6: the best that the standard library does."""
    packer = lzma.LZMACompressor()
    return sum(len(packer.compress(block)) for block in _blocks(file)) + len(packer.flush())


def zstd_bytes(file: Path) -> Optional[int]:
    """Size after zstd -19, by Python 3.14's module, the zstandard package or the zstd program; None where none of them is there."""
    for module in ("compression.zstd", "zstandard"):
        try:
            return len(__import__(module, fromlist=["compress"]).compress(file.read_bytes(), ZSTD_LEVEL))
        except ImportError:
            continue
    program = shutil.which("zstd")
    if program is None:
        return None
    done = subprocess.run([program, f"-{ZSTD_LEVEL}", "-c", "-q", str(file)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return len(done.stdout) if done.returncode == 0 else None


def entropy_bytes(arrays: Iterable[np.ndarray]) -> int:
    """Bytes that an ideal coder of single values needs for weights: zeroth-order entropy, each tensor with its own code, without the code tables.

    Values of more than 16 bits (float32) are taken byte by byte, each place with a code of its own: hardly any of them occurs twice. A coder that knows more than single values
    (order, other tensors) may do better; no coder of single values does (Shannon 1948).
    """
    return int(np.ceil(sum(_entropy_bits(np.ascontiguousarray(array).reshape(-1)) for array in arrays) / 8))


def rest_bytes(file: Path, arrays: Iterable[np.ndarray]) -> int:
    """Size after xz -6 of everything in a file but these arrays: they are looked for in its bytes and blanked out."""
    data = bytearray(file.read_bytes())
    for array in arrays:
        raw = np.ascontiguousarray(array).tobytes()
        at = data.find(raw) if len(raw) >= SMALLEST else -1  # smaller ones could be anywhere, and are next to nothing
        if at >= 0:
            data[at:at + len(raw)] = bytes(len(raw))
    return len(lzma.compress(bytes(data)))


def _entropy_bits(flat: np.ndarray) -> float:
    if flat.itemsize > 2:
        return sum(_entropy_bits(plane) for plane in flat.view(np.uint8).reshape(-1, flat.itemsize).T) if flat.size else 0.0
    counts = np.bincount(flat.view(f"u{flat.itemsize}"))
    counts = counts[counts > 0].astype(np.float64)
    return float(-(counts * np.log2(counts / flat.size)).sum()) if flat.size else 0.0


def _blocks(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as stream:
        yield from iter(lambda: stream.read(_BLOCK), b"")
