"""Check and run a bundle in the folder it was copied to: what its selftest.py and predict.py do. Travels inside worker.pyz.

Runs where edgepress is not installed: standard library only, Python 3.9; NumPy, Pillow and the runtime live in the worker's process.
"""
from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from edgepress.artifact import digest_file
from edgepress.errors import ArtifactError, EdgepressError, JobError, ModelError, UnsupportedError, nearest
from edgepress.modelspec import ModelSpec, read_spec

SCHEMA = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.json"
WORKER = "worker.pyz"
UNLISTED = (MANIFEST, "model.sig")  # a manifest cannot list itself, nor the signature that is made after it (verify.SIGNATURE)
UNKNOWN = "unknown"
CONSTANT = 1e-6  # answers that differ by less over all photos do not depend on the photo
TIMEOUT_SECONDS = 600


def read_manifest(folder: Path) -> Dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        ArtifactError: no manifest, or one that cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / MANIFEST} cannot be read ({error})", "copy the whole bundle folder again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ArtifactError(f"{folder / MANIFEST} is not of schema {SCHEMA}", "copy the whole bundle folder again")
    return manifest


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
        if os.path.islink(folder / name):
            problems.append(f"{name} is a link; accepted: files")
        elif file_facts(folder / name) != listed[name]:
            problems.append(f"{name} is damaged: its bytes are not the ones that were packed")
    return problems


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


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
    raise UnsupportedError("nothing on this machine can run the model (" + "; ".join(reasons) + ")", "install what it needs: " + manifest["install"])


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


def check_golden(folder: Path, *, runtime: Optional[str] = None, threads: int = 1) -> Tuple[List[str], Dict[str, Any]]:
    """What is wrong with the model's answers on the golden photos, and the worker's result. Decoding and resizing are part of it."""
    golden = json.loads((folder / GOLDEN).read_text(encoding="utf-8"))
    result = run_images(folder, [image["file"] for image in golden["images"]], manifest=read_manifest(folder), runtime=runtime, threads=threads)
    expected = [image["probabilities"] for image in golden["images"]]
    return compare_answers(result["probabilities"], expected, names=[image["file"] for image in golden["images"]], tolerance=golden["tolerance"]), result


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
    if answer.index(max(answer)) != expected.index(max(expected)):
        return f"{name}: the top class is number {answer.index(max(answer))} where {expected.index(max(expected))} was expected"
    largest = max(abs(a - b) for a, b in zip(answer, expected))
    return f"{name}: a probability is off by {largest:.4f}; accepted: {tolerance:g}" if largest > tolerance else None


def rank(probabilities: Sequence[Optional[float]], spec: ModelSpec, *, top: int) -> Dict[str, Any]:
    """The `top` classes of one answer and the label it amounts to, as `edgepress predict` shows them.

    Raises:
        ModelError: the answer is not one finite number per label.
    """
    numbers = [p for p in probabilities if p is not None]
    if len(probabilities) != len(spec.labels) or len(numbers) < len(probabilities):
        raise ModelError(f"the model answers with {len(probabilities)} numbers, {len(probabilities) - len(numbers)} of them not finite; accepted: one for each of {len(spec.labels)} labels",
                         "run selftest.py")
    order = sorted(range(len(numbers)), key=lambda i: (-numbers[i], i))
    best = numbers[order[0]]
    return {"label": UNKNOWN if spec.reject_threshold is not None and best < spec.reject_threshold else spec.labels[order[0]], "probability": round(best, 6),
            "top": [{"label": spec.labels[i], "probability": round(numbers[i], 6)} for i in order[:max(1, top)]]}


def predict_main(folder: Path, arguments: Optional[Sequence[str]] = None) -> int:
    """`python predict.py PHOTO… [--json]`: the exit code; results on stdout, errors on stderr."""
    manifest = read_manifest(folder)
    parser = argparse.ArgumentParser(prog="predict.py", description="Say what is in photos.")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image files")
    parser.add_argument("--top", type=int, default=3, help="classes to show (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    _add_options(parser, manifest)
    given = parser.parse_args(arguments)
    for photo in given.photos:
        if not os.path.isfile(photo):
            raise EdgepressError(f"{photo} does not exist", "give the path of an image file")
    spec = read_spec(folder)
    result = run_images(folder, [os.path.abspath(photo) for photo in given.photos], manifest=manifest, runtime=given.runtime, threads=given.threads)
    answers = [{"photo": photo, **rank(row, spec, top=given.top), "runtime": result["runtime"]} for photo, row in zip(given.photos, result["probabilities"])]
    print(json.dumps(answers, indent=2, ensure_ascii=False) if given.json else "\n".join(map(_line, answers)))
    return 0


def _line(answer: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{top['label']} {top['probability']:.1%}" for top in answer["top"])
    return f"{answer['photo']}: " + (f"{UNKNOWN} ({listed})" if answer["label"] == UNKNOWN else listed)


def selftest_main(folder: Path, arguments: Optional[Sequence[str]] = None) -> int:
    """`python selftest.py`: 0 where every file is whole and the model answers as it did when it was packed, otherwise 1."""
    parser = argparse.ArgumentParser(prog="selftest.py", description="Check that this bundle is whole and that its model works on this machine.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    _add_options(parser, read_manifest(folder))
    given = parser.parse_args(arguments)
    report: Dict[str, Any] = {"passed": False, "problems": check_files(folder), "runtime": None}
    lines = []
    if not report["problems"]:
        lines.append(f"files   ok: {len(read_manifest(folder)['files'])} files are byte for byte what was packed")
        report["problems"], result = check_golden(folder, runtime=given.runtime, threads=given.threads)
        report.update(runtime=result["runtime"], passed=not report["problems"])
        if report["passed"]:
            lines.append(f"answers ok: {result['rows']} photos give the expected answers in {result['runtime']['name']} {result['runtime']['version']}")
    lines += [f"FAILED  {problem}" for problem in report["problems"]]
    print(json.dumps(report, indent=2) if given.json else "\n".join(lines))
    return 0 if report["passed"] else 1


def _add_options(parser: argparse.ArgumentParser, manifest: Mapping[str, Any]) -> None:
    parser.add_argument("--runtime", choices=manifest["runtimes"], help="default: the first of these that works here")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime (default: 1)")


def run_command(command: Any, folder: Path) -> int:
    """Run one of the commands above; errors of the user or the machine become one line on stderr and exit code 1."""
    try:
        return command(folder)
    except EdgepressError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        return 1
