"""Suites: files × runtimes × threads × targets from one TOML file. Resumable: each cell of the matrix is a JSON file of its own, written as soon as it is known."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from edgepress import modelspec
from edgepress.artifact import SUFFIXES, digest_file, write_atomic, write_json
from edgepress.device_use import hold, lost_target, on_each
from edgepress.errors import ArtifactError, DeviceError, EdgepressError, GateError, RecipeError
from edgepress.measurement import engine_name, to_json
from edgepress.predictions import read_score
from edgepress.progress import report_progress
from edgepress.recipe import BenchmarkConfig, EvaluateConfig, RuntimeName, make_config, option
from edgepress.result_sets import CELLS, images_id
from edgepress.runtimes import load_runtime
from edgepress.runtimes.accelerators import runtimes_of
from edgepress.sitting import Case, measure_cases, settings_of
from edgepress.stages.benchmark import cases_of, check_cases, require_used
from edgepress.stages.evaluate import evaluate
from edgepress.targets.base import Connection

DATA_VARIABLE = "EDGEPRESS_DATA"
EXACT_POINTS = 0.05  # an accuracy that is given with one decimal is reproduced within half of it


@dataclass(frozen=True)
class SuiteFile:
    """One `[[file]]` of a suite."""

    label: str = option("", "name in the matrix")
    path: str = option("", "model file, below the data folder")
    group: Optional[str] = option(None, "files of one group are measured by turns and compared in pairs; default: the label's first word")
    inputs: Optional[str] = option(None, "images or tensors with labels, for accuracy")
    no_inputs: Optional[str] = option(None, "why there is no accuracy")
    spec: Optional[dict] = option(None, "ModelSpec of a file that carries none")
    expected: Optional[float] = option(None, "accuracy that was published or measured by others on these inputs, in percent")
    minimum: Optional[float] = option(None, "lowest accuracy that is acceptable, in percent")
    onnx: bool = option(False, "convert the (float) TFLite file to ONNX and measure that instead")


@dataclass(frozen=True)
class Suite:
    """A suite file."""

    name: str = option("", "name of the suite")
    data: str = option(".", f"folder of the files, from the suite's own folder; ${DATA_VARIABLE} wins")
    effort: str = option("quick", "quick, normal or long")
    runtimes: Tuple[RuntimeName, ...] = option(("litert", "onnxruntime"), "runtimes; each runs the files it opens")
    threads: Tuple[int, ...] = option((1,), "thread counts", minimum=1, maximum=256)
    targets: Tuple[str, ...] = option(("local",), "where to measure")
    batch: Tuple[int, ...] = option((1,), "inputs per run", minimum=1)
    accelerators: Tuple[str, ...] = option((), "accelerators to measure besides the CPU, as `edgepress benchmark --accelerator` names them")
    files: Tuple[SuiteFile, ...] = ()
    folder: Path = Path()


def load_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        RecipeError: unreadable, an unknown key, a wrong value, or files that are not there.
    """
    import tomllib  # Python 3.11; suites are never read on a device

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"suite {path} cannot be read ({error.strerror})", "look at the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"suite {path} is not valid TOML ({error})") from error
    entries = data.pop("file", None)
    if not isinstance(entries, list) or not entries:
        raise RecipeError(f"suite {path} names no files", 'add one with: [[file]] label = "…" path = "…"')
    for key in ("files", "folder"):
        if key in data:
            raise RecipeError(f"{path} has the unknown key {key!r}; files are tables [[file]]")
    files = tuple(make_config(SuiteFile, entry, where=f"{path} [[file]] {number}") for number, entry in enumerate(entries, start=1))
    suite = dataclasses.replace(make_config(Suite, data, where=str(path)), files=files)
    suite = dataclasses.replace(suite, name=suite.name or path.stem, folder=_data_folder(path, suite.data))
    _check(suite, path)
    return suite


def _data_folder(path: Path, data: str) -> Path:
    given = os.environ.get(DATA_VARIABLE)
    return Path(given) if given else (path.parent / data).resolve()


def _check(suite: Suite, path: Path) -> None:
    labels = [f.label for f in suite.files]
    for f in suite.files:
        if not f.label or not f.path or labels.count(f.label) > 1:
            raise RecipeError(f"{path}: a [[file]] with the label {f.label!r} and path {f.path!r}; accepted: both given, each label once")
        if not f.inputs and (f.expected is not None or f.minimum is not None):
            raise RecipeError(f"{path}: {f.label} has an expected accuracy but no inputs", "add inputs, or say why not with no_inputs")
    missing = [name for f in suite.files for name in (f.path, f.inputs) if name and not (suite.folder / name).exists()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise RecipeError(f"suite {suite.name} needs {suite.folder / missing[0]}{more}, which is not there; accepted: a data folder that holds it",
                          f"set {DATA_VARIABLE}=FOLDER, or change data in {path}")


@dataclass(frozen=True)
class Cell:
    """One place of the matrix: a latency, or an accuracy (threads None)."""

    entry: SuiteFile
    file: Path
    runtime: str
    threads: Optional[int]
    target: str
    batch: int
    accelerator: Optional[str]
    fingerprint: str

    @property
    def name(self) -> str:
        """File name, unique in the suite."""
        words = ["accuracy" if self.threads is None else "latency", self.entry.label, engine_name(self.runtime, self.accelerator), self.target, f"{self.threads}t" if self.threads else "", f"b{self.batch}" if self.batch > 1 else ""]
        text = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words if word)
        return f"{text}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:6]}.json"

    def document(self, suite: Suite, *, status: str, reason: Optional[str] = None, **facts: Any) -> Dict[str, Any]:
        """What is written."""
        return {"schema": 1, "suite": suite.name, "kind": "accuracy" if self.threads is None else "latency", "label": self.entry.label, "group": _group(self.entry), "runtime": self.runtime,
                "threads": self.threads, "target": self.target, "batch": self.batch, "accelerator": self.accelerator, "fingerprint": self.fingerprint, "status": status, "reason": reason,
                "expected": self.entry.expected, "minimum": self.entry.minimum, **facts}


def with_options(suite: Suite, config: Mapping[str, Any]) -> Suite:
    """The suite with what the command line says instead.

    Raises:
        RecipeError: an option that a suite has no place for.
    """
    places = {"runtimes": "runtimes", "threads": "threads", "target": "targets", "effort": "effort", "batch": "batch", "accelerator": "accelerators"}
    for key, value in config.items():
        if key not in places:
            raise RecipeError(f"--{key.replace('_', '-')} does not go with a suite; accepted: " + ", ".join(f"--{k}" for k in places), "a suite's length is its effort: quick, normal or long")
    checked = make_config(BenchmarkConfig, config, where=f"suite {suite.name}")
    return dataclasses.replace(suite, **{places[key]: getattr(checked, key) for key in config})


def run_suite(suite: Suite, out: Path, *, again: bool = False) -> List[Dict[str, Any]]:
    """Measure what is not there yet; all cells in the order of the suite.

    Raises:
        ArtifactError: `out` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / CELLS).is_dir():
        raise ArtifactError(f"{out} exists and is not the result of a suite", "give another -o")
    (out / CELLS).mkdir(parents=True, exist_ok=True)
    files = {entry.label: _prepared(suite, entry, out) for entry in suite.files}
    cells = [cell for target in suite.targets for entry in suite.files for cell in _cells(suite, entry, files[entry.label], target)]
    require_used(suite.accelerators, [cell.accelerator for cell in cells])
    todo = [cell for cell in cells if again or not _is_done(out, cell)]
    report_progress(f"suite {suite.name}: {len(cells)} cells, {len(todo)} to do")
    targets = [target for target in suite.targets if any(cell.target == target for cell in todo)]
    _, failure = on_each(targets, lambda target: _fill_cells(suite, [cell for cell in todo if cell.target == target], out, target)) if targets else ({}, None)
    if failure is not None:
        raise failure
    documents = [_read(out, cell) for cell in cells]
    write_json(out / "suite.json", {"schema": 1, "name": suite.name, "cells": [cell.name for cell in cells]})
    return documents


def _fill_cells(suite: Suite, cells: Sequence[Cell], out: Path, target: str) -> None:
    """Everything about one target. Where it is lost, the cells that it has not filled say so."""
    kept: List[str] = []

    def keep(cell: Cell, document: Mapping[str, Any]) -> None:
        _keep(out, cell, document)
        kept.append(cell.name)

    try:
        with hold(target) as connection:
            _measure(suite, [c for c in cells if c.threads is not None], out, connection, keep)
        for cell in (c for c in cells if c.threads is None):
            keep(cell, _accuracy(suite, cell, out))
    except DeviceError as error:
        for cell in (c for c in cells if c.name not in kept):
            keep(cell, cell.document(suite, status="failed", reason=error.message))


def require_reached(documents: Sequence[Mapping[str, Any]]) -> None:
    """Nothing, where no target was lost as a whole.

    Raises:
        DeviceError: one was.
    """
    lost = lost_target(documents)
    if lost is not None:
        target, own = lost
        raise DeviceError(f"{target} filled none of its {len(own)} cells: {own[0]['reason']}", "what was measured elsewhere is kept; the same command goes on with what is missing")


def require_expected(documents: Sequence[Mapping[str, Any]]) -> None:
    """Nothing, where every accuracy is the expected one in the first runtime that opens the file, and high enough in all (kernels of other runtimes round otherwise).

    Raises:
        GateError: an accuracy is another one, or too low.
    """
    first: Dict[str, str] = {}
    for d in documents:
        if d["kind"] == "accuracy" and d["status"] == "ok":
            found = 100 * d["accuracy"]["accuracy"]
            exact = first.setdefault(d["label"], d["runtime"]) == d["runtime"]
            if exact and d["expected"] is not None and abs(found - d["expected"]) > EXACT_POINTS:
                raise GateError(f"{d['label']} in {d['runtime']} on {d['target']} is right on {found:.2f} % of the inputs, expected {d['expected']:.2f} %", "the runtime or the inputs are not those the figure is about")
            if d["minimum"] is not None and found < d["minimum"]:
                raise GateError(f"{d['label']} in {d['runtime']} on {d['target']} is right on {found:.2f} % of the inputs, at least {d['minimum']:g} % are wanted", "see the runtime's version")


def _group(entry: SuiteFile) -> str:
    return entry.group or entry.label.split()[0]


def _prepared(suite: Suite, entry: SuiteFile, out: Path) -> Path:
    """The file as it is measured: where the suite says something about it (a spec, ONNX), a copy with that beside it."""
    source = suite.folder / entry.path
    if not entry.onnx and entry.spec is None:
        return source
    folder = out / "models"
    folder.mkdir(exist_ok=True)
    copy = folder / (f"{source.stem}.onnx" if entry.onnx else source.name)
    if entry.onnx and not copy.exists():
        from edgepress.converters import onnx

        report_progress(f"converting {source.name} to ONNX")
        write_atomic(copy, onnx.convert(source))
    elif not entry.onnx and (not copy.exists() or digest_file(copy) != digest_file(source)):
        shutil.copyfile(source, copy)
    if entry.spec is not None:
        spec = modelspec.from_json(json.dumps({"schema": 1, **entry.spec}), source=f"spec of {entry.label}")
        write_atomic(copy.with_name(f"{copy.name}.{modelspec.SPEC_FILE}"), modelspec.to_json(spec).encode())
    return copy


def _cells(suite: Suite, entry: SuiteFile, file: Path, target: str) -> List[Cell]:
    """Cells of one file on one target, for the runtimes that open it."""
    sha = digest_file(file)
    labels = digest_file(suite.folder / entry.inputs) if entry.inputs and (suite.folder / entry.inputs).is_file() else entry.inputs
    made = []
    for runtime in (r for r in suite.runtimes if SUFFIXES[file.suffix.lower()] in load_runtime(r).FORMATS):
        places: List[Tuple[Optional[int], int, Optional[str]]] = [(threads, batch, None) for threads in suite.threads for batch in suite.batch]
        places += [(min(suite.threads), batch, name) for name in suite.accelerators if runtime in runtimes_of(name) for batch in suite.batch]
        places += [(None, 1, None)] if entry.inputs or entry.no_inputs else []
        for threads, batch, accelerator in places:
            about = [sha, runtime, threads, target, batch, entry.spec, labels if threads is None else settings_of(_config(suite)), *([accelerator] if accelerator else [])]
            made.append(Cell(entry, file, runtime, threads, target, batch, accelerator, hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]))
    return made


def _config(suite: Suite) -> BenchmarkConfig:
    return make_config(BenchmarkConfig, {"effort": suite.effort}, where=f"suite {suite.name}")


def _is_done(out: Path, cell: Cell) -> bool:
    """Whether the same thing was measured; what could not be is tried again."""
    try:
        found = json.loads((out / CELLS / cell.name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found.get("fingerprint") == cell.fingerprint and found.get("status") == "ok"


def _read(out: Path, cell: Cell) -> Dict[str, Any]:
    return json.loads((out / CELLS / cell.name).read_text(encoding="utf-8"))


def _keep(out: Path, cell: Cell, document: Mapping[str, Any]) -> None:
    write_json(out / CELLS / cell.name, document)


def _measure(suite: Suite, cells: Sequence[Cell], out: Path, connection: Connection, keep: Callable[[Cell, Mapping[str, Any]], None]) -> None:
    """Latencies, group by group; each group's cells are written as soon as it is done."""
    groups = list(dict.fromkeys(_group(cell.entry) for cell in cells))
    for number, group in enumerate(groups):
        report_progress(f"suite {suite.name}: measuring {group} on {connection.address}", done=number / len(groups))
        own = [cell for cell in cells if _group(cell.entry) == group]
        cases = [_case(suite, cell, connection) for cell in own]
        with tempfile.TemporaryDirectory(prefix=".sitting-", dir=out) as work:
            records = measure_cases(check_cases(cases, connection, work=Path(work)), _config(suite), connection=connection, work=Path(work))
        for cell, record in zip(own, records):
            keep(cell, cell.document(suite, status=record.status, reason=record.reason, measurement=json.loads(to_json(record))))


def _case(suite: Suite, cell: Cell, connection: Connection) -> Case:
    config = dataclasses.replace(_config(suite), runtimes=(cell.runtime,), threads=(cell.threads,), batch=(cell.batch,))  # type: ignore[arg-type]
    return dataclasses.replace(cases_of([cell.file], config, connection=connection, target=cell.target)[0], role=cell.name, accelerator=cell.accelerator)


def _accuracy(suite: Suite, cell: Cell, out: Path) -> Dict[str, Any]:
    """The accuracy of one file in one runtime; a reason where there is none."""
    if cell.entry.inputs is None:
        return cell.document(suite, status="unsupported", reason=cell.entry.no_inputs)
    with tempfile.TemporaryDirectory(prefix=".accuracy-", dir=out) as work:
        folder = Path(work) / "out"
        folder.mkdir()
        try:
            evaluate(folder, model=cell.file, dataset=suite.folder / cell.entry.inputs, config=EvaluateConfig(runtime=cell.runtime, target=cell.target))  # type: ignore[arg-type]
            score = read_score(folder)
        except DeviceError:
            raise  # says nothing about a file
        except EdgepressError as error:
            return cell.document(suite, status="unsupported", reason=error.message)
    if score.probabilities is None or score.targets is None:
        return cell.document(suite, status=score.facts["status"], reason=score.facts["reason"])
    right = score.probabilities.argmax(axis=1) == score.targets
    facts = {"accuracy": float(right.mean()), "images": len(right), "right": "".join("01"[int(v)] for v in right), "images_id": images_id(list(score.digests))}
    return cell.document(suite, status="ok", accuracy=facts, runtime_version=score.facts["runtime"].get("version"))
