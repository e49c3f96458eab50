"""Does benchmark_model on a device answer as it should? Golden inputs as raw files in, raw tensors out, compared as a bundle's self-test compares."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np

from edgepress import bundle_files, bundle_golden, flatbuffer, profiles
from edgepress.errors import EdgepressError, ModelError
from edgepress.feeding import feed_pixels, read_scores
from edgepress.jobs import run_job
from edgepress.metadata import find_spec
from edgepress.modelspec import ModelSpec, read_spec
from edgepress.preprocess import load_pixels
from edgepress.runtimes.base import TensorInfo

if TYPE_CHECKING:
    from edgepress.android_benchmark import Tool

RANDOM_INPUTS = 4
SEED = 0
Verdict = Tuple[Optional[Tuple[str, str]], Dict[str, Any]]


@dataclass(frozen=True)
class Golden:
    """Inputs in the file's own type `[N, …]` and the answers that belong to them `[N][C]`."""

    names: List[str]
    inputs: np.ndarray
    expected: List[List[float]]
    tolerance: float
    source: str


def check_answers(tool: "Tool", model: Path, *, bundle: Optional[Path], work: Path) -> Verdict:
    """((status, reason) or None where figures may be taken, facts for the record). Where it cannot be checked the facts say why.

    Raises:
        ModelError: the file cannot be read. ArtifactError: a damaged bundle.
    """
    summary = flatbuffer.summarize(flatbuffer.load_model_t(model))
    if len(summary["inputs"]) != 1 or len(summary["outputs"]) != 1:
        return None, {"checked": False, "reason": f"the file has {len(summary['inputs'])} inputs and {len(summary['outputs'])} outputs"}
    source, target = (_info(summary[key][0]) for key in ("inputs", "outputs"))
    spec = read_spec(bundle) if bundle else find_spec(model)
    try:
        golden = _from_bundle(bundle, model.name, source, read_spec(bundle)) if bundle else _from_host(model, source, spec, work=work)
    except EdgepressError as error:
        if bundle:
            raise
        return None, {"checked": False, "reason": f"this machine has no answers to compare with: {error}"}
    answers = [_answer(tool, row, number, source, work=work) for number, row in enumerate(golden.inputs)]
    if any(isinstance(answer, str) for answer in answers):
        return None, {"checked": False, "reason": next(answer for answer in answers if isinstance(answer, str))}
    rows = [_scores(data, target, logits=spec is not None and spec.output == "logits") for data in answers if isinstance(data, bytes)]
    problems = bundle_files.compare_answers(rows, golden.expected, names=golden.names, tolerance=golden.tolerance)
    facts = {"checked": True, "passed": not problems, "inputs": len(golden.names), "source": golden.source, "tolerance": golden.tolerance, "problems": problems,
             "largest_difference": _largest(rows, golden.expected)}
    return (("failed", "the device answers otherwise, so nothing was measured: " + "; ".join(problems[:3])) if problems else None), facts


def _from_bundle(bundle: Path, model: str, info: TensorInfo, spec: ModelSpec) -> Golden:
    golden = json.loads((bundle / bundle_files.GOLDEN).read_text(encoding="utf-8"))
    names = [image["file"] for image in golden["images"]]
    main = {"tolerance": golden["tolerance"], "probabilities": [image["probabilities"] for image in golden["images"]]}
    expected = golden.get("others", {}).get(model, main)
    pixels = np.stack([load_pixels(bundle / name, spec) for name in names])
    return Golden(names, feed_pixels(pixels, info, spec), expected["probabilities"], expected["tolerance"], "golden photos, decoded and resized on this machine")


def _from_host(model: Path, info: TensorInfo, spec: Optional[ModelSpec], *, work: Path) -> Golden:
    """Random inputs and what LiteRT answers to them here."""
    from edgepress.timing import concrete_shape

    shape = (RANDOM_INPUTS, *concrete_shape(info, spec=spec)[1:])
    generator, kind = np.random.default_rng(SEED), np.dtype(info.dtype)
    inputs = (generator.uniform(-1, 1, shape) if kind.kind == "f" else generator.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, shape)).astype(kind)
    np.save(work / "golden.npy", inputs)
    result = run_job({"job": "predict", "runtime": "litert", "model": str(model.resolve()), "tensors": "golden.npy", "spec": None if spec is None else vars(spec)}, work=work)
    if result["status"] != "ok":
        raise ModelError(result["reason"])
    quantized = profiles.file_facts(model)["scheme"] not in bundle_golden.TOLERANCES
    tolerance = bundle_golden.TOLERANCE if quantized else bundle_golden.TOLERANCES["float32"]
    return Golden([f"random input {n}" for n in range(len(inputs))], inputs, result["probabilities"], tolerance, f"LiteRT {result['runtime']['version']} on this machine, random inputs")


def _answer(tool: "Tool", row: np.ndarray, number: int, info: TensorInfo, *, work: Path) -> Any:
    """The raw bytes of the output tensor, or in words why there are none."""
    name, shape = f"input-{number}.bin", ",".join(str(n) for n in (1, *row.shape))
    tool.connection.write(np.ascontiguousarray(row).tobytes(), f"{tool.folder}/{name}")
    path = f"{tool.folder}/{name}".replace(":", "::")  # the tool's own escape
    done = tool.run("--num_runs=1", "--min_secs=0", "--warmup_runs=0", "--warmup_min_secs=0", "--input_layer=input", f"--input_layer_shape={shape}",
                    f"--input_layer_value_files=input:{path}", f"--output_filepath={tool.folder}/output-{number}.bin")
    data = tool.pull(f"output-{number}.bin", work / f"output-{number}.bin")
    if data is None:
        return ("this benchmark_model wrote no answers (--output_filepath): the newer LiteRT tool has no such option" if done.exit_code == 0
                else f"benchmark_model ended with exit code {done.exit_code}: " + " ".join((done.stdout + done.stderr)[-300:].split()))
    return data


def _scores(data: bytes, info: TensorInfo, *, logits: bool) -> List[Optional[float]]:
    """Probabilities of one answer; None where a number is not finite, and all of it where the size is wrong (then nothing agrees)."""
    size = np.dtype(info.dtype).itemsize
    values = np.frombuffer(data[:len(data) // size * size], dtype=np.dtype(info.dtype).newbyteorder("<")).reshape(1, -1)
    return [float(v) if np.isfinite(v) else None for v in read_scores(values, info, logits=logits)[0]]


def _largest(rows: List[List[Optional[float]]], expected: List[List[float]]) -> Optional[float]:
    pairs = [(a, b) for row, wanted in zip(rows, expected) for a, b in zip(row, wanted) if a is not None]
    return round(max(abs(a - b) for a, b in pairs), 6) if pairs else None


def _info(facts: Dict[str, Any]) -> TensorInfo:
    return TensorInfo(name=facts["name"], shape=tuple(facts["shape"]), dtype=facts["dtype"], scale=facts.get("scale"), zero_point=facts.get("zero_point"))
