"""Compare what a target makes of photos with what this machine makes of them, step by step, before any figure of that target is believed."""
from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from edgepress import bundle_files, parity_photos
from edgepress.artifact import digest_file, model_file
from edgepress.bundle_archive import SUFFIX, opened_bundle
from edgepress.errors import DatasetError, DeviceError, EdgepressError, JobError, ModelError, UnsupportedError
from edgepress.jobs import available_runtimes, run_job
from edgepress.metadata import find_spec
from edgepress.modelspec import ModelSpec
from edgepress.preprocess import load_pixels
from edgepress.parity_report import Answers, ParityReport, compare, limit_of
from edgepress.parity_report import format_report as format_report  # part of this module's contract
from edgepress.progress import report_progress
from edgepress.scoring import choose_runtime
from edgepress.targets.base import Connection

EMULATED = "an emulated device has no latency worth printing; `edgepress device instructions` counts what it executes"


def check_parity(model: Path, connection: Connection, *, target: Optional[str] = None, runtime: Optional[str] = None, images: Sequence[Path] = (), threads: int = 1) -> ParityReport:
    """Run a file on the same photos here and there and compare decoding, resizing and answers.

    Args:
        model: a bundle (its golden photos are used, and hard copies of the first), or a model file.
        target: what the user calls the place; default: its address.
        images: photos to use instead. A file that does not take photos gets seeded random tensors.

    Raises:
        UnsupportedError: the file does not run there, or there is nothing to compare it with here.
        JobError: the process there died.
    """
    if model.suffix == SUFFIX or (model / bundle_files.MANIFEST).is_file():
        with opened_bundle(model) as folder:
            return _check(folder / bundle_files.read_manifest(folder)["model"], connection, target=target, runtime=runtime, images=images, threads=threads)
    return _check(model_file(model), connection, target=target, runtime=runtime, images=images, threads=threads)


def _check(file: Path, connection: Connection, *, target: Optional[str], runtime: Optional[str], images: Sequence[Path], threads: int) -> ParityReport:
    spec, name = find_spec(file), choose_runtime(file, runtime, connection=connection)
    report_progress(f"comparing {file.name} in {name} on {target or connection.address} with this machine")
    with tempfile.TemporaryDirectory(prefix="edgepress-parity-") as folder:
        work = Path(folder)
        golden = _golden(file) if not images else None
        photos = _photos(file, golden, images, work=work) if spec is not None else []
        job: Dict[str, Any] = {"job": "parity", "runtime": name, "model": str(file.resolve()), "sha256": digest_file(file), "threads": threads, "spec": spec and dataclasses.asdict(spec)}
        if spec is not None:
            np.save(work / "pixels.npy", np.stack([load_pixels(photo, spec) for photo in photos]))
            job.update(images=[str(photo.resolve()) for photo in photos], pixels="pixels.npy")
        there = _answers(job, connection, work=work, place=target or connection.address)
        if name in available_runtimes(_format(file)):
            here, reference = _answers(job, "local", work=work, place="this machine"), "this machine"
        else:
            here, reference = _expected(golden, there, file=file, runtime=name, photos=photos, spec=spec, work=work), "the bundle's expected answers"
    return compare(here, there, file=file, sha256=job["sha256"], names=_names(photos, len(there.own)), labels=spec.labels if spec else (), reference=reference,
                    limit=limit_of(file, here, there), target=target or connection.address, measured_on=connection.measured_on)


def gate(file: Path, runtime: str, connection: Connection, *, work: Path) -> Optional[str]:
    """Why no latency of this file may be measured there, or None.

    Raises:
        DeviceError: the device is gone.
    """
    if connection.measured_on == "emulated":
        return EMULATED
    try:
        report = check_parity(file, connection, runtime=runtime)
    except DeviceError:
        raise
    except EdgepressError as error:
        return f"its answers cannot be compared with this machine's: {error}"
    return None if report.passed else f"it answers otherwise there than on this machine: {report.problems[0]} (edgepress device parity)"


def _format(file: Path) -> str:
    return file.suffix.lower()[1:]


def _golden(file: Path) -> Optional[Dict[str, Any]]:
    """The golden.json of the bundle that holds the file, or None where it is no bundle."""
    if not (file.parent / bundle_files.MANIFEST).is_file() or not (file.parent / bundle_files.GOLDEN).is_file():
        return None
    manifest = bundle_files.read_manifest(file.parent)
    for name in (file.name, bundle_files.GOLDEN):
        if name not in manifest["files"] or bundle_files.file_facts(file.parent / name)["sha256"] != manifest["files"][name]["sha256"]:
            raise ModelError(f"{file.parent / name} is not what the bundle's manifest lists", "copy or pack the bundle again")
    golden = json.loads((file.parent / bundle_files.GOLDEN).read_text(encoding="utf-8"))
    if file.name == manifest["model"]:
        return dict(golden)
    other = golden["others"][file.name]
    return {**golden, "runtime": {}, "images": [{**image, "probabilities": row} for image, row in zip(golden["images"], other["probabilities"])]}


def _photos(file: Path, golden: Optional[Mapping[str, Any]], images: Sequence[Path], *, work: Path) -> List[Path]:
    """The photos to compare: those given, or the bundle's golden ones and hard copies of the first, or drawn ones."""
    for photo in images:
        if not photo.is_file():
            raise DatasetError(f"{photo} does not exist or is not a file", "give image files")
    chosen = list(images) if images else [file.parent / image["file"] for image in golden["images"]] if golden else []
    return chosen + parity_photos.hard_photos(work / "hard", chosen[0] if chosen else None, besides=[photo.name for photo in chosen])


def _names(photos: Sequence[Path], count: int) -> List[str]:
    return [photo.name for photo in photos] if photos else [f"random tensor {number}" for number in range(count)]


def _answers(job: Mapping[str, Any], target: Any, *, work: Path, place: str) -> Answers:
    """What one machine makes of the job.

    Raises:
        UnsupportedError: its runtime does not open the file.
        DeviceError: what came back is no such answer.
    """
    output = "answers.npy"
    result = run_job({**job, "output": output}, work=work, target=target)
    if result["status"] != "ok":
        raise UnsupportedError(f"{Path(job['model']).name} does not run in {job['runtime']} on {place}: {result['reason']}", "choose another --runtime")
    try:
        rows = np.load(work / output, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DeviceError(f"the answers of {place} cannot be read ({error})", "run it again") from error
    halves = 2 if "images" in job else 1
    steps = result.get("steps")
    if rows.ndim != 2 or rows.dtype != np.float32 or not isinstance(steps, list) or not steps or len(rows) != halves * len(steps):
        raise DeviceError(f"the answers of {place} are {rows.dtype} {list(rows.shape)} for {len(steps or [])} cases; accepted: float32, {halves} rows a case", "run it again")
    facts = {"runtime": result["runtime"], "versions": result["versions"], "delegate": result["details"].get("delegate"), "outputs": result["outputs"],
             "cpu": result["host"].get("cpu"), "machine": result["host"].get("machine")}
    return Answers(given=rows[:len(steps)], own=rows[-len(steps):], steps=steps, facts=facts)


def _expected(golden: Optional[Mapping[str, Any]], there: Answers, *, file: Path, runtime: str, photos: Sequence[Path], spec: Optional[ModelSpec], work: Path) -> Answers:
    """The bundle's own expected answers, where this machine lacks the runtime; rows without any are NaN."""
    if golden is None or spec is None:
        raise UnsupportedError(f"{file.name} cannot be compared: {runtime} is not installed on this machine", "install it here (`edgepress runtimes`), or check a bundle, which carries its expected answers")
    from edgepress.fingerprint import photo_steps

    rows = np.full((len(photos), there.own.shape[1]), np.nan, np.float32)
    expected = np.float32([image["probabilities"] for image in golden["images"]])
    if expected.shape[1:] != rows.shape[1:]:
        raise ModelError(f"{file.name} gives {rows.shape[1]} numbers and the bundle expects {expected.shape[1]}", "pack the bundle again")
    rows[:len(expected)] = expected
    return Answers(given=None, own=rows, steps=[photo_steps(photo, spec)[0] for photo in photos], facts={"runtime": golden["runtime"], "versions": {}, "delegate": None, "outputs": there.facts["outputs"]})
