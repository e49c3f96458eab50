"""The bill of materials of a bundle as CycloneDX 1.6 JSON: model card, dataset, backbone, programs, runtimes. Made from the run alone: same run, same bytes."""
from __future__ import annotations

import uuid
from typing import Any, Dict, List, Mapping, Optional, Sequence

import edgepress
from edgepress import locks, report_data
from edgepress.modelspec import ModelSpec

FILE = "sbom.cdx.json"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/edgepress")
Json = Dict[str, Any]
Row = Mapping[str, Any]


def make_sbom(facts: report_data.Run, models: Sequence[Json], rows: Sequence[Row], spec: ModelSpec, *, worker_sha256: str) -> Json:
    """The document.

    Args:
        facts: the run.
        models: the manifest's entries of the models; `rows` are their rows of the report.
        worker_sha256: of worker.pyz.
    """
    dataset = report_data.first_document(facts, "dataset", "dataset.json")
    training = report_data.first_document(facts, "finetune", "training.json")
    backbone = _backbone(spec, training)
    data = _dataset(dataset, rows[0]) if dataset else None
    parts = [_model(entry, row, spec, data) for entry, row in zip(models, rows)]
    components = [*parts, *filter(None, (backbone, data)), _program(worker_sha256), *_libraries(models)]
    refs = {part["bom-ref"] for part in components}
    made_of = sorted(ref for ref in ("backbone", "dataset") if ref in refs)
    depends: Dict[str, List[str]] = {"bundle": [part["bom-ref"] for part in parts] + ["worker.pyz"], **{part["bom-ref"]: made_of for part in parts},
                                     "worker.pyz": sorted(part["bom-ref"] for part in components if part["type"] == "library")}
    return {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, ' '.join([worker_sha256, *(row['sha256'] for row in rows)]))}", "version": 1,
            "metadata": {"lifecycles": [{"phase": "build"}],
                         "tools": {"components": [{"type": "application", "name": "edgepress", "version": edgepress.__version__, "licenses": [{"license": {"id": "Apache-2.0"}}]}, *_makers(facts)]},
                         "component": {"type": "application", "bom-ref": "bundle", "name": spec.name, "description": f"A bundle that recognises {len(spec.labels)} classes in photos"}},
            "components": components, "dependencies": [{"ref": ref, "dependsOn": needs} for ref, needs in sorted(depends.items())]}


def _model(entry: Json, row: Row, spec: ModelSpec, dataset: Optional[Json]) -> Json:
    channels = f"{spec.input_type} [1, {spec.input_height}, {spec.input_width}, {spec.channels}], RGB, {'0 to 255' if spec.normalization_inside else 'normalized by the caller'}, resize {spec.resize}"
    parameters: Json = {"approach": {"type": "supervised"}, "task": "image classification", "architectureFamily": "convolutional neural network",
                        **({"modelArchitecture": spec.backbone} if spec.backbone else {}), **({"datasets": [{"ref": "dataset"}]} if dataset else {}),
                        "inputs": [{"format": channels}], "outputs": [{"format": f"float32 [1, {len(spec.labels)}], {spec.output}"}]}
    card: Json = {"modelParameters": parameters, "quantitativeAnalysis": {"performanceMetrics": _metrics(row)}, "considerations": _considerations(row, spec)}
    properties = {"edgepress:variant": entry["variant"], "edgepress:quantization": entry["variant"].rpartition(".")[0], "edgepress:format": entry["format"],
                  "edgepress:runtimes": ", ".join(entry["runtimes"]), "edgepress:certified": entry["certified"], "edgepress:labels": ", ".join(spec.labels)}
    return {"type": "machine-learning-model", "bom-ref": entry["file"], "name": spec.name, "version": row["sha256"][:12], "description": f"{entry['variant']}, measured in {row['runtime']} {row.get('runtime_version') or ''}".strip(),
            "hashes": [{"alg": "SHA-256", "content": row["sha256"]}], "modelCard": card, "properties": _properties(properties)}


def _metrics(row: Row) -> List[Json]:
    """Accuracy with its interval, loss against float, latency on the machine that measured: as strings, which the format asks for."""
    images = f"test split, {row['images']} images"
    found = [_metric("accuracy", row.get("accuracy"), images, row.get("accuracy_interval")), _metric("top-5 accuracy", row.get("top5"), images), _metric("expected calibration error", row.get("ece"), images),
             _metric("accuracy drop against the float model, percentage points", row.get("drop"), images, row.get("drop_interval")), _metric("agreement with the float model", row.get("agreement"), images)]
    found += [_metric("latency, median ms", entry["median_ms"], f"{row['runtime']}, {threads} thread{'s' if threads != '1' else ''}, on the machine that packed the bundle", entry.get("median_interval_ms")) for threads, entry in row["latency"].items()]
    worst = row.get("worst_class")
    if worst:
        found.append(_metric("recall drop of the worst class, percentage points", worst["drop"], f"class {worst['label']}, {worst['images']} images", worst.get("interval")))
    return [metric for metric in found if metric]


def _metric(kind: str, value: Optional[float], part: str, interval: Optional[Sequence[float]] = None) -> Optional[Json]:
    if value is None:
        return None
    bounds = {"confidenceInterval": {"lowerBound": f"{interval[0]:.6g}", "upperBound": f"{interval[1]:.6g}"}} if interval else {}
    return {"type": kind, "value": f"{value:.6g}", "slice": part, **bounds}


def _considerations(row: Row, spec: ModelSpec) -> Json:
    limits = [f"It names one of {len(spec.labels)} classes for any photo" + (f", or unknown below a probability of {spec.reject_threshold:g}." if spec.reject_threshold is not None else "; it has no reject threshold."),
              f"Its figures are of {row['images']} test images that look like the training images; photos of another kind were not measured."]
    tradeoffs = [str(row["verdict"])] if row.get("verdict") else []
    return {"useCases": ["Naming what is in a photo among the classes it was trained on"], "technicalLimitations": limits, **({"performanceTradeoffs": tradeoffs} if tradeoffs else {})}


def _backbone(spec: ModelSpec, training: Optional[Mapping[str, Any]]) -> Optional[Json]:
    if not spec.backbone:
        return None
    license_name = spec.weights_license or (training or {}).get("weights_license")
    digest = (training or {}).get("weights_sha256")
    return {"type": "machine-learning-model", "bom-ref": "backbone", "name": spec.backbone, "description": f"Pretrained weights: {spec.weights or 'unknown'}",
            **({"licenses": [{"license": {"name": license_name}}]} if license_name else {}), "properties": _properties({"edgepress:weights_sha256": digest} if digest else {})}


def _dataset(dataset: Mapping[str, Any], row: Row) -> Json:
    counts = {f"edgepress:images:{split}:{label}": count for split, classes in dataset.get("counts", {}).items() for label, count in classes.items()}
    totals = {f"edgepress:images:{split}": sum(classes.values()) for split, classes in dataset.get("counts", {}).items()}
    facts = {"edgepress:images": dataset.get("images"), "edgepress:classes": len(dataset.get("labels", ())), "edgepress:skipped": len(dataset.get("skipped", ())),
             "edgepress:exact_duplicates": dataset.get("duplicates"), "edgepress:near_duplicates": dataset.get("near_duplicates")}
    name = str(dataset.get("source") or "photos").rstrip("/").rpartition("/")[2]
    return {"type": "data", "bom-ref": "dataset", "name": name, "description": f"Labelled photos; {row['images']} of them are test images that only the certificate has seen",
            "data": [{"type": "dataset", "name": name, "contents": {"properties": _properties({**facts, **totals, **counts})}}]}


def _program(worker_sha256: str) -> Json:
    return {"type": "application", "bom-ref": "worker.pyz", "name": "edgepress worker", "version": edgepress.__version__, "hashes": [{"alg": "SHA-256", "content": worker_sha256}],
            "licenses": [{"license": {"id": "Apache-2.0"}}]}


def _libraries(models: Sequence[Json]) -> List[Json]:
    """The packages that the requirements lock, once for each version."""
    runtimes = {name for entry in models for name in entry["runtimes"]}
    pins = sorted({(pin.name, pin.version) for runtime, python, machine in locks.locked() if runtime in runtimes for pin in locks.read_lock(runtime, python, machine).pins})
    return [{"type": "library", "bom-ref": f"pkg:pypi/{name}@{version}", "name": name, "version": version, "scope": "optional", "purl": f"pkg:pypi/{name}@{version}"} for name, version in pins]


def _makers(facts: report_data.Run) -> List[Json]:
    """The libraries that trained, converted and quantized."""
    return [{"type": "library", "name": name, "version": version} for name, version in report_data.environment(facts)["versions"].items()]


def _properties(values: Mapping[str, Any]) -> List[Json]:
    return [{"name": name, "value": str(value).lower() if isinstance(value, bool) else str(value)} for name, value in values.items() if value is not None]
