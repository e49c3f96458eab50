"""What every static back-end shares: fold the normalisation if that is exact enough, then find the activation ranges."""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from edgepress.progress import report_progress
from edgepress.quantizers import calibration, equalization
from edgepress.quantizers.calibration import Feeds, Range
from edgepress.quantizers.input_folding import Folded

FOLD_TOLERANCE = 0.01  # largest |Δ output| of the folded float graph; int8 itself moves probabilities more (0.02 and up)
FOLD_CHECKED = 16  # calibration inputs on which that is measured


@dataclass(frozen=True)
class Prepared:
    """A float model ready for a static quantizer."""

    model: Any  # ModelT or ModelProto: folded, or the original
    folded: Optional[Folded]
    ranges: Dict[str, Range]
    means: Dict[str, np.ndarray]  # activation that a weighted layer reads → mean per channel
    facts: Dict[str, Any]  # input folding, for quantization.json


@dataclass(frozen=True)
class Format:
    """What differs between TFLite and ONNX here."""

    fold: Callable[[Any], Optional[Folded]]
    pack: Callable[[Any], bytes]
    session: Callable[[bytes], Callable[[np.ndarray], np.ndarray]]
    observe: Callable[[Any], calibration.Observe]
    prepare: Callable[[Any], Any]
    exact: Callable[[Any], Sequence[str]]  # activations whose ranges are never clipped
    weighted_inputs: Callable[[Any], Sequence[str]]  # activations that layers with weights read
    depthwise_inputs: Callable[[Any], Sequence[str]]  # rectified convolution outputs that a depthwise convolution alone reads
    scale_pair: Callable[[Any, str, np.ndarray], None]  # (model, such an activation, gain per channel): scale it in place
    channel_axis: int


def prepare(model: Any, feeds: Feeds, form: Format, *, method: str, fold: bool = True) -> Prepared:
    """Fold, check the folding on real inputs, and calibrate with `feeds` (inputs of the original file, batch 1)."""
    folded, facts = _fold_checked(model, feeds, form) if fold else (None, {"folded": False, "reason": "this scheme keeps the exact float operators"})
    chosen = form.prepare(folded.model if folded else copy.deepcopy(model))  # from here on it is ours to change
    inputs = _centered(feeds, folded) if folded else feeds
    report_progress("calibrating", done=0.0)
    channels = calibration.Channels(form.channel_axis, frozenset(form.weighted_inputs(chosen)), frozenset(form.depthwise_inputs(chosen)))
    ranges = calibration.collect(calibration.together(form.observe(chosen), channels), inputs, method=method, exact=form.exact(chosen))
    means = equalization.equalize(chosen, form.scale_pair, highest=channels.highest, ranges=ranges, means=channels.means())
    facts["equalized_activations"] = len(channels.highest)
    if folded:
        ranges[folded.input_name] = (-float(folded.zero_point), 255.0 - folded.zero_point)  # scale exactly 1: a pixel is its own quantized value
    return Prepared(chosen, folded, ranges, means, facts)


def _centered(feeds: Feeds, folded: Folded) -> Feeds:
    middle = np.float32(folded.zero_point)

    def feed(sample: Any) -> np.ndarray:
        values = feeds.feed(sample).astype(np.float32) - middle
        for order in folded.permutations:
            values = values.transpose(order)
        return np.ascontiguousarray(values)

    return Feeds(feeds.samples, feed)


def _fold_checked(model: Any, feeds: Feeds, form: Format) -> Tuple[Optional[Folded], Dict[str, Any]]:
    folded = form.fold(model)
    if folded is None:
        return None, {"folded": False, "reason": "the file does not start with uint8 pixels, an affine normalisation and a convolution"}
    few = feeds.first(FOLD_CHECKED)
    difference = calibration.largest_difference((form.session(form.pack(model)), few), (form.session(form.pack(folded.model)), _centered(few, folded)))
    facts = {"folded": difference <= FOLD_TOLERANCE, "operators": list(folded.operators), "zero_point": folded.zero_point, "scale": 1.0,
             "largest_output_difference": difference, "tolerance": FOLD_TOLERANCE, "checked_inputs": len(few),
             "border_error": folded.pad_error, "exact_inside_borders": True}
    if not facts["folded"]:
        facts["reason"] = f"the outputs of the float model change by up to {difference:.3g}, more than {FOLD_TOLERANCE}: the float operators stay"
    return (folded if facts["folded"] else None), facts
