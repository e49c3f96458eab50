"""Compare what a converted file answers with what the Keras network answers, on the same inputs, each in its own runtime."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple

from edgepress.converters.tflite import GRAY, Graph
from edgepress.runtimes import load_runtime, runtimes_for

if TYPE_CHECKING:
    import numpy as np

COUNT = 16
TOLERANCE = 1e-4  # on probabilities; on other outputs relative to the largest
# Sums in another order round otherwise; a head with large weights turns that into more than TOLERANCE (2.4e-4 with MobileNetV2 on two easy classes).
# Every conversion fault met so far (a lost bias, swapped channels, another padding) changed answers by more than this.
FAULT = 5e-3


def make_inputs(graph: Graph, *, count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Inputs `[count, *shape]` of the file's type: for pictures a quarter each of noise, plain colours, ramps and blobs; else normal noise.

    Noise alone is a weak test: averaged over a picture, all noise looks the same to a network.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    if len(graph.shape) != 3 or graph.shape[2] != 3:
        return random.normal(0, 1, (count, *graph.shape)).astype(np.float32)
    pixels = np.stack([_picture(random, graph.shape, kind=i % 4) for i in range(count)])
    return pixels if graph.input_type == "uint8" else _normalized(pixels, graph)


def _picture(random: Any, shape: Tuple[int, ...], *, kind: int) -> np.ndarray:
    import numpy as np

    height, width, _ = shape
    if kind == 0:
        return random.integers(0, 256, shape, dtype=np.uint8)
    if kind == 1:
        return np.broadcast_to(random.integers(0, 256, 3, dtype=np.uint8), shape)
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
    if kind == 2:
        waves = [y * random.random() + x * random.random() for _ in range(3)]
    else:
        waves = [np.exp(-((y - random.random()) ** 2 + (x - random.random()) ** 2) / 0.05) for _ in range(3)]
    return np.clip(np.stack(waves, axis=-1) * 255, 0, 255).astype(np.uint8)


def _normalized(pixels: np.ndarray, graph: Graph) -> np.ndarray:
    import numpy as np

    x = pixels.astype(np.float32)
    if graph.gray:
        x = (x * np.asarray(GRAY, np.float32)).sum(axis=-1, keepdims=True)
    if graph.scale is not None and graph.offset is not None:
        channels = 1 if graph.gray else 3
        x = x * np.asarray(graph.scale[:channels], np.float32) + np.asarray(graph.offset[:channels], np.float32)
    return x


def reference(answer: Callable[[Any], Any], graph: Graph, inputs: np.ndarray) -> np.ndarray:
    """What the file should answer: normalisation and ending in NumPy around `answer`, the Keras network for normalised RGB."""
    import numpy as np

    x = _normalized(inputs, graph) if inputs.dtype == np.uint8 else inputs
    y = np.asarray(answer(x), np.float64)
    if graph.ending == "softmax":
        y = np.exp(y - y.max(axis=-1, keepdims=True))
        return y / y.sum(axis=-1, keepdims=True)
    if graph.ending == "binary_logit":
        y = 1 / (1 + np.exp(-y))
    return np.concatenate([1 - y, y], axis=-1) if graph.ending.startswith("binary") else y


def compare(file: Path, inputs: np.ndarray, expected: np.ndarray, *, layout: str = "nhwc") -> Dict[str, Any]:
    """Largest absolute difference of a file's answers from `expected`, in the first runtime for its format that works here.

    `passed` (within TOLERANCE) is None, with the reason, where no runtime can tell; `fault` says that this is no rounding.
    """
    import numpy as np

    reasons = []
    for name in runtimes_for(file.suffix[1:]):
        runtime = load_runtime(name)
        reason = runtime.health_check()
        if reason is None:
            break
        reasons.append(f"{name}: {reason}")
    else:
        return {"passed": None, "reason": "no runtime opens it here: " + "; ".join(reasons)}
    session = runtime.open_model(str(file), threads=2)
    try:
        turned = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)) if layout == "nchw" else inputs
        batch = max(1, session.inputs[0].shape[0])  # an open batch dimension is -1
        answers = np.concatenate([session.run([turned[i:i + batch]])[0] for i in range(0, len(turned) - batch + 1, batch)])
    finally:
        session.close()
    expected = expected[:len(answers)]
    difference = float(np.abs(answers - expected).max()) if answers.shape == expected.shape and np.isfinite(answers).all() else float("inf")
    largest = max(1.0, float(np.abs(expected).max()))
    return {"runtime": name, "inputs": len(answers), "max_abs_difference": difference, "largest_output": largest, "tolerance": TOLERANCE * largest,
            "passed": difference <= TOLERANCE * largest, "fault": difference > FAULT * largest}
