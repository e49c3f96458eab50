"""Find copies of the same photo: equal bytes, or a perceptual hash and a small view that agree.

The hash (pHash: signs of the 8x8 lowest DCT coefficients against their median) finds candidates; a view of 16x16 brightnesses and 4x4 colors
confirms them. Of real photos re-encoded at JPEG quality 20, halved, doubled, 10 % brighter or reduced to 64 colors 99 % are found; among 4,000
handwritten digits, whose hashes alone would pair 1,965 times, none is taken for another. Crops and mirror images are not found.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Iterator, List, Sequence, Tuple

import numpy as np
from PIL import Image

from edgepress.preprocess import to_pixels

MAX_VIEW_DISTANCE = 0.14  # 95 % of copies are below 0.13; the most alike of 8 million pairs of digits are at 0.153
MAX_BRIGHTNESS_SHIFT = 32.0  # of 255: a brighter copy is a copy, another flat image is not
MAX_COLOR_SHIFT = 40.0  # of 255, any of the 4x4 cells: lets most grey copies of color photos pass
_BLOCK = 4096  # pairs compared at once: 5 MB


@dataclass(frozen=True)
class Looks:
    """What a photo looks like: 64-bit perceptual hash, and its uint8 view `[288]`: 16x16 brightnesses, 4x4 Cb, 4x4 Cr."""

    phash: int
    view: np.ndarray


@lru_cache(maxsize=None)
def _dct_rows() -> np.ndarray:
    return np.cos(np.pi * (np.arange(32)[None, :] + 0.5) * np.arange(8)[:, None] / 32)


def look(image: Image.Image) -> Looks:
    """The looks of an RGB image."""
    small = Image.fromarray(to_pixels(image, size=(32, 32))).convert("YCbCr")
    brightness, *colors = small.split()
    low = np.round(_dct_rows() @ np.asarray(brightness, dtype=np.float64) @ _dct_rows().T, 3).ravel()  # rounded: a flat image must not be hashed by rounding errors
    phash = int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
    return Looks(phash, np.concatenate([np.asarray(brightness.reduce(2)).ravel(), *(np.asarray(color.reduce(8)).ravel() for color in colors)]))


def group_copies(digests: Sequence[str], looks: Sequence[Looks], *, bits: "int | None") -> np.ndarray:
    """Group of each photo as int64 [N]: the index of its first member. Groups are transitive.

    Args:
        digests: sha256 of each file.
        bits: largest distance of perceptual hashes; None: only equal bytes.
    """
    first: dict = {}
    roots = np.array([first.setdefault(digest, i) for i, digest in enumerate(digests)], dtype=np.int64)
    if bits is None or len(roots) < 2:
        return roots
    hashes = np.array([l.phash for l in looks], dtype=np.uint64)
    views = np.stack([l.view for l in looks])
    for left, right in _candidates(hashes, np.flatnonzero(roots == np.arange(len(roots))), bits):
        for start in range(0, len(left), _BLOCK):
            roots = _join(roots, views, left[start:start + _BLOCK], right[start:start + _BLOCK])
    return roots


def _join(roots: np.ndarray, views: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`roots` after confirmed pairs were joined; pairs that are together already are not looked at."""
    apart = roots[left] != roots[right]
    left, right = left[apart], right[apart]
    if not len(left):
        return roots
    same = _same_view(views[left], views[right])
    parents = roots.tolist()
    for a, b in zip(left[same].tolist(), right[same].tolist()):
        a, b = _find(parents, a), _find(parents, b)
        parents[max(a, b)] = min(a, b)
    return np.array([_find(parents, i) for i in range(len(parents))], dtype=np.int64) if same.any() else roots


def _find(parents: List[int], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


def _same_view(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether pairs of views differ by little beside their mean brightness, relative to their contrast; bool [pairs]."""
    left, right = left.astype(np.float32), right.astype(np.float32)
    a, b = left[:, :256], right[:, :256]
    shift = a.mean(axis=1) - b.mean(axis=1)
    distance = np.sqrt(np.mean((a - b - shift[:, None]) ** 2, axis=1))
    contrast = np.maximum(np.maximum(a.std(axis=1), b.std(axis=1)), 8.0)
    color_shift = np.abs(left[:, 256:] - right[:, 256:]).max(axis=1)
    return (distance <= MAX_VIEW_DISTANCE * contrast) & (np.abs(shift) <= MAX_BRIGHTNESS_SHIFT) & (color_shift <= MAX_COLOR_SHIFT)


def _candidates(hashes: np.ndarray, members: np.ndarray, bits: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Pairs of `members` whose hashes differ in at most `bits` bits, as two index arrays at a time.

    Two such hashes agree in at least one of bits + 1 bands (pigeonhole): sort by each band and compare neighbours within a run of equal bands.
    """
    edges = np.linspace(0, 64, min(bits + 1, 64) + 1).astype(int)
    for low, high in zip(edges, edges[1:]):
        band = (hashes[members] >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        band, ids = band[order], members[order]
        at, step = np.arange(len(ids)), 0
        while len(at):
            step += 1
            at = at[at < len(ids) - step]
            at = at[band[at] == band[at + step]]
            near = at[_count_bits(hashes[ids[at]] ^ hashes[ids[at + step]]) <= bits]
            if len(near):
                yield ids[near], ids[near + step]


def _count_bits(values: np.ndarray) -> np.ndarray:
    """Ones in each uint64 (NumPy 1.26 has no bitwise_count)."""
    values = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + ((values >> np.uint64(2)) & np.uint64(0x3333333333333333))
    values = (values + (values >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (values * np.uint64(0x0101010101010101)) >> np.uint64(56)
