"""Check a bundle in the folder it was copied to, and run its model: every byte, every golden photo. Travels inside worker.pyz.

Runs where edgepress is not installed: standard library only, Python 3.9; NumPy, Pillow and the runtime live in the worker's process.
"""
from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from edgepress.artifact import digest_file
from edgepress.errors import ArtifactError, JobError, ModelError, UnsupportedError, nearest
from edgepress.extract import name_problem
from edgepress.modelspec import ModelSpec

SCHEMA = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.json"
WORKER = "worker.pyz"
UNLISTED = (MANIFEST, "model.sig")  # a manifest cannot list itself, nor the signature that is made after it (verify.SIGNATURE)
UNKNOWN = "unknown"
CONSTANT = 1e-6  # answers that differ by less over all photos do not depend on the photo
TIMEOUT_SECONDS = 600
LARGEST_JSON = 64 << 20


def read_manifest(folder: Path) -> Dict[str, Any]:
    """The manifest of a bundle, as far as this module relies on it checked: it may come from anywhere.

    Raises:
        ArtifactError: no manifest, or one that cannot be.
    """
    try:
        manifest = _read_json(folder / MANIFEST)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{folder / MANIFEST} cannot be read ({error})", "copy the whole bundle folder again") from error
    problem = _manifest_problem(manifest)
    if problem:
        raise ArtifactError(f"{folder / MANIFEST} {problem}", "copy the whole bundle folder again")
    return manifest


def _read_json(path: Path) -> Any:
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"it is no file, or larger than {LARGEST_JSON >> 20} MiB" if path.exists() else "it does not exist")
    return json.loads(path.read_text(encoding="utf-8"))


def _manifest_problem(manifest: Any) -> Optional[str]:
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        return f"is not of schema {SCHEMA}"
    files, runtimes = manifest.get("files"), manifest.get("runtimes")
    if not isinstance(files, dict) or not all(isinstance(facts, dict) and isinstance(facts.get("sha256"), str) for facts in files.values()):
        return "lists no files"
    bad = next((name for name in files if name_problem(name)), None)
    if bad is not None:
        return f"lists {ascii(bad)}: {name_problem(bad)}"
    if not isinstance(manifest.get("model"), str) or manifest["model"] not in files or not isinstance(runtimes, list) or not runtimes:
        return "names no model that is among its files, or no runtime for it"
    return None


def file_facts(path: Path) -> Dict[str, Any]:
    """What a manifest says about one file."""
    return {"sha256": digest_file(path), "size_bytes": path.stat().st_size}


def check_files(folder: Path) -> List[str]:
    """What is wrong with the files of a bundle: damaged, missing, or not part of it. Empty: each byte is the one that was packed."""
    listed = read_manifest(folder)["files"]
    found = set(_names(folder))
    problems = [f"{name} is missing" for name in sorted(set(listed) - found)]
    problems += [f"{name} does not belong to the bundle" for name in sorted(found - set(listed) - set(UNLISTED))]
    for name in sorted(set(listed) & found):
        if os.path.islink(folder / name) or not os.path.isfile(folder / name):
            problems.append(f"{name} is a link or a device; accepted: files")
        elif os.path.getsize(folder / name) != listed[name].get("size_bytes") or file_facts(folder / name) != listed[name]:
            problems.append(f"{name} is damaged: its bytes are not the ones that were packed")
    return problems


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def select_model(manifest: Mapping[str, Any], model: Optional[str] = None) -> Dict[str, Any]:
    """The manifest for one of its models: the main one, or another that the bundle holds too.

    Raises:
        UnsupportedError: no such model.
    """
    if model is None or model == manifest["model"]:
        return dict(manifest)
    others = {entry["file"]: entry for entry in manifest.get("models", ()) if entry.get("file") in manifest["files"]}
    if model not in others:
        raise UnsupportedError(f"the bundle has no model {model!r}; {nearest(model, [manifest['model'], *others])}")
    return {**manifest, "model": model, "runtimes": others[model]["runtimes"]}


def run_images(folder: Path, images: Sequence[str], *, manifest: Mapping[str, Any], runtime: Optional[str] = None, threads: int = 1,
               python: str = sys.executable) -> Dict[str, Any]:
    """The worker's result for photos: `probabilities` [N][C] (None where not finite), `runtime`, `host`, …

    Args:
        images: paths, relative to the bundle or absolute.
        runtime: one of the manifest's; default: the first of them that works here.
        manifest: the bundle's.
        python: the interpreter that has the runtime.

    Raises:
        UnsupportedError: no such runtime, or none works here.
        JobError: the worker's process died or says that it failed.
    """
    if runtime is not None and runtime not in manifest["runtimes"]:
        raise UnsupportedError(f"runtime {runtime!r} does not open {manifest['model']}; {nearest(runtime, manifest['runtimes'])}")
    job = {"schema": SCHEMA, "job": "predict", "model": str(folder / manifest["model"]), "sha256": manifest["files"][manifest["model"]]["sha256"],
           "threads": threads, "images": [str(folder / name) for name in images], "spec": json.loads((folder / "model.json").read_text(encoding="utf-8"))}
    reasons = []
    for name in [runtime] if runtime else manifest["runtimes"]:
        result = _run_worker(folder, {**job, "runtime": name}, python)
        if result["status"] == "ok":
            return result
        if result["status"] == "failed":
            raise JobError(result["reason"])
        reasons.append(f"{name}: {result['reason']}")
    raise UnsupportedError("nothing on this machine can run the model (" + "; ".join(reasons) + ")", "install what it needs: " + install_command(folder, manifest))


def install_command(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The command that installs what the bundle needs for this Python on this machine: locked by hashes and from the bundle's own wheels where it has them."""
    machine = "armv7l" if platform.machine() in ("aarch64", "armv8l") and sys.maxsize < 2 ** 32 else platform.machine()  # a 32-bit system on a 64-bit kernel
    for runtime in manifest["runtimes"]:
        lock = f"requirements/{runtime}-py{sys.version_info[0]}.{sys.version_info[1]}-{machine}.txt"
        if lock in manifest["files"]:
            offline = "--no-index --find-links wheels " if any(name.startswith("wheels/") for name in manifest["files"]) else ""
            return f"python3 -m pip install {offline}--require-hashes -r {folder / lock} (in a virtual environment)"
    return str(manifest.get("install", "see README.md"))


def _run_worker(folder: Path, job: Mapping[str, Any], python: str) -> Dict[str, Any]:
    """One job in a fresh process: a runtime that crashes takes the worker with it, not us."""
    with tempfile.TemporaryDirectory(prefix="bundle-") as work:
        job_file, result_file = Path(work) / "job.json", Path(work) / "result.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        command = [python, str(folder / WORKER), str(job_file), str(result_file)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise JobError(f"the model did not answer within {TIMEOUT_SECONDS} seconds", command=command) from error
        if not result_file.is_file():
            raise JobError("the process that runs the model died", command=command, exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr)
        return json.loads(result_file.read_text(encoding="utf-8"))


def check_golden(folder: Path, *, runtime: Optional[str] = None, threads: int = 1, model: Optional[str] = None) -> Tuple[List[str], Dict[str, Any]]:
    """What is wrong with the model's answers on the golden photos, and the worker's result. Decoding and resizing are part of it."""
    manifest = select_model(read_manifest(folder), model)
    golden = _read_json(folder / GOLDEN)
    images = golden["images"]
    if not images or any(image["file"] not in manifest["files"] for image in images):
        raise ArtifactError(f"{folder / GOLDEN} names photos that are not among the bundle's files", "copy the whole bundle folder again")
    main = {"tolerance": golden["tolerance"], "probabilities": [image["probabilities"] for image in images]}
    expected = golden.get("others", {}).get(model, main)
    result = run_images(folder, [image["file"] for image in images], manifest=manifest, runtime=runtime, threads=threads)
    return compare_answers(result["probabilities"], expected["probabilities"], names=[image["file"] for image in images], tolerance=expected["tolerance"]), result


def compare_answers(answers: Sequence[Sequence[Optional[float]]], expected: Sequence[Sequence[float]], *, names: Sequence[str], tolerance: float) -> List[str]:
    """Differences that matter between two lists of probabilities, in words; empty where they agree."""
    if [len(row) for row in answers] != [len(row) for row in expected]:
        return [f"the model gave {len(answers)} answers of {len(answers[0]) if answers else 0} numbers where {len(expected)} of {len(expected[0])} were expected"]
    if not all(p is not None and math.isfinite(p) for row in answers for p in row):
        return ["the model answers with numbers that are not finite (NaN or infinite)"]
    if len(answers) > 1 and _spread(answers) < CONSTANT <= _spread(expected):
        return ["the model gives the same answer to every photo: the runtime opens the file but does not compute it"]
    return [problem for problem in map(_difference, names, answers, expected, [tolerance] * len(names)) if problem]


def _spread(rows: Sequence[Sequence[Optional[float]]]) -> float:
    """Largest difference between rows of any one number."""
    return max(max(column) - min(column) for column in zip(*rows))  # type: ignore[type-var]


def _difference(name: str, answer: Sequence[float], expected: Sequence[float], tolerance: float) -> Optional[str]:
    found, wanted = answer.index(max(answer)), expected.index(max(expected))
    if found != wanted and expected[wanted] - expected[found] > 2 * tolerance:  # nearer ones may change places without a number being off
        return f"{name}: the top class is number {found} where {wanted} was expected"
    largest = max(abs(a - b) for a, b in zip(answer, expected))
    return f"{name}: a probability is off by {largest:.4f}; accepted: {tolerance:g}" if largest > tolerance else None


def rank(probabilities: Sequence[Optional[float]], spec: ModelSpec, *, top: int, file: Any = "the model") -> Dict[str, Any]:
    """The `top` classes of one answer, and the label it amounts to: "unknown" where the best is less probable than the spec's `reject_threshold`.

    Raises:
        ModelError: the answer is not one finite number per label.
    """
    if len(probabilities) != len(spec.labels):
        raise ModelError(f"{file} gives {len(probabilities)} numbers for {len(spec.labels)} labels", "its model.json belongs to another file")
    numbers = [p for p in probabilities if p is not None and math.isfinite(p)]
    if len(numbers) < len(probabilities):
        raise ModelError(f"{file} gives numbers that are not finite", "the file is damaged, or this runtime does not compute it correctly")
    order = sorted(range(len(numbers)), key=lambda i: (-numbers[i], i))
    best = numbers[order[0]]
    rejected = spec.reject_threshold is not None and best < spec.reject_threshold
    return {"label": UNKNOWN if rejected else spec.labels[order[0]], "probability": round(best, 6),
            "top": [{"label": spec.labels[i], "probability": round(numbers[i], 6)} for i in order[:max(1, top)]]}


def format_answer(answer: Mapping[str, Any]) -> str:
    """One line for people about a photo's answer; labels of somebody else's bundle cannot steer the terminal."""
    listed = ", ".join(f"{top['label']} {top['probability']:.1%}" for top in answer["top"])
    line = f"{answer['photo']}: " + (f"{UNKNOWN} ({listed})" if answer["label"] == UNKNOWN else listed)
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
