"""Activation ranges of a float file from calibration inputs: one collector for TFLite and ONNX, so that both mean the same by `minmax`."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from edgepress.converters.quiet import captured_output
from edgepress.errors import ModelError
from edgepress.progress import report_progress

Range = Tuple[float, float]
Visit = Callable[[str, np.ndarray], None]
Observe = Callable[[Iterable[np.ndarray], Visit], None]  # runs a file over the inputs and shows each float activation

MOVING_AVERAGE = 0.95  # smoothing of ai-edge-quantizer's default; the result depends on the order of the images
PERCENTILE = 99.99
BINS = 2048
MOST_VALUES = 16384  # values of one tensor and image that enter a histogram; a stride, so that borders are not favoured
MEAN_INPUTS = 64  # inputs whose channel means are taken: a mean needs fewer than a maximum
LEVELS = 128  # positive levels of int8, for the entropy method


class Feeds:
    """Calibration inputs, made one at a time and again for each pass."""

    def __init__(self, samples: Sequence[Any], feed: Callable[[Any], np.ndarray]) -> None:
        self.samples, self.feed = samples, feed

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[np.ndarray]:
        for sample in self.samples:
            yield self.feed(sample)

    def first(self, count: int) -> "Feeds":
        """The first `count` inputs."""
        return Feeds(self.samples[:count], self.feed)


@dataclass
class _Extremes:
    low: Dict[str, float]
    high: Dict[str, float]
    average: bool

    def __call__(self, name: str, values: np.ndarray) -> None:
        low, high = float(values.min()), float(values.max())
        if name not in self.low:
            self.low[name], self.high[name] = low, high
        elif self.average:
            self.low[name] += (1 - MOVING_AVERAGE) * (low - self.low[name])
            self.high[name] += (1 - MOVING_AVERAGE) * (high - self.high[name])
        else:
            self.low[name], self.high[name] = min(self.low[name], low), max(self.high[name], high)


@dataclass
class _Histograms:
    extremes: Mapping[str, Range]
    counts: Dict[str, np.ndarray]

    def __call__(self, name: str, values: np.ndarray) -> None:
        flat = values.reshape(-1)
        sample = flat[:: max(1, flat.size // MOST_VALUES)]
        self.counts[name] = self.counts.get(name, 0) + np.histogram(sample, bins=BINS, range=self.extremes[name])[0]


@dataclass
class Channels:
    """Mean over the first inputs and maximum over all, channel by channel, of chosen activations: for bias correction and equalization."""

    axis: int  # −1 in TFLite, 1 in ONNX
    of_mean: frozenset
    of_highest: frozenset
    sums: Dict[str, np.ndarray] = field(default_factory=dict)
    counts: Dict[str, int] = field(default_factory=dict)
    highest: Dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, name: str, values: np.ndarray) -> None:
        if name not in self.of_mean and name not in self.of_highest:
            return
        last = self.axis == -1 or values.ndim == 2
        flat = values.reshape(-1, values.shape[-1]) if last else values.reshape(values.shape[1], -1).T
        if name in self.of_highest:
            self.highest[name] = np.maximum(self.highest.get(name, -np.inf), flat.max(axis=0))
        if name in self.of_mean and self.counts.get(name, 0) < MEAN_INPUTS:
            mean = np.ones(len(flat), np.float32) @ flat / len(flat) if last else flat.mean(axis=0)
            self.sums[name] = self.sums.get(name, 0.0) + mean.astype(np.float64)
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> Dict[str, np.ndarray]:
        """Activation → mean per channel."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


def together(observe: Observe, other: Visit) -> Observe:
    """An observer that shows every activation to `other` too."""
    def observed(feeds: Iterable[np.ndarray], visit: Visit) -> None:
        def both(name: str, values: np.ndarray) -> None:
            visit(name, values)
            other(name, values)
        observe(feeds, both)

    return observed


def collect(observe: Observe, feeds: Feeds, *, method: str, exact: Sequence[str] = ()) -> Dict[str, Range]:
    """The range of every activation over `feeds`.

    Args:
        method: minmax (global) | moving_average | percentile (99.99 on both sides) | entropy (TensorRT's smallest KL divergence).
        exact: names whose global minimum and maximum are kept whatever the method (logits: clipping them changes answers).

    Raises:
        ModelError: an activation is NaN or infinite on a calibration input.
    """
    extremes = _Extremes({}, {}, average=method == "moving_average")
    passes = 1 if method in ("minmax", "moving_average") else 2
    observe(_reported(feeds, of=(0, passes)), extremes)
    ranges = {name: (extremes.low[name], extremes.high[name]) for name in extremes.low}
    bad = [name for name, limits in ranges.items() if not np.isfinite(limits).all()]
    if bad:
        raise ModelError(f"activation {bad[0]!r} is not finite on the calibration images", "check the float model first: evaluate it")
    if passes == 1:
        return ranges
    histograms = _Histograms({name: _widened(limits) for name, limits in ranges.items()}, {})
    observe(_reported(feeds, of=(1, passes)), histograms)
    clip = {"percentile": clip_percentile, "entropy": clip_entropy}[method]
    return {name: limits if name in exact else clip(histograms.counts[name], histograms.extremes[name]) for name, limits in ranges.items()}


def _reported(feeds: Feeds, *, of: Tuple[int, int]) -> Iterator[np.ndarray]:
    for index, feed in enumerate(feeds):
        report_progress("calibrating", done=(of[0] + index / len(feeds)) / of[1])
        yield feed


def _widened(limits: Range) -> Range:
    return limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[1] + 0.5)


def clip_percentile(counts: np.ndarray, limits: Range, *, percentile: float = PERCENTILE) -> Range:
    """The range that leaves (100 − percentile) % of the values out on either side; zero stays inside."""
    share = np.cumsum(counts) / counts.sum()
    edges = np.linspace(*limits, counts.size + 1)
    low = edges[np.searchsorted(share, 1 - percentile / 100, side="right")]
    high = edges[min(np.searchsorted(share, percentile / 100) + 1, counts.size)]
    return float(min(low, 0.0)), float(max(high, 0.0))


def clip_entropy(counts: np.ndarray, limits: Range) -> Range:
    """The symmetric clip of |x| whose 8-bit histogram has the smallest KL divergence from the real one, cut to the observed range.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017; onnxruntime's entropy calibrator does the same.
    """
    centers = (np.linspace(*limits, counts.size + 1)[:-1] + np.linspace(*limits, counts.size + 1)[1:]) / 2
    magnitudes, edges = np.histogram(np.abs(centers), bins=BINS, range=(0, max(map(abs, limits))), weights=counts)
    magnitudes[0] = magnitudes[1]  # exact zeros of a ReLU are represented exactly: they must not decide (as in TensorRT)
    candidates = range(LEVELS, BINS + 1, 16)
    best = min(candidates, key=lambda stop: (_divergence(magnitudes, stop), -stop))
    threshold = float(edges[best])
    return max(limits[0], -threshold), min(limits[1], threshold)


def _divergence(magnitudes: np.ndarray, stop: int) -> float:
    """KL(real ‖ quantized) of the histogram clipped at bin `stop` and merged into LEVELS levels."""
    real = magnitudes[:stop].astype(np.float64).copy()
    level = np.minimum(np.arange(stop) * LEVELS // stop, LEVELS - 1)
    filled = magnitudes[:stop] > 0
    sums = np.bincount(level, weights=magnitudes[:stop], minlength=LEVELS)
    sizes = np.bincount(level, weights=filled, minlength=LEVELS)
    quantized = np.where(filled, sums[level] / np.maximum(sizes[level], 1), 0.0)
    real[-1] += magnitudes[stop:].sum()
    if not quantized.sum():
        return float("inf")
    p, q = real / real.sum(), quantized / quantized.sum()
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))).sum())


def observe_tflite(model: bytes, *, threads: int = 2) -> Observe:
    """An observer of every float activation of a TFLite file, through LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    with captured_output("opening the file in LiteRT", hint="check that the float file runs: edgepress evaluate"):  # and what XNNPACK says about itself
        interpreter = Interpreter(model_content=model, num_threads=threads, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    names = {detail["index"]: detail["name"] for detail in interpreter.get_tensor_details() if detail["dtype"] is np.float32}
    activations = {interpreter.get_input_details()[0]["index"]}
    activations |= {index for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE" for index in op["outputs"]}  # noqa: SLF001
    accessors = {index: interpreter.tensor(index) for index in sorted(activations & set(names))}

    def observe(feeds: Iterable[np.ndarray], visit: Visit) -> None:
        for feed in feeds:
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], feed)
            interpreter.invoke()
            for index, accessor in accessors.items():
                visit(names[index], accessor())  # a view without a copy: it must not outlive the call

    return observe


def observe_onnx(model: Any, *, threads: int = 2) -> Observe:
    """An observer of every float activation of an onnx.ModelProto, through onnxruntime."""
    import onnx

    model = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    hidden = fused_activations(model.graph)  # not looked at: half of the time, and onnxruntime can fuse them
    floats = [name for node in model.graph.node for name in node.output
              if name in known and name not in hidden and known[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    del model.graph.output[:]
    model.graph.output.extend(known[name] for name in floats)
    session = _open_onnx(model.SerializeToString(), threads=threads)
    source = session.get_inputs()[0].name

    def observe(feeds: Iterable[np.ndarray], visit: Visit) -> None:
        for feed in feeds:
            if feed.dtype == np.float32:
                visit(source, feed)
            for name, values in zip(floats, session.run(None, {source: feed})):
                visit(name, values)

    return observe


def fused_activations(graph: Any) -> Dict[str, str]:
    """Convolution output → output of the ReLU or Clip that alone reads it. The quantizer drops that node and takes its range."""
    users: Dict[str, List[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    kept = {value.name for value in graph.output}
    readers = {node.output[0]: users.get(node.output[0], []) for node in graph.node if node.op_type == "Conv" and node.output[0] not in kept}
    return {name: nodes[0].output[0] for name, nodes in readers.items() if len(nodes) == 1 and nodes[0].op_type in ("Clip", "Relu")}


def session_tflite(model: bytes, *, threads: int = 2) -> Callable[[np.ndarray], np.ndarray]:
    """A function from one input to the first output of a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    with captured_output("opening the file in LiteRT", hint="check that the float file runs: edgepress evaluate"):
        interpreter = Interpreter(model_content=model, num_threads=threads)
        interpreter.allocate_tensors()

    def call(feed: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], feed)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return call


def session_onnx(model: bytes, *, threads: int = 2) -> Callable[[np.ndarray], np.ndarray]:
    """A function from one input to the first output of an ONNX file."""
    session = _open_onnx(model, threads=threads)
    return lambda feed: session.run(None, {session.get_inputs()[0].name: feed})[0]


def _open_onnx(model: bytes, *, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread would take the core that looks at the numbers
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def largest_difference(first: Tuple[Callable[[np.ndarray], np.ndarray], Feeds], second: Tuple[Callable[[np.ndarray], np.ndarray], Feeds]) -> float:
    """Largest |Δ| between the outputs of two (session, inputs) over the same samples."""
    return max(float(np.abs(first[0](a) - second[0](b)).max()) for a, b in zip(first[1], second[1]))
