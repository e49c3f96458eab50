"""What a page is made from: the files and golden photos of a bundle, or of a whole run."""
from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional

from edgepress import bundle_files, bundle_golden, predictions, report_data
from edgepress.artifact import digest_file
from edgepress.bundle_archive import opened_bundle
from edgepress.errors import ArtifactError
from edgepress.metadata import find_spec
from edgepress.modelspec import ModelSpec, read_spec

GOLDEN_PHOTOS = 8  # of a run; a bundle brings its own


@dataclass(frozen=True)
class Photo:
    """One photo of the page. Golden ones decide whether a browser answers as the host; hard ones are shown for its decoder."""

    path: Path
    label: Optional[str]
    kind: str  # golden | hard


@dataclass(frozen=True)
class Model:
    """One file of the page. `expected` are the host's answers to the golden photos, None where they have yet to be computed."""

    path: Path
    name: str  # below models/
    variant: str
    spec: ModelSpec
    tolerance: float
    runtime: str
    expected: Optional[List[List[float]]]


@dataclass(frozen=True)
class Source:
    """All of it. Files lie where they lay, or in a temporary folder as long as `opened_source` is open."""

    name: str
    models: List[Model]
    photos: List[Photo]


@contextlib.contextmanager
def opened_source(path: Path, work: Path) -> Iterator[Source]:
    """The models and golden photos of a bundle (folder or zip) or a run; `work` is an empty folder for copies.

    Raises:
        ArtifactError: neither, or damaged.
    """
    if report_data.is_run(path) and not (path / bundle_files.MANIFEST).is_file():
        yield _read_run(path, work)
        return
    if path.is_dir() and not (path / bundle_files.MANIFEST).is_file():
        raise ArtifactError(f"{path} is neither a bundle nor a run", "give the folder or zip that `edgepress bundle` wrote, or the folder of an `edgepress run`")
    with opened_bundle(path) as folder:
        yield _read_bundle(folder)


def _read_bundle(folder: Path) -> Source:
    manifest, spec = bundle_files.read_manifest(folder), read_spec(folder)
    golden = json.loads((folder / bundle_files.GOLDEN).read_text(encoding="utf-8"))
    answers = {manifest["model"]: {"tolerance": golden["tolerance"], "probabilities": [image["probabilities"] for image in golden["images"]]}, **golden.get("others", {})}
    models = [Model(folder / entry["file"], entry["file"], entry["variant"], spec, answers[entry["file"]]["tolerance"], entry["runtimes"][0], answers[entry["file"]]["probabilities"])
              for entry in manifest["models"]]
    return Source(manifest["name"], models, [Photo(folder / image["file"], image["label"], "golden") for image in golden["images"]])


def _read_run(folder: Path, work: Path) -> Source:
    """Every file of the run that ran, once, and golden photos chosen as for a bundle."""
    run = report_data.read_run(folder)
    rows: Dict[str, Mapping[str, Any]] = {}
    for row in report_data.comparison_rows(run):
        if row["status"] == "ok":
            rows.setdefault(row["variant"], row)
    if not rows:
        raise ArtifactError(f"no file of {folder} ran, so there is nothing to show", "see the report for the reasons")
    evaluations = {variant: row["sources"]["evaluation"].rpartition("/")[0] for variant, row in rows.items()}
    sources = {step["artifact"]: folder / step["inputs"]["model"] for step in run.steps if step["stage"] == "evaluate"}
    models = []
    for variant, row in rows.items():
        path = sources[evaluations[variant]]
        if not path.is_file() or digest_file(path) != row["sha256"]:
            raise ArtifactError(f"{path} is not the file that was evaluated: it is gone or its bytes changed", "run the recipe again")
        spec = find_spec(path)
        if spec is not None:
            models.append(Model(path, f"{variant.rpartition('.')[0]}{path.suffix}", variant, spec, bundle_golden.tolerance(variant), row["runtime"], None))
    if not models:
        raise ArtifactError(f"no file of {folder} says how photos are fed to it", "convert it with edgepress, or put a model.json beside it")
    return Source(folder.resolve().name, models, _run_photos(folder / evaluations[models[0].variant], models[0].spec, work / "golden"))


def _run_photos(evaluation: Path, spec: ModelSpec, to: Path) -> List[Photo]:
    score = predictions.read_score(evaluation)
    assert score.probabilities is not None and score.targets is not None  # a row with status ok has them
    chosen = bundle_golden.choose_photos(score.probabilities, score.targets, score.paths, score.digests, count=GOLDEN_PHOTOS)
    to.mkdir()
    for number, index in enumerate(chosen):
        bundle_golden.write_copy(Path(score.paths[index]), to / f"{number:02}.png", spec)
    return [Photo(to / f"{number:02}.png", score.labels[score.targets[index]], "golden") for number, index in enumerate(chosen)]
