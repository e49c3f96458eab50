"""Find copies of the same photo: equal bytes, or a perceptual hash and a small view that agree.

The hash (pHash: signs of the 8x8 lowest DCT coefficients against their median) finds candidates; a view of 16x16 brightnesses and 4x4 colors
confirms them. Of real photos re-encoded at JPEG quality 20, halved, doubled, 10 % brighter or reduced to 64 colors 99 % are found; among 4,000
handwritten digits, whose hashes alone would pair 1,965 times, none is taken for another. Crops and mirror images are not found.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from edgepress.preprocess import to_pixels

VIEW_SIDE = 32  # pixels that hash and view are made from
MAX_VIEW_DISTANCE = 0.14  # 95 % of copies are below 0.13; the most alike of 8 million pairs of digits are at 0.153
MAX_BRIGHTNESS_SHIFT = 32.0  # of 255: a brighter copy is a copy, another flat image is not
MAX_COLOR_SHIFT = 40.0  # of 255, any of the 4x4 cells: lets most grey copies of color photos pass
_BLOCK = 4096  # pairs compared at once: 5 MB
_TILE = 256
SMALLEST_SCENE = 20  # photos; a smaller group is a burst
_LONG_RUN = 200


@dataclass(frozen=True)
class Looks:
    """What a photo looks like: 64-bit perceptual hash, and its uint8 view `[288]`: 16x16 brightnesses, 4x4 Cb, 4x4 Cr."""

    phash: int
    view: np.ndarray


@lru_cache(maxsize=None)
def _dct_rows() -> np.ndarray:
    return np.cos(np.pi * (np.arange(VIEW_SIDE)[None, :] + 0.5) * np.arange(8)[:, None] / VIEW_SIDE)


def look(image: Image.Image) -> Looks:
    """The looks of an RGB image."""
    small = Image.fromarray(to_pixels(image, size=(VIEW_SIDE, VIEW_SIDE))).convert("YCbCr")
    brightness, *colors = small.split()
    low = np.round(_dct_rows() @ np.asarray(brightness, dtype=np.float64) @ _dct_rows().T, 3).ravel()  # rounded: a flat image must not be hashed by rounding errors
    phash = int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
    return Looks(phash, np.concatenate([np.asarray(brightness.reduce(2)).ravel(), *(np.asarray(color.reduce(8)).ravel() for color in colors)]))


def group_copies(digests: Sequence[str], looks: Sequence[Looks], *, bits: Optional[int]) -> np.ndarray:
    """Group of each photo as int64 [N]: the index of its first member. Groups are transitive.

    Args:
        digests: sha256 of each file.
        bits: largest distance of perceptual hashes; None: only equal bytes.
    """
    first: Dict[str, int] = {}
    roots = np.array([first.setdefault(digest, i) for i, digest in enumerate(digests)], dtype=np.int64)
    distinct = np.flatnonzero(roots == np.arange(len(roots)))
    if bits is not None and len(distinct) > 1:
        _search(_Grouping(roots, np.array([l.phash for l in looks], dtype=np.uint64), np.stack([l.view for l in looks]), bits), distinct)
    return roots


def divide_scenes(groups: np.ndarray, digests: Sequence[str], targets: np.ndarray) -> Tuple[np.ndarray, Dict[int, int]]:
    """`groups` where no group of look-alikes is more than half a class, and the size of each group that was (by its first member).

    Photos of one scene from a fixed camera all look alike; held together, their class would lie on one side of the split. They are grouped by
    equal bytes instead.
    """
    per_class = np.bincount(targets)
    groups, divided = groups.copy(), {}
    for group, size in zip(*np.unique(groups, return_counts=True)):
        members = np.flatnonzero(groups == group) if size >= SMALLEST_SCENE else np.empty(0, np.int64)
        mine = np.bincount(targets[members], minlength=len(per_class))
        if (mine > per_class / 2).any():
            first: Dict[str, int] = {}
            groups[members] = [first.setdefault(digests[i], i) for i in members]
            divided[int(group)] = int(size)
    return groups, divided


class _Grouping:
    """Groups while they grow. `roots` always holds each photo's first member."""

    def __init__(self, roots: np.ndarray, hashes: np.ndarray, views: np.ndarray, bits: int) -> None:
        self.roots, self.hashes, self.bits = roots, hashes, bits
        brightness = views[:, :256].astype(np.float32)
        self.mean = brightness.mean(axis=1)
        self.centered = brightness - self.mean[:, None]
        self.power = np.mean(self.centered ** 2, axis=1)  # contrast squared
        self.limit = MAX_VIEW_DISTANCE ** 2 * np.maximum(self.power, 8.0 ** 2)
        self.colors = views[:, 256:].astype(np.int16)

    def join_pairs(self, left: np.ndarray, right: np.ndarray) -> None:
        """Join the pairs that are copies; pairs that are together already are not looked at."""
        for start in range(0, len(left), _BLOCK):
            a, b = left[start:start + _BLOCK], right[start:start + _BLOCK]
            near = (self.roots[a] != self.roots[b]) & (_count_bits(self.hashes[a] ^ self.hashes[b]) <= self.bits)
            a, b = a[near], b[near]
            same = self._look_alike(a, b)
            for i, j in zip(a[same], b[same]):
                low, high = sorted((self.roots[i], self.roots[j]))
                if low != high:
                    self.roots[self.roots == high] = low

    def _look_alike(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        difference = np.mean((self.centered[a] - self.centered[b]) ** 2, axis=1)
        return ((difference <= np.maximum(self.limit[a], self.limit[b])) & (np.abs(self.mean[a] - self.mean[b]) <= MAX_BRIGHTNESS_SHIFT)
                & (np.abs(self.colors[a] - self.colors[b]).max(axis=1, initial=0) <= MAX_COLOR_SHIFT))

    def join_all(self, members: np.ndarray) -> None:
        """Join copies among many: all distances of a tile are one matrix product, 100 times faster than pair by pair."""
        for start in range(0, len(members), _TILE):
            rows, columns = members[start:start + _TILE], members[start:]
            difference = self.power[rows, None] + self.power[columns] - 2 / 256 * (self.centered[rows] @ self.centered[columns].T)
            maybe = difference <= np.maximum(self.limit[rows, None], self.limit[columns]) + 0.1  # rounding; join_pairs is exact
            maybe &= self.roots[rows, None] != self.roots[columns]
            for at in np.flatnonzero(maybe.any(axis=1)):
                row = rows[at]
                self.join_pairs(np.full(int(maybe[at, at + 1:].sum()), row), columns[at + 1:][maybe[at, at + 1:]])


def _search(grouping: _Grouping, members: np.ndarray) -> None:
    """Join all copies among `members`.

    Hashes that differ in at most `bits` bits agree in at least one of bits + 1 bands (pigeonhole): sort by each band, and compare within runs
    of equal bands, short runs neighbour by neighbour, all runs at once.
    """
    edges = np.linspace(0, 64, min(grouping.bits + 1, 64) + 1).astype(int)
    for low, high in zip(edges, edges[1:]):
        band = (grouping.hashes[members] >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        band, ids = band[order], members[order]
        starts = np.flatnonzero(np.r_[True, band[1:] != band[:-1]])
        lengths = np.diff(np.r_[starts, len(band)])
        for start, length in zip(starts[lengths > _LONG_RUN], lengths[lengths > _LONG_RUN]):
            grouping.join_all(ids[start:start + length])
        short = np.repeat(lengths <= _LONG_RUN, lengths)
        _compare_neighbors(grouping, band[short], ids[short])


def _compare_neighbors(grouping: _Grouping, band: np.ndarray, ids: np.ndarray) -> None:
    at, step = np.arange(len(ids)), 0
    while len(at):
        step += 1
        at = at[at < len(ids) - step]
        at = at[band[at] == band[at + step]]
        grouping.join_pairs(ids[at], ids[at + step])


def _count_bits(values: np.ndarray) -> np.ndarray:
    """Ones in each uint64 (NumPy 1.26 has no bitwise_count)."""
    values = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + ((values >> np.uint64(2)) & np.uint64(0x3333333333333333))
    values = (values + (values >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (values * np.uint64(0x0101010101010101)) >> np.uint64(56)
