"""What a page shows: the files of a bundle or of a whole run, photos, the host's pixels and answers. Written as the folder that a browser reads."""
from __future__ import annotations

import dataclasses
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import PIL

import edgepress
from edgepress import bundle_golden, parity_photos
from edgepress.artifact import digest_file, write_json
from edgepress.browser import packages
from edgepress.browser.sources import Model, Photo, Source, opened_source
from edgepress.errors import EdgepressError, UnsupportedError
from edgepress.jobs import available_runtimes, run_job
from edgepress.model_size import gzip_bytes
from edgepress.modelspec import ModelSpec
from edgepress.preprocess import load_pixels
from edgepress.progress import report_progress

SCHEMA = 1
APP = "app.json"
AT_ONCE = 2  # models that are asked beside each other: nothing is timed here
VERTICAL_FIRST = 13  # since this version Pillow shrinks tall images vertically first, and some pixels differ by 1


def write_content(path: Path, to: Path, *, served: bool) -> Dict[str, Any]:
    """Write the page of a bundle or run into the folder `to`, without the runtimes; returns what `app.json` says.

    Raises:
        ArtifactError: neither a bundle nor a run, or damaged.
        UnsupportedError: no runtime here that answers the photos of a run.
    """
    with tempfile.TemporaryDirectory(prefix="edgepress-page-") as folder:
        work = Path(folder)
        with opened_source(path, work) as source:
            app = _write(source, to, work, served=served)
    write_json(to / APP, app)
    _write_page(to, app["name"])
    return app


def _write(source: Source, to: Path, work: Path, *, served: bool) -> Dict[str, Any]:
    photos = [*source.photos, *_hard(source.photos, work / "hard")]
    files = _copy_photos(photos, to)
    report_progress(f"the answers of this machine to {len(photos)} photos, of {len(source.models)} file{'s' if len(source.models) > 1 else ''}")
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        models = list(pool.map(lambda model: _write_model(model, photos, to, work), source.models))
    if any(len(model["expected"]) < len(photos) for model in models):  # nothing here opens a bundle's file: its own answers are all there is
        files = [file for file in files if file["kind"] == "golden"]
    return {"schema": SCHEMA, "version": edgepress.__version__, "name": source.name, "served": served, "webgpu": served or {model["format"] for model in models} == {"tflite"},
            "packages": packages.versions(), "labels": models[0]["spec"]["labels"], "models": models, "photos": files}


def _hard(golden: Sequence[Photo], folder: Path) -> List[Photo]:
    """Photos that are hard to decode, made from the first one; not those that a bundle has among its golden ones."""
    known = {bundle_golden.KINDS[photo.path.stem] for photo in golden if photo.path.stem in bundle_golden.KINDS}
    return [Photo(path, None, "hard") for path in parity_photos.hard_photos(folder, golden[0].path) if path.name not in known]


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
    name = f"models/{model.name}"
    (to / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.path, to / name)
    pixels = np.stack([load_pixels(photo.path, model.spec) for photo in photos])
    spec = {**dataclasses.asdict(model.spec), "vertical_first": int(PIL.__version__.split(".")[0]) >= VERTICAL_FIRST}
    info, answers = _ask(model, pixels, work)
    golden = model.expected if model.expected is not None else answers[:sum(photo.kind == "golden" for photo in photos)]
    return {"file": name, "variant": model.variant, "format": "onnx" if model.path.suffix == ".onnx" else "tflite", "sha256": digest_file(model.path),
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
    (work / model.variant).mkdir()
    np.save(work / model.variant / "pixels.npy", pixels)
    job = {"runtime": runtime, "model": str(model.path.resolve()), "sha256": digest_file(model.path), "threads": 1}
    try:
        info = run_job({**job, "job": "info"}, work=work / model.variant)
        result = run_job({**job, "job": "predict", "pixels": "pixels.npy", "spec": dataclasses.asdict(model.spec)}, work=work / model.variant)
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
