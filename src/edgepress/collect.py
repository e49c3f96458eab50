"""Make a run of the artifacts in a folder that were made one command at a time, so that `report` and `bundle` take them too."""
from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from edgepress.artifact import is_artifact, read_record, write_json
from edgepress.errors import ArtifactError
from edgepress.pipeline import SCHEMA
from edgepress.report_data import RUN_FILE, read_run_file
from edgepress.recipe import Recipe

HIDDEN = ".edgepress"  # where commands keep the artifact of a file that they put elsewhere


def collect_run(folder: Path) -> None:
    """Write run.json for the artifacts in `folder` and the folders in it, unless `edgepress run` wrote one.

    Raises:
        ArtifactError: not the folder of a run: no artifacts or no evaluation in it, or a run.json that is not ours.
    """
    file = folder / RUN_FILE
    if file.is_file() and "collected" not in read_run_file(folder):
        return
    records = sorted(({**read_record(p), "folder": p} for p in _artifacts(folder)), key=lambda r: r["started"])
    if not records:
        raise ArtifactError(f"{folder} is not the folder of a run: it holds neither {RUN_FILE} nor a result of a command", "give the folder that `edgepress run` or the single commands wrote to")
    if not any(r["stage"] == "evaluate" for r in records):
        raise ArtifactError(f"{folder} has no evaluated file", "run `edgepress evaluate` on the model files in it first")
    names = _variants(records)
    steps = _without_older([_step(r, folder, names) for r in records if r["stage"] not in ("report", "bundle")])
    images = next((r["input_paths"]["images"] for r in records if r["stage"] == "dataset"), "")
    write_json(file, {"schema": SCHEMA, "collected": True, "recipe": dataclasses.asdict(Recipe(images=images)), "steps": steps})


def _artifacts(folder: Path) -> Iterator[Path]:
    """Artifacts in `folder` and one level below (results lie beside their model file); links and folders of other runs are left alone."""
    for place in _folders(folder):
        if is_artifact(place):
            yield place
        if not (place / RUN_FILE).exists():
            yield from filter(is_artifact, _folders(place))
            yield from filter(is_artifact, _folders(place / HIDDEN))
    yield from filter(is_artifact, _folders(folder / HIDDEN))


def _folders(folder: Path) -> List[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith(".")) if folder.is_dir() else []


def _without_older(steps: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Of evaluations of the same bytes in the same runtime only the newest, so that each is one row."""
    newest = {(s["sha256"], s["runtime"]): s["artifact"] for s in steps if s["stage"] == "evaluate"}
    return [s for s in steps if s["stage"] != "evaluate" or newest[s["sha256"], s["runtime"]] == s["artifact"]]


def _variants(records: List[Dict[str, Any]]) -> Dict[str, str]:
    """sha256 of a model file → its variant name."""
    names = {}
    for record in records:
        scheme = {"convert": "float32", "quantize": record["config"].get("scheme")}.get(record["stage"])
        for name, facts in record["files"].items():
            if scheme and name in ("model.tflite", "model.onnx"):
                names[facts["sha256"]] = f"{scheme}.{name.rpartition('.')[2]}"
    return names


def _step(record: Dict[str, Any], folder: Path, names: Dict[str, str]) -> Dict[str, Any]:
    variant, runtime, digest = _identity(record, names)
    return {"id": os.path.relpath(record["folder"], folder), "stage": record["stage"], "variant": variant, "runtime": runtime, "sha256": digest, "status": "ok", "reason": None,
            "seconds": record["seconds"], "artifact": os.path.relpath(record["folder"], folder),
            "inputs": {role: [_shown(p, folder) for p in v] if isinstance(v, list) else _shown(v, folder) for role, v in record["input_paths"].items()}}


def _identity(record: Dict[str, Any], names: Dict[str, str]) -> Tuple[Optional[str], Optional[str], Optional[str]]:
    """(variant, runtime, sha256) of an evaluation or certificate; of others the variant where they have one."""
    document = {"evaluate": "evaluation.json", "certify": "certificate.json"}.get(record["stage"])
    if document:
        facts = json.loads((record["folder"] / document).read_text(encoding="utf-8"))
        return names.get(facts["sha256"], Path(facts["file"]).name), facts["runtime"]["name"], facts["sha256"]
    own = [names[f["sha256"]] for f in record["files"].values() if f["sha256"] in names]
    return (own[0] if record["stage"] == "quantize" and own else None), None, None


def _shown(path: str, folder: Path) -> str:
    inside = os.path.abspath(folder) + os.sep
    return path[len(inside):] if path.startswith(inside) else path
