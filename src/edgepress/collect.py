"""Make a run of the artifacts in a folder that were made one command at a time, so that `report` and `bundle` take them too."""
from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional

from edgepress.artifact import is_artifact, read_record, write_json
from edgepress.pipeline import RUN_FILE, SCHEMA
from edgepress.recipe import Recipe

HIDDEN = ".edgepress"  # where commands keep the artifact of a file that they put elsewhere


def collect_run(folder: Path) -> None:
    """Write run.json for the artifacts in `folder`, unless `edgepress run` wrote one or there are none."""
    file = folder / RUN_FILE
    if file.is_file() and "collected" not in json.loads(file.read_text(encoding="utf-8")):
        return
    places = [p for parent in (folder, folder / HIDDEN) if parent.is_dir() for p in parent.iterdir() if is_artifact(p)]
    records = sorted(({**read_record(p), "folder": p} for p in places), key=lambda r: r["started"])
    if not any(r["stage"] == "evaluate" for r in records):
        return
    names = _variants(records)
    steps = [_step(r, folder, names) for r in records if r["stage"] not in ("report", "bundle")]
    images = next((r["input_paths"]["images"] for r in records if r["stage"] == "dataset"), "")
    write_json(file, {"schema": SCHEMA, "collected": True, "recipe": dataclasses.asdict(Recipe(images=images)), "steps": steps})


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
    variant, runtime = _identity(record, names)
    return {"id": record["folder"].name, "stage": record["stage"], "variant": variant, "runtime": runtime, "status": "ok", "reason": None, "seconds": record["seconds"],
            "artifact": os.path.relpath(record["folder"], folder),
            "inputs": {role: [_shown(p, folder) for p in v] if isinstance(v, list) else _shown(v, folder) for role, v in record["input_paths"].items()}}


def _identity(record: Dict[str, Any], names: Dict[str, str]) -> "tuple[Optional[str], Optional[str]]":
    """(variant, runtime) of an evaluation or certificate; of others where they have one."""
    document = {"evaluate": "evaluation.json", "certify": "certificate.json"}.get(record["stage"])
    if document:
        facts = json.loads((record["folder"] / document).read_text(encoding="utf-8"))
        return names.get(facts["sha256"], Path(facts["file"]).name), facts["runtime"]["name"]
    own = [names[f["sha256"]] for f in record["files"].values() if f["sha256"] in names]
    return (own[0] if record["stage"] == "quantize" and own else None), None


def _shown(path: str, folder: Path) -> str:
    inside = os.path.abspath(folder) + os.sep
    return path[len(inside):] if path.startswith(inside) else path
