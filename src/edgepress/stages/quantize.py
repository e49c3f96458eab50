"""Make a smaller file from a float one: the same model with fewer bits."""
from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from edgepress import metadata, profiles
from edgepress.artifact import SUFFIXES, digest_file, installed_version, model_file, write_atomic, write_json
from edgepress.errors import MissingDependencyError, ModelError, UnsupportedError
from edgepress.modelspec import ModelSpec
from edgepress.progress import report_progress
from edgepress.quantizers import Request, load_backend
from edgepress.recipe import QuantizeConfig

REPORT_FILE = "quantization.json"
PACKAGES = {"ai_edge_quantizer": ("ai-edge-quantizer", "ai-edge-litert"), "tflite_converter": ("tensorflow", "ai-edge-litert"), "onnxruntime": ("onnxruntime", "onnx")}


def quantize(out: Path, *, model: Path, dataset: Optional[Path] = None, config: QuantizeConfig = QuantizeConfig()) -> None:
    """Write `model.tflite` or `model.onnx` in `config.scheme`, and `quantization.json` about how.

    Args:
        model: a float file (or the folder with it).
        dataset: where calibration images come from: a dataset artifact (its training split only), photos, or a .npy array of inputs.

    Raises:
        RecipeError: the scheme needs calibration images and there are none.
        UnsupportedError: the back-end has no such scheme, or the target profile refuses the result.
        ModelError: the file is damaged, is quantized already, or cannot be quantized.
    """
    started = time.perf_counter()
    source = model_file(model, formats=("tflite", "onnx"))
    form = SUFFIXES[source.suffix.lower()]
    profile = profiles.find(config.profile, form)
    before = profiles.file_facts(source)
    if before["scheme"] != "float32":
        raise ModelError(f"{source} is quantized already ({before['scheme']}); accepted: a float file", "give the file that convert wrote")
    spec = metadata.find_spec(source)
    data, facts = _make(source, form, _request(source, spec, dataset, config, profile, out.parent / ".cache"), config)
    target = out / f"model.{form}"
    write_atomic(target, data)
    if spec is not None:
        metadata.embed_spec(target, spec)
    after = profiles.file_facts(target)
    findings = _accept(profile, after, config)
    report = {"schema": 1, "file": target.name, "scheme": config.scheme, "source": {"file": source.name, "sha256": digest_file(source), "size_bytes": source.stat().st_size}, **_sizes(target),
              "profile": profile.name, "warnings": findings, **facts, **_operators(after, facts), "per_channel": config.per_channel,
              "inputs": after["inputs"], "outputs": after["outputs"], "seconds": round(time.perf_counter() - started, 3)}
    write_json(out / REPORT_FILE, report)


def _request(source: Path, spec: Optional[ModelSpec], dataset: Optional[Path], config: QuantizeConfig, profile: "profiles.Profile", cache: Path) -> Request:
    def samples(info: Any) -> Any:
        from edgepress.quantizers.samples import load_samples

        report_progress("reading calibration images")
        return load_samples(dataset, file=str(source), info=info, spec=spec, count=config.samples, seed=config.seed, cache=cache, scheme=config.scheme)

    return Request(config.scheme, samples, config.calibration_method, config.per_channel, profile.dense_per_tensor, profile.signed_activations, profile.reduce_range)


def _make(source: Path, form: str, request: Request, config: QuantizeConfig) -> Tuple[bytes, Dict[str, Any]]:
    data = source.read_bytes()
    if config.scheme == "float32":
        return data, {"backend": "copy", "recipe": None}
    try:
        backend = load_backend(config.backend, form, config.scheme)
        report_progress(f"quantizing to {config.scheme} with {backend.NAME}")
        data, facts = backend.quantize(data, request)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or form, extra="litert" if form == "tflite" else "onnx", why=f"quantizing {form} files") from error
    versions = {name: installed_version(name) for name in PACKAGES[backend.NAME]}
    activations = {"activations": facts["recipe"]["activations"], "activations_why": config_reason(request)} if form == "onnx" and "activations" in facts["recipe"] else {}
    return data, {"backend": backend.NAME, "versions": versions, **facts, **activations}


def config_reason(request: Request) -> str:
    """Why these signs and ranges were chosen for an ONNX file."""
    if request.signed_activations:
        return "int8 activations: Arm kernels are fastest with both sides signed"
    if request.reduce_range:
        return "uint8 activations and 7-bit weights: without VNNI, x86 multiplies pairs into 16 bits, which overflow with 8-bit weights"
    return "uint8 activations, int8 weights: what VNNI multiplies directly (measured 1.6 times as fast as int8 × int8)"


def _accept(profile: "profiles.Profile", facts: Dict[str, Any], config: QuantizeConfig) -> list:
    """Findings of the target profile; those of a profile that was asked for by name and says no are an error."""
    findings = profiles.check(profile.name, facts)
    refused = [f for f in findings if f["status"] == "refused"]
    if refused and config.profile is not None:
        raise UnsupportedError(f"{config.scheme} does not work on {profile.name}: {refused[0]['reason']}", refused[0]["remedy"])
    return findings


def _sizes(file: Path) -> Dict[str, int]:
    data = file.read_bytes()
    return {"size_bytes": len(data), "gzip_bytes": len(gzip.compress(data, 6, mtime=0))}


def _operators(after: Dict[str, Any], facts: Dict[str, Any]) -> Dict[str, Any]:
    """Which operators compute with integers, which stayed float, and why."""
    reasons = {name: "final softmax, or normalisation that was not folded" for name in facts.get("kept_float", ())}
    stayed = [{**entry, "reason": reasons.get(entry["name"], "its inputs or outputs are float here, or the quantizer has no integer form of it")} for entry in after["float_operators"]]
    total = after["integer_count"] + after["hybrid_count"] + len(stayed)
    return {"integer_operators_percent": round(100 * (after["integer_count"] + after["hybrid_count"]) / max(total, 1), 1), "integer_operators": after["integer_count"],
            "hybrid_operators": after["hybrid_count"], "float_operators": stayed[:50], "float_operator_count": len(stayed)}
