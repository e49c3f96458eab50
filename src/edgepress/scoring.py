"""Run a model file over labelled images in its own runtime."""
from __future__ import annotations

import dataclasses
import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from edgepress import accuracy
from edgepress.artifact import SUFFIXES, digest_file, model_file, write_atomic
from edgepress.device_use import LOCAL, hold
from edgepress.errors import DatasetError, DeviceError, ModelError, UnsupportedError
from edgepress.imageset import ImageSet, is_tensor_csv, load_images, load_tensors, pixel_file
from edgepress.jobs import available_runtimes, run_job
from edgepress.metadata import find_spec
from edgepress.modelspec import ModelSpec
from edgepress.own_spec import guess_spec
from edgepress.predictions import Score
from edgepress.progress import report_progress
from edgepress.recipe import EvaluateConfig
from edgepress.runtimes import load_runtime, runtimes_for
from edgepress.targets.base import Connection

NO_SPEC = "the file carries no ModelSpec: labels are the sorted names of the class folders, and it was given bytes 0-255"
SECONDS_PER_IMAGE = 2  # of the time limit: a slow kernel on a slow board
EMULATED_IMAGES = 300  # more take an emulated device minutes (about 1 s per photo of MobileNetV2 at 224 pixels)


def choose_runtime(file: Path, wanted: Optional[str], *, connection: Optional[Connection] = None) -> str:
    """The runtime that executes a file: the wanted one, or the first for its format that this machine (or the target) has.

    Raises:
        UnsupportedError: the wanted one does not open this format, or none of this machine does.
    """
    form = SUFFIXES[file.suffix.lower()]
    if wanted is not None:
        if form not in load_runtime(wanted).FORMATS:
            raise UnsupportedError(f"runtime {wanted} does not open {file.name}; accepted for .{form}: {', '.join(runtimes_for(form))}", "leave --runtime out")
        return wanted
    installed = available_runtimes(form, connection=connection)
    if not installed and connection is not None and connection.address != LOCAL:
        raise UnsupportedError(f"no runtime of {connection.address} opens {file.name}; {', '.join(runtimes_for(form))} would", "`edgepress device check` tells how to install one there")
    if not installed:
        raise UnsupportedError(f"no runtime of this machine opens {file.name}; {', '.join(runtimes_for(form))} would", "`edgepress doctor` tells how to install one")
    return installed[0]


def score_file(model: Path, dataset: Path, *, config: EvaluateConfig, cache: Path, work: Path) -> Score:
    """Answers of a file, read from disk and run in a fresh process, on every image of `dataset`.

    Args:
        model: a file, or a folder that holds one.
        dataset: dataset artifact (its `config.split`), class folders, a CSV of path,label, or a CSV of raw tensors (file.bin,classes,label).
        cache: folder of decoded pixels, kept between calls.
        work: folder for the job's files, which are gone at the end.

    Raises:
        ModelError: labels of file and images do not fit, or the file's answers are not one probability per class.
        UnsupportedError: no runtime opens this format, or not the one asked for.
        JobError: the process that ran the file died.
    """
    with hold(config.target) as connection:
        return _score(model_file(model), dataset, config, connection, cache=cache, work=work)


def _score(file: Path, dataset: Path, config: EvaluateConfig, connection: Connection, *, cache: Path, work: Path) -> Score:
    name, spec = choose_runtime(file, config.runtime, connection=connection), find_spec(file)
    facts: Dict[str, Any] = {"status": "ok", "reason": None, "file": str(file), "sha256": digest_file(file), "size_bytes": file.stat().st_size,
                             "format": SUFFIXES[file.suffix.lower()], "runtime": {"name": name, "version": None}, "threads": config.threads,
                             "target": config.target, "measured_on": connection.measured_on,
                             "dataset": str(dataset), "split": config.split, "warnings": [] if spec else [NO_SPEC]}
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".score-", dir=work) as folder:
        job = {"runtime": name, "model": str(file.resolve()), "sha256": facts["sha256"], "threads": config.threads, "spec": spec and dataclasses.asdict(spec)}
        images, source = _load(dataset, config.split, spec, file=file, cache=cache, info=lambda: _ask(job, Path(folder), connection))
        count = len(images.targets)
        report_progress(f"running {file.name} in {name} on {count} images" + _place(config.target, connection, count))
        result = run_job({**job, "job": "predict", "batch": config.batch, "output": "probabilities.npy", **source}, work=Path(folder), target=connection,
                         timeout_seconds=max(600, SECONDS_PER_IMAGE * count))
        facts.update(runtime=result["runtime"], host=result["host"], images=count)
        if result["status"] != "ok":
            return Score({**facts, "status": result["status"], "reason": result["reason"]}, tuple(images.labels), digests=tuple(images.digests))
        answers = _load_answers(Path(folder) / "probabilities.npy", rows=count)
    probabilities = _check_answers(file, answers, images.labels, known=spec is not None)
    return Score(facts, tuple(images.labels), probabilities, np.asarray(images.targets), tuple(images.digests), tuple(map(str, images.paths)))


def _place(target: str, connection: Connection, count: int) -> str:
    """Words about where it runs and, where that is slow, how long it may take."""
    if target == LOCAL:
        return ""
    if connection.measured_on == "emulated" and count > EMULATED_IMAGES:
        return f" on {target}, an emulated device: the answers are real, but {count} images may take {count // 60 + 1} minutes or more; --images with fewer photos is quicker"
    return f" on {target}"


def _load_answers(path: Path, *, rows: int) -> np.ndarray:
    """Answers that came back from a target, float32 [N, C].

    Raises:
        DeviceError: not such an array.
    """
    try:
        answers = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DeviceError(f"the answers that came back cannot be read ({error})", "run it again") from error
    if answers.ndim != 2 or len(answers) != rows or answers.dtype.kind != "f":
        raise DeviceError(f"the answers that came back are {answers.dtype} {list(answers.shape)}; accepted: one row of numbers for each of {rows} images", "run it again")
    return answers.astype(np.float32, copy=False)


def _ask(job: Dict[str, Any], work: Path, connection: Connection) -> Dict[str, Any]:
    """What the runtime says about the file's inputs.

    Raises:
        UnsupportedError: it does not open the file.
    """
    result = run_job({**job, "job": "info"}, work=work, target=connection)
    if result["status"] != "ok":
        raise UnsupportedError(result["reason"])
    return result


def _load(dataset: Path, split: str, spec: Optional[ModelSpec], *, file: Path, cache: Path, info: Callable[[], Dict[str, Any]]) -> Tuple[ImageSet, Dict[str, Any]]:
    """The images and what a predict job says about them: {"pixels" or "tensors", "spec"}. `info` asks the runtime about the file's input."""
    labels = spec.labels if spec is not None and spec.labels else None
    if is_tensor_csv(dataset):
        tensors, images = _tensors(dataset, spec, info()["inputs"][0])
        return images, {"tensors": str(_save_once(tensors, cache))}
    images = load_images(dataset, split=split, labels=labels)
    if not len(images.targets):
        raise DatasetError(f"{dataset} has no {split} images", "evaluate another --split, or give a folder of class folders")
    if spec is None:
        inputs = info()["inputs"]
        spec = guess_spec(str(file), shape=inputs[0]["shape"] if len(inputs) == 1 else (), dtype=inputs[0]["dtype"], labels=images.labels)
    return images, {"pixels": str(pixel_file(images, spec, cache=cache)), "spec": dataclasses.asdict(spec)}


def _tensors(csv: Path, spec: Optional[ModelSpec], info: Dict[str, Any]) -> Tuple[np.ndarray, ImageSet]:
    """Raw tensors as the file wants them. Those of three channels are photos (uint8), others stored numbers (int8), as in MLPerf Tiny.

    Where the spec says that the caller normalises, y = x·scale + offset. Otherwise photos go in as bytes, or byte − 128 where the input is int8 (its twin).
    """
    photo = info["shape"][-1] == 3 or (len(info["shape"]) == 4 and info["shape"][1] == 3)
    tensors, images = load_tensors(csv, dtype="uint8" if photo else "int8", labels=spec.labels if spec is not None and spec.labels else None)
    if spec is not None and not spec.normalization_inside:
        if len(set(spec.scale)) > 1 or len(set(spec.offset)) > 1:
            tensors = tensors.reshape(len(tensors), -1, len(spec.scale)).astype(np.float32)
            return (tensors * np.float32(spec.scale) + np.float32(spec.offset)).reshape(len(tensors), -1), images
        return tensors.astype(np.float32) * np.float32(spec.scale[0]) + np.float32(spec.offset[0]), images
    return (tensors ^ 0x80).view(np.int8) if photo and info["dtype"] == "int8" else tensors, images


def _save_once(array: np.ndarray, cache: Path) -> Path:
    """The array in a .npy file named by its content."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    path = cache / f"tensors-{hashlib.sha256(buffer.getvalue()).hexdigest()[:24]}.npy"
    if not path.exists():
        write_atomic(path, buffer.getvalue())
    return path


def _check_answers(file: Path, answers: np.ndarray, labels: Sequence[str], *, known: bool) -> np.ndarray:
    """The answers as probabilities; a file without a spec may end in logits, which then get their softmax here."""
    problem = accuracy.check_answers(answers, classes=len(labels))
    if problem:
        raise ModelError(f"{file}: {problem} ({', '.join(labels[:8])}{', …' if len(labels) > 8 else ''})",
                         "evaluate it on images of the classes it was trained on; the labels are the sorted names of the class folders unless the file carries its own")
    if not known and not accuracy.in_range(answers):
        powers = np.exp(answers - answers.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    problem = accuracy.check_probabilities(answers)
    if problem:
        raise ModelError(f"{file}: {problem}", 'set "output": "logits" in its model.json if it ends before its softmax')
    return answers
