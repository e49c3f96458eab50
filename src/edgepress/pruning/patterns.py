"""Which weights of a kernel become zero: masks by magnitude for each sparsity pattern, in NumPy.

Patterns run along the input channels of a kernel (its last-but-one axis), which lie next to each other in a TFLite file.
"""
from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

GROUP = 4  # consecutive input channels of one block, and the 4 of 2:4
BLOCK_SIZE = (GROUP, 1)  # the same block in TFMOT's words: (rows, columns) of a rank-2 kernel [in, out]
KEPT_OF_GROUP = 2


def refusal(shape: Tuple[int, ...], pattern: str) -> Optional[str]:
    """Why a kernel of this shape cannot have the pattern, or None."""
    if pattern != "unstructured" and shape[-2] % GROUP:
        return f"its {shape[-2]} input channels do not divide into groups of {GROUP}, which the pattern {pattern} needs"
    return None


def mask_for(kernel: np.ndarray, *, sparsity: float, pattern: str) -> np.ndarray:
    """Mask of 0.0 and 1.0 in the kernel's shape that keeps the weights of largest magnitude.

    Args:
        kernel: [..., in, out]; rank 2 (dense) or 4 (convolution).
        sparsity: share of zeros, 0–1; ignored by 2:4, which is always 0.5.
    """
    if pattern == "unstructured":
        return _keep_largest(np.abs(kernel), sparsity).astype(kernel.dtype)
    groups = _to_groups(np.abs(kernel))
    if pattern == "block":
        kept = np.broadcast_to(_keep_largest(groups.mean(axis=-1), sparsity)[..., None], groups.shape)
    else:
        rank = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1, kind="stable")
        kept = rank < KEPT_OF_GROUP
    return _from_groups(kept, kernel.shape).astype(kernel.dtype)


def follows(kernel: np.ndarray, *, pattern: str) -> bool:
    """Whether the zeros of a kernel lie in the pattern."""
    if pattern == "unstructured":
        return True
    zeros = (_to_groups(kernel) == 0).sum(axis=-1)
    return bool(np.all(zeros >= GROUP - KEPT_OF_GROUP)) if pattern == "2:4" else bool(np.mean((zeros > 0) & (zeros < GROUP)) < 0.01)


def _keep_largest(magnitudes: np.ndarray, sparsity: float) -> np.ndarray:
    """Booleans: exactly round(size · (1 − sparsity)) of the largest, at least one; ties go to the first."""
    count = max(1, round(magnitudes.size * (1.0 - sparsity)))
    kept = np.zeros(magnitudes.size, dtype=bool)
    kept[np.argsort(-magnitudes.ravel(), kind="stable")[:count]] = True
    return kept.reshape(magnitudes.shape)


def _to_groups(values: np.ndarray) -> np.ndarray:
    """[..., in, out] → [..., out, in / 4, 4]."""
    moved = np.moveaxis(values, -2, -1)
    return moved.reshape(*moved.shape[:-1], -1, GROUP)


def _from_groups(groups: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
    """The inverse of `_to_groups`."""
    return np.moveaxis(groups.reshape(*shape[:-2], shape[-1], shape[-2]), -1, -2)
