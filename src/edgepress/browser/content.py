"""What a page shows: the files of a bundle or of a whole run, photos, the host's pixels and answers. Written as the folder that a browser reads."""
from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import PIL

import edgepress
from edgepress import bundle_files, bundle_golden, parity_photos, predictions, report_data
from edgepress.artifact import digest_file, write_json
from edgepress.browser import packages
from edgepress.errors import ArtifactError, EdgepressError, UnsupportedError
from edgepress.jobs import available_runtimes, run_job
from edgepress.metadata import find_spec
from edgepress.model_size import gzip_bytes
from edgepress.modelspec import ModelSpec, read_spec
from edgepress.preprocess import load_pixels
from edgepress.progress import report_progress

SCHEMA = 1
APP = "app.json"
GOLDEN_PHOTOS = 8  # of a run; a bundle brings its own
VERTICAL_FIRST = 13  # since this version Pillow shrinks tall images vertically first, and some pixels differ by 1


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


def write_content(source: Path, to: Path, *, served: bool) -> Dict[str, Any]:
    """Write the page of a bundle or run into the folder `to`, without the runtimes; returns what `app.json` says.

    Raises:
        ArtifactError: neither a bundle nor a run, or damaged.
        UnsupportedError: no runtime here that answers the photos of a run.
    """
    with tempfile.TemporaryDirectory(prefix="edgepress-page-") as work:
        name, models, photos = _read(source, Path(work))
        photos = [*photos, *(Photo(path, None, "hard") for path in parity_photos.hard_photos(Path(work) / "hard", photos[0].path))]
        files = _copy_photos(photos, to)
        documents = [_write_model(model, photos, to, Path(work)) for model in models]
    known = all(len(model["expected"]) == len(photos) for model in documents)
    if not known:  # nothing here opens the file: the bundle's own answers are all there is
        files = [file for file in files if file["kind"] == "golden"]
    used = {"onnxruntime-web" if model["format"] == "onnx" else "litert-web" for model in documents}
    app = {"schema": SCHEMA, "version": edgepress.__version__, "name": name, "served": served, "webgpu": served or used == {"litert-web"}, "packages": packages.versions(),
           "labels": documents[0]["spec"]["labels"], "models": documents, "photos": files}
    write_json(to / APP, app)
    _write_page(to, name)
    return app


def _read(source: Path, work: Path) -> Tuple[str, List[Model], List[Photo]]:
    if (source / bundle_files.MANIFEST).is_file():
        return _read_bundle(source)
    if report_data.is_run(source):
        return _read_run(source, work)
    raise ArtifactError(f"{source} is neither a bundle nor a run", "give the folder that `edgepress bundle` or `edgepress run` made")


def _read_bundle(folder: Path) -> Tuple[str, List[Model], List[Photo]]:
    manifest = bundle_files.read_manifest(folder)
    problems = bundle_files.check_files(folder)
    if problems:
        raise ArtifactError(f"{folder}: {problems[0]}", "copy the whole bundle folder again")
    golden = json.loads((folder / bundle_files.GOLDEN).read_text(encoding="utf-8"))
    expected = [image["probabilities"] for image in golden["images"]]
    model = Model(folder / manifest["model"], manifest["model"], manifest["variant"], read_spec(folder), golden["tolerance"], manifest["runtimes"][0], expected)
    return manifest["name"], [model], [Photo(folder / image["file"], image["label"], "golden") for image in golden["images"]]


def _read_run(folder: Path, work: Path) -> Tuple[str, List[Model], List[Photo]]:
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
    return folder.name, models, _run_photos(folder / evaluations[models[0].variant], models[0].spec, work / "golden")


def _run_photos(evaluation: Path, spec: ModelSpec, to: Path) -> List[Photo]:
    score = predictions.read_score(evaluation)
    assert score.probabilities is not None and score.targets is not None  # a row with status ok has them
    chosen = bundle_golden.choose_photos(score.probabilities, score.targets, score.paths, score.digests, count=GOLDEN_PHOTOS)
    to.mkdir()
    for number, index in enumerate(chosen):
        bundle_golden.write_copy(Path(score.paths[index]), to / f"{number:02}.png", spec)
    return [Photo(to / f"{number:02}.png", score.labels[score.targets[index]], "golden") for number, index in enumerate(chosen)]


def _copy_photos(photos: Sequence[Photo], to: Path) -> List[Dict[str, Any]]:
    (to / "photos").mkdir(parents=True)
    files = []
    for number, photo in enumerate(photos):
        name = f"photos/{number:02}{photo.path.suffix}"
        shutil.copyfile(photo.path, to / name)
        files.append({"file": name, "name": photo.path.name, "label": photo.label, "kind": photo.kind})
    return files


def _write_model(model: Model, photos: Sequence[Photo], to: Path, work: Path) -> Dict[str, Any]:
    """Copy the file, the host's pixels and its answers; what app.json says about it."""
    report_progress(f"{model.variant}: the answers of this machine")
    (to / "models").mkdir(exist_ok=True)
    shutil.copyfile(model.path, to / "models" / model.name)
    pixels = np.stack([load_pixels(photo.path, model.spec) for photo in photos])
    spec = {**dataclasses.asdict(model.spec), "vertical_first": int(PIL.__version__.split(".")[0]) >= VERTICAL_FIRST}
    info, answers = _ask(model, pixels, work)
    golden = model.expected if model.expected is not None else answers[:sum(photo.kind == "golden" for photo in photos)]
    return {"file": f"models/{model.name}", "variant": model.variant, "format": "onnx" if model.path.suffix == ".onnx" else "tflite", "sha256": digest_file(model.path),
            "size_bytes": model.path.stat().st_size, "gzip_bytes": gzip_bytes(model.path), "tolerance": model.tolerance, "spec": spec, **info,
            "expected": [*golden, *answers[len(golden):]], "pixels": _write_pixels(pixels, model.spec, to)}


def _ask(model: Model, pixels: np.ndarray, work: Path) -> Tuple[Dict[str, Any], List[List[float]]]:
    """The file's tensors and this machine's answers to all photos; nothing where no runtime here opens a bundle's file."""
    here = available_runtimes("onnx" if model.path.suffix == ".onnx" else "tflite")
    runtime = model.runtime if model.runtime in here else next(iter(here), None)
    if runtime is None and model.expected is None:
        raise UnsupportedError(f"no runtime here opens {model.path.name}, so nothing says what the page should answer", "edgepress runtimes")
    if runtime is None:
        return {"input": None, "output": None}, []
    np.save(work / "pixels.npy", pixels)
    job = {"runtime": runtime, "model": str(model.path.resolve()), "sha256": digest_file(model.path), "threads": 1}
    try:
        info = run_job({**job, "job": "info"}, work=work)
        result = run_job({**job, "job": "predict", "pixels": "pixels.npy", "spec": dataclasses.asdict(model.spec)}, work=work)
    except EdgepressError:
        if model.expected is None:
            raise
        return {"input": None, "output": None}, []
    return {"input": info["inputs"][0], "output": info["outputs"][0]}, result["probabilities"]


def _write_pixels(pixels: np.ndarray, spec: ModelSpec, to: Path) -> List[str]:
    """The host's pixels of each photo as raw RGB; models of one size share them."""
    folder = f"pixels/{spec.input_height}x{spec.input_width}-{spec.resize}"
    (to / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{folder}/{number:02}.rgb" for number in range(len(pixels))]
    for name, one in zip(names, pixels):
        (to / name).write_bytes(one.tobytes())
    return names


def _write_page(to: Path, name: str) -> None:
    """The page's own files, and the manifest that lets a phone install it."""
    for file in resources.files("edgepress").joinpath("data", "web").iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    icons = [{"src": f"icon-{side}.png", "sizes": f"{side}x{side}", "type": "image/png", "purpose": purpose} for side in (192, 512) for purpose in ("any", "maskable")]
    write_json(to / "manifest.webmanifest", {"name": name, "short_name": name[:24], "id": "./", "start_url": "./", "scope": "./", "display": "standalone", "background_color": "#f7f8f7",
                                             "theme_color": "#0f766e", "icons": icons})
