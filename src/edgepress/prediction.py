"""Say what is on photos: one model file, its own runtime, its own labels."""
from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from edgepress.artifact import digest_file, model_file
from edgepress.bundle_files import format_answer, rank
from edgepress.errors import DatasetError, ModelError, UnsupportedError
from edgepress.jobs import run_job
from edgepress.metadata import find_spec
from edgepress.scoring import choose_runtime
from edgepress.targets.base import Connection


def predict_photos(model: Path, photos: Sequence[Path], *, runtime: Optional[str] = None, top: int = 3, threads: int = 1, connection: Optional[Connection] = None) -> List[Dict[str, Any]]:
    """The most probable classes of each photo.

    Args:
        model: a model file, an artifact or bundle that holds one.
        connection: where it runs; default: this machine.

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
    job = {"job": "predict", "runtime": choose_runtime(file, runtime, connection=connection), "model": str(file.resolve()), "sha256": digest, "threads": threads,
           "spec": dataclasses.asdict(spec), "images": [str(photo.resolve()) for photo in photos]}
    with tempfile.TemporaryDirectory(prefix="edgepress-") as work:
        result = run_job(job, work=Path(work), target=connection or "local")
    if result["status"] != "ok":
        raise UnsupportedError(f"{file.name} does not run in {job['runtime']}: {result['reason']}", "choose another --runtime")
    return [{"photo": str(photo), **rank(row, spec, top=top, file=file), "model": str(file), "sha256": digest, "runtime": result["runtime"]}
            for photo, row in zip(photos, result["probabilities"])]


def format_predictions(answers: Sequence[Dict[str, Any]]) -> str:
    """One line per photo, for people."""
    return "\n".join(map(format_answer, answers))
