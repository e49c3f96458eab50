"""Say what is on photos: one model file, its own runtime, its own labels."""
from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from edgepress.artifact import digest_file, model_file
from edgepress.errors import DatasetError, ModelError, UnsupportedError
from edgepress.jobs import run_job
from edgepress.metadata import find_spec
from edgepress.modelspec import ModelSpec
from edgepress.scoring import choose_runtime

UNKNOWN = "unknown"


def predict_photos(model: Path, photos: Sequence[Path], *, runtime: Optional[str] = None, top: int = 3, threads: int = 1) -> List[Dict[str, Any]]:
    """The most probable classes of each photo.

    Args:
        model: a model file, an artifact or bundle that holds one.

    Returns:
        Per photo: {"photo", "label", "probability", "top": [{"label", "probability"}, …], "model", "sha256", "runtime"}. The label is
        "unknown" where the best class is less probable than the model's `reject_threshold`.

    Raises:
        ModelError: nothing says how the file wants its pixels.
        DatasetError: a photo that is not there or cannot be decoded.
        UnsupportedError: no runtime opens the file.
    """
    file = model_file(model)
    spec = find_spec(file)
    if spec is None:
        raise ModelError(f"{file} does not say how it wants its pixels: no ModelSpec inside, no model.json beside it", f"say it once: edgepress describe {file} --normalization … --labels labels.txt")
    for photo in photos:
        if not photo.is_file():
            raise DatasetError(f"{photo} does not exist or is not a file", "give image files")
    digest = digest_file(file)
    job = {"job": "predict", "runtime": choose_runtime(file, runtime), "model": str(file.resolve()), "sha256": digest, "threads": threads,
           "spec": dataclasses.asdict(spec), "images": [str(photo.resolve()) for photo in photos]}
    with tempfile.TemporaryDirectory(prefix="edgepress-") as work:
        result = run_job(job, work=Path(work))
    if result["status"] != "ok":
        raise UnsupportedError(f"{file.name} does not run in {job['runtime']}: {result['reason']}", "choose another --runtime")
    return [{"photo": str(photo), **rank(row, spec, top=top, file=file), "model": str(file), "sha256": digest, "runtime": result["runtime"]}
            for photo, row in zip(photos, result["probabilities"])]


def rank(probabilities: Sequence[Optional[float]], spec: ModelSpec, *, top: int, file: Path) -> Dict[str, Any]:
    """The `top` classes of one answer, and the label it amounts to.

    Raises:
        ModelError: the answer is not one finite number per label.
    """
    if len(probabilities) != len(spec.labels):
        raise ModelError(f"{file} gives {len(probabilities)} numbers for {len(spec.labels)} labels", "its model.json belongs to another file")
    numbers = [p for p in probabilities if p is not None]
    if len(numbers) < len(probabilities):
        raise ModelError(f"{file} gives numbers that are not finite", "the file is damaged, or this runtime does not compute it correctly")
    order = sorted(range(len(numbers)), key=lambda i: (-numbers[i], i))
    best = numbers[order[0]]
    rejected = spec.reject_threshold is not None and best < spec.reject_threshold
    return {"label": UNKNOWN if rejected else spec.labels[order[0]], "probability": round(best, 6),
            "top": [{"label": spec.labels[i], "probability": round(numbers[i], 6)} for i in order[:max(1, top)]]}


def format_predictions(answers: Sequence[Dict[str, Any]]) -> str:
    """One line per photo, for people."""
    return "\n".join(f"{a['photo']}: " + (f"{UNKNOWN} (" if a["label"] == UNKNOWN else "")
                     + ", ".join(f"{t['label']} {t['probability']:.1%}" for t in a["top"]) + (")" if a["label"] == UNKNOWN else "") for a in answers)
