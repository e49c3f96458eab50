"""Give each layer back the mean that rounding its weights took away: empirical bias correction.

Rounding a weight moves a layer's output by (W_q − W)·x. Over many inputs that is a constant per channel, (W_q − W)·E[x], because
activations after a ReLU have a mean far from zero; a bias takes it back for nothing. Source: Nagel et al., "Data-free quantization through
weight equalization and bias correction" (ICCV 2019), with means measured on the calibration images, as in NNCF's fast bias correction.

Measured with a classifier of five kinds of flowers, static int8, 200 test photos, KL divergence from the float file and agreement:
MobileNetV2 1.0 0.0136 → 0.0030, 96.5 % → 98.5 %; MobileNetV2 0.35 0.0133 → 0.0026, 99.0 % → 99.5 %; MobileNetV1 0.25 0.0484 → 0.0037,
92.0 % → 97.5 %. Counting how often a tap of the kernel lies on padding changed nothing, so it is left out.
"""
from __future__ import annotations

import numpy as np

LARGEST_BIAS = 2.0**31 - 1


def lost_mean(weights: np.ndarray, rounded: np.ndarray, mean: np.ndarray, *, groups: int = 1) -> np.ndarray:
    """E[(W − W_q)·x] per output channel, [O]: what to add to the bias.

    Args:
        weights: float [O, kernel axes…, I/groups] (a dense layer: kernel axes of 1, or none).
        rounded: what the file holds, times its scale, same shape.
        mean: E[x] per input channel, [I].
    """
    error = (weights.astype(np.float64) - rounded).sum(axis=tuple(range(1, weights.ndim - 1)))
    outputs, per_group = error.shape
    group = np.arange(outputs) // max(1, outputs // groups)
    return (error * mean[group[:, None] * per_group + np.arange(per_group)]).sum(axis=1)


def add_to_bias(bias: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int32 biases moved by `shift` (real units), where they still fit."""
    moved = bias.astype(np.float64) + np.rint(shift / scale)
    return np.where(np.abs(moved) < LARGEST_BIAS, moved, bias).astype(np.int32)
