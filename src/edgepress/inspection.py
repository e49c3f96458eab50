"""Say what is inside a model file or an artifact, without running it and without TensorFlow."""
from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

from edgepress import bundle_files
from edgepress.artifact import RECORD, SUFFIXES, read_record
from edgepress.errors import EdgepressError, ModelError
from edgepress.metadata import associated_files, extract_spec
from edgepress.modelspec import SPEC_FILE, ModelSpec, read_spec

MAX_LISTED = 12  # files of an artifact that are described one by one
_PROVENANCE = ("stage", "stage_version", "key", "config", "input_paths", "versions", "started", "seconds")


def describe(path: Path) -> Dict[str, Any]:
    """What is in a `.tflite`, `.onnx`, `.keras` or `.h5` file, a SavedModel folder, or an artifact (its record and its model files). Plain values.

    Raises:
        ModelError: not such a thing, truncated or damaged.
        ArtifactError: an artifact whose files are not those that were written.
    """
    if path.is_dir():
        return _describe_folder(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None or not path.is_file():
        raise ModelError(f"{path} {'is no model file' if path.is_file() else 'does not exist'}; accepted: {', '.join(SUFFIXES)}, a SavedModel folder, an artifact")
    facts = {"tflite": _tflite, "onnx": _onnx, "keras": _keras}[kind](path)
    spec = _spec(path, kind)
    return {"path": str(path), "format": kind, **_sizes(path), **facts, "work": _work(path, kind), "model_spec": spec, "provenance": _provenance(path.parent)}


def _work(path: Path, kind: str) -> Optional[Dict[str, Any]]:
    """Multiply-accumulates and activations; not of Keras files, whose shapes only TensorFlow knows (`edgepress limits` counts them)."""
    if kind == "keras":
        return None
    from edgepress import counters

    return counters.count_file(path).summary()


def _describe_folder(folder: Path) -> Dict[str, Any]:
    if (folder / "saved_model.pb").is_file():
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        return {"path": str(folder), "format": "saved_model", "size_bytes": size, "provenance": _provenance(folder),
                "note": "a SavedModel can only be read by TensorFlow: `edgepress convert` checks and converts it"}
    if (folder / bundle_files.MANIFEST).is_file() and not (folder / RECORD).is_file():
        return _describe_bundle(folder)
    if not (folder / RECORD).is_file():
        return _describe_run(folder)
    record = read_record(folder)
    models = [folder / name for name in sorted(record.get("files", {})) if Path(name).suffix.lower() in SUFFIXES]
    return {"path": str(folder), "format": "artifact", "stage": record["stage"], "provenance": _provenance(folder),
            "files": {name: facts["size_bytes"] for name, facts in sorted(record.get("files", {}).items())}, "models": [_describe_safely(m) for m in models[:MAX_LISTED]]}


def _describe_bundle(folder: Path) -> Dict[str, Any]:
    """A bundle by its manifest; a file that is not what was packed says so itself."""
    manifest = bundle_files.read_manifest(folder)
    damaged = bundle_files.check_files(folder)
    models = [folder / name for name in manifest["files"] if Path(name).suffix.lower() in SUFFIXES]
    note = f"{manifest.get('variant')} for {', '.join(manifest['runtimes'])}. {manifest.get('why')}" if not damaged else "; ".join(["NOT as it was packed", *damaged[:5]])
    return {"path": str(folder), "format": "bundle", "note": note, "provenance": None, "files": {name: facts.get("size_bytes", 0) for name, facts in manifest["files"].items()},
            "models": [_describe_safely(model) for model in models[:MAX_LISTED]] if not damaged else []}


def _describe_run(folder: Path) -> Dict[str, Any]:
    """The artifacts in a folder, oldest first: what a run or single commands left there."""
    inner = sorted((read_record(p) | {"name": p.name} for p in folder.iterdir() if not p.is_symlink() and (p / RECORD).is_file()), key=lambda r: r["started"]) if folder.is_dir() else []
    if not inner:
        raise ModelError(f"{folder} is neither an artifact (it has no {RECORD}), nor a folder of artifacts, nor a SavedModel folder", "give a model file")
    return {"path": str(folder), "format": "artifacts", "provenance": None,
            "artifacts": [{"name": r["name"], "stage": r["stage"], "size_bytes": sum(f["size_bytes"] for f in r.get("files", {}).values()), "seconds": r["seconds"]} for r in inner]}


def _describe_safely(path: Path) -> Dict[str, Any]:
    """A damaged or unknown file in an artifact does not hide the rest."""
    try:
        return describe(path)
    except EdgepressError as error:
        return {"path": str(path), "error": str(error)}


def _sizes(path: Path) -> Dict[str, int]:
    """Bytes of the file, raw and as gzip sends them."""
    packer, packed = zlib.compressobj(6, zlib.DEFLATED, 31), 0
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            packed += len(packer.compress(block))
    return {"size_bytes": path.stat().st_size, "gzip_bytes": packed + len(packer.flush())}


def _spec(path: Path, kind: str) -> Optional[Dict[str, Any]]:
    """The ModelSpec inside the file, or else beside it, and where it was found."""
    inside = None if kind == "keras" else extract_spec(path)
    if inside is not None:
        return {"found": "inside", **_plain(inside)}
    own, shared = path.with_name(f"{path.name}.{SPEC_FILE}"), path.parent / SPEC_FILE
    beside = next((file for file, there in ((own, own.is_file()), (shared, shared.is_file() and (path.parent / RECORD).is_file())) if there), None)
    return None if beside is None else {"found": f"beside ({beside.name})", **_plain(read_spec(beside))}


def _plain(spec: ModelSpec) -> Dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(spec).items()}


def _provenance(folder: Path) -> Optional[Dict[str, Any]]:
    if not (folder / RECORD).is_file():
        return None
    record = read_record(folder)
    return {key: record[key] for key in _PROVENANCE if key in record}


def _tflite(path: Path) -> Dict[str, Any]:
    from edgepress import flatbuffer

    summary = flatbuffer.summarize(flatbuffer.load_model_t(path))
    return {**summary, "associated_files": associated_files(path)}


def _onnx(path: Path) -> Dict[str, Any]:
    from edgepress import onnx_summary

    return onnx_summary.summarize(path)


# ---- Keras: the config and the shapes of the weights; nothing is built

def _keras(path: Path) -> Dict[str, Any]:
    from edgepress import keras_files

    kind = keras_files.file_kind(path)
    config, version = keras_files.read_keras_config(path) if kind == "keras" else keras_files.read_h5_config(path)
    with keras_files.reading(path):
        layers = [layer for layer in _layers(config) if isinstance(layer.get("class_name"), str)]
        counts = Counter(layer["class_name"] for layer in layers)
        shape = next((s for s in map(_input_shape, layers) if s), None)
        return {"keras_version": version, "layers": dict(sorted(counts.items())), "parameters": _parameters(path, kind), "model_class": config.get("class_name"),
                "inputs": [{"name": "input", "shape": shape, "dtype": "float32"}] if shape else [], "unsafe": _unsafe(config, path, version)}


def _unsafe(config: Mapping[str, Any], path: Path, version: str) -> Optional[str]:
    """Why `convert` would refuse to load it, or None."""
    from edgepress import keras3_files, keras_safety

    try:
        keras_safety.check_config(config, source=str(path), extra_classes=keras3_files.OPERATORS if version.startswith("3") else ())
    except EdgepressError as error:
        return error.message
    return None


def _layers(config: Any) -> Iterator[Mapping[str, Any]]:
    """All layers of a config, those of nested models included (iterative: depth is the file's choice)."""
    pending: List[Any] = [config]
    while pending:
        value = pending.pop()
        inner = value.get("config") if isinstance(value, Mapping) else None
        layers = inner.get("layers") if isinstance(inner, Mapping) else inner if isinstance(inner, list) else None
        if isinstance(layers, list):
            pending += reversed(layers)
        elif isinstance(value, Mapping):
            yield value


def _input_shape(layer: Mapping[str, Any]) -> Optional[List[Any]]:
    config = layer.get("config")
    shape = (config.get("batch_input_shape") or config.get("batch_shape")) if isinstance(config, Mapping) else None
    return [-1 if size is None else size for size in shape] if isinstance(shape, list) else None


def _parameters(path: Path, kind: str) -> int:
    """Number of weights of the network (the optimizer's left out)."""
    import h5py

    from edgepress.keras_files import WEIGHTS

    count = 0

    def add(name: str, item: Any) -> None:
        nonlocal count
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer") and "seed_generator" not in name:
            count += item.size
    if kind == "keras":
        with zipfile.ZipFile(path) as archive, archive.open(WEIGHTS) as weights, h5py.File(weights, "r") as store:
            store.visititems(add)
    else:
        with h5py.File(path, "r") as store:
            store["model_weights"].visititems(add)
    return count


# ---- for people

def format_description(facts: Mapping[str, Any]) -> str:
    """`describe`'s result as lines for a terminal."""
    lines = [f"{facts['path']}: {facts['format']}" + (f" of the {facts['stage']} stage" if "stage" in facts else "")]
    if "size_bytes" in facts:
        lines.append(_line("size", f"{facts['size_bytes']:,} bytes" + (f", {facts['gzip_bytes']:,} as gzip" if "gzip_bytes" in facts else "")))
    lines += _format_model(facts)
    if facts.get("model_spec"):
        lines += _format_spec(facts["model_spec"])
    if facts.get("files"):
        lines.append(_line("files", ", ".join(f"{name} ({size:,})" for name, size in facts["files"].items())))
    for artifact in facts.get("artifacts", []):
        lines.append(f"  {artifact['name']:<28}{artifact['size_bytes']:>13,} bytes  made in {artifact['seconds']:g} s")
    if facts.get("provenance"):
        lines += _format_provenance(facts["provenance"])
    for model in facts.get("models", []):
        inner = {key: value for key, value in model.items() if key != "provenance"}
        lines += ["", format_description(inner) if "error" not in model else f"{model['path']}: {model['error']}"]
    return "\n".join(lines)


def _line(name: str, text: str) -> str:
    return f"  {name:<12}{text}"


def _format_model(facts: Mapping[str, Any]) -> List[str]:
    lines = [_line(what[:-1], _tensor(tensor)) for what in ("inputs", "outputs") for tensor in facts.get(what, [])]
    if "parameters" in facts:
        stored = ", ".join(f"{kind} {size:,} bytes" for kind, size in facts.get("weight_bytes", {}).items())
        lines.append(_line("parameters", f"{facts['parameters']:,}" + (f" ({stored})" if stored else "")))
    if facts.get("work"):
        from edgepress.counters import format_counts

        lines.append(_line("work", format_counts(facts["work"])))
    for what in ("operators", "layers"):
        if facts.get(what):
            lines.append(_line(what, f"{sum(facts[what].values())}: " + ", ".join(f"{name} {count}" for name, count in sorted(facts[what].items(), key=lambda i: (-i[1], i[0])))))
    if facts.get("custom_operators") or facts.get("flex_operators"):
        lines.append(_line("not builtin", ", ".join([*facts.get("custom_operators", []), *facts.get("flex_operators", [])])))
    for what, text in (("signature", ", ".join(s["name"] for s in facts.get("signatures", []))), ("opset", _opset(facts)), ("keras", facts.get("keras_version")),
                       ("unsafe", facts.get("unsafe")), ("note", facts.get("note")), ("carries", ", ".join(facts.get("associated_files", [])))):
        if text:
            lines.append(_line(what, text))
    return lines


def _opset(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{domain} {version}" for domain, version in facts["opset"].items()) + f", IR {facts['ir_version']}" if "opset" in facts else ""


def _tensor(tensor: Mapping[str, Any]) -> str:
    quantized = f", scale {tensor['scale']:.6g}, zero point {tensor['zero_point']}" if tensor.get("scale") is not None else ""
    return f"{tensor['name']} {tensor['dtype']} [{', '.join('?' if size == -1 else str(size) for size in tensor['shape'])}]{quantized}"


def _format_spec(spec: Mapping[str, Any]) -> List[str]:
    labels = spec["labels"]
    shown = ", ".join(labels[:8]) + (f", … ({len(labels)} labels)" if len(labels) > 8 else "")
    taken = "raw RGB bytes" if spec["normalization_inside"] else f"RGB x {_numbers(spec['scale'])} + {_numbers(spec['offset'])}"
    return [_line("ModelSpec", f"{spec['found']}: {spec['name']}" + (f", backbone {spec['backbone']}" if spec["backbone"] else "")), _line("labels", shown),
            _line("takes", f"{taken}, {spec['input_height']} x {spec['input_width']}, {spec['layout']}, photos resized by {spec['resize']}"), _line("answers", spec["output"])]


def _numbers(values: List[float]) -> str:
    return f"{values[0]:.6g}" if len(set(values)) == 1 else "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _format_provenance(provenance: Mapping[str, Any]) -> List[str]:
    inputs = "; ".join(f"{role} {paths if isinstance(paths, str) else ', '.join(map(str, paths))}" for role, paths in provenance.get("input_paths", {}).items())
    versions = ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())
    return [_line("made by", f"{provenance['stage']} in {provenance.get('seconds', '?')} s from {inputs}"), _line("options", json.dumps(provenance.get("config", {}), ensure_ascii=False)), _line("with", versions)]
