"""Gather what a run measured into one plain dict (report.json), and the bulky raw parts that only the page shows."""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from edgepress import measurement
from edgepress.errors import ArtifactError
from edgepress.measurement import Measurement
from edgepress.report_choice import headline, latency_entry, pareto_front

SCHEMA = 1
RUN_FILE = "run.json"
CERTIFIED = ("certified", "drop", "drop_interval", "drop_at_least", "drop_at_most", "max_drop", "confidence", "mcnemar_p", "agreement", "flips", "kl", "parity", "worst_class",
             "images_needed", "smallest_resolvable_drop", "reason")
EVALUATED = ("file", "sha256", "size_bytes", "images", "accuracy", "accuracy_interval", "top5", "ece", "nll", "mean_confidence", "threads")


@dataclass(frozen=True)
class Run:
    """A run folder read into memory: its steps, and the JSON of each step's artifact by file name."""

    folder: Path
    recipe: Mapping[str, Any]
    steps: Tuple[Dict[str, Any], ...]
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # artifact folder → file name → JSON

    def of(self, stage: str) -> Iterator[Tuple[Dict[str, Any], Mapping[str, Any]]]:
        """(step, documents of its artifact) of every finished step of a stage."""
        for step in self.steps:
            if step["stage"] == stage and step["artifact"] and step["status"] == "ok":
                yield step, self.documents.get(step["artifact"], {})

    @cached_property
    def measurements(self) -> List[Tuple[Measurement, str]]:
        """Every measurement with the place it stands in."""
        return [(measurement.from_json(record, source=f"{step['artifact']}/{measurement.FILE}"), f"{step['artifact']}/{measurement.FILE}#{index}")
                for step, documents in self.of("benchmark") for index, record in enumerate(documents.get(measurement.FILE, []))]


def read_run(folder: Path) -> Run:
    """Read run.json and all JSON of its artifacts.

    Raises:
        ArtifactError: not a run folder, or a damaged file in it.
    """
    run = read_run_file(folder)
    documents = {}
    for step in run["steps"]:
        if step["artifact"] and step["stage"] not in ("report", "bundle"):
            artifact = folder / step["artifact"]
            documents[step["artifact"]] = {path.name: _read_json(path) for path in sorted(artifact.glob("*.json"))}
    return Run(folder, run["recipe"], tuple(run["steps"]), documents)


def read_run_file(folder: Path) -> Dict[str, Any]:
    """The run.json of a run folder.

    Raises:
        ArtifactError: none there, or one that edgepress did not write.
    """
    run = _read_json(folder / RUN_FILE)
    if not isinstance(run, dict) or "schema" not in run or "recipe" not in run or not isinstance(run.get("steps"), list):
        raise ArtifactError(f"{folder / RUN_FILE} was not written by edgepress: it has no schema, recipe and steps", "give the folder of a run of `edgepress run`")
    return run


def is_run(folder: Path) -> bool:
    """Whether `edgepress run` wrote a run.json there."""
    try:
        return bool(read_run_file(folder))
    except ArtifactError:
        return False


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path.parent} is not the folder of a run: it has no {path.name}", "make one with `edgepress run`") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", "run `edgepress run` again") from error


def gather(run: Run, *, title: Optional[str]) -> Dict[str, Any]:
    """Everything of report.json."""
    rows = comparison_rows(run)
    images = next((row["images"] for row in rows if row.get("images")), None)
    verdict = headline(rows, images)
    for row in rows:
        row["chosen"] = row["key"] == verdict["key"]
    return {
        "schema": SCHEMA, "title": title or Path(str(run.recipe.get("images") or run.folder.name)).name, "headline": verdict, "rows": rows,
        "pareto": {kind: pareto_front(rows, kind) for kind in ("latency", "size")},
        "dataset": first_document(run, "dataset", "dataset.json"), "training": first_document(run, "finetune", "training.json"),
        "pruning": first_document(run, "prune", "training.json"), "conversion": first_document(run, "convert", "conversion.json"),
        "environment": environment(run), "skipped": skipped(run, rows), "warnings": warnings(run, rows), "recipe": run.recipe,
        "steps": [{k: step.get(k) for k in ("stage", "variant", "runtime", "artifact", "status", "seconds")} for step in run.steps if step["stage"] not in ("report", "bundle")],
    }


def first_document(run: Run, stage: str, name: str) -> Optional[Mapping[str, Any]]:
    """The JSON file `name` of the first finished step of a stage."""
    return next((documents[name] for _, documents in run.of(stage) if name in documents), None)


def comparison_rows(run: Run) -> List[Dict[str, Any]]:
    """One row per file and runtime, the float reference first, as in the order of the run."""
    evaluations = [(step, documents["evaluation.json"]) for step, documents in run.of("evaluate") if "evaluation.json" in documents]
    by_artifact = {step["artifact"]: _identity(document) for step, document in evaluations}
    scored = list(by_artifact.values())
    certificates, references = {}, []
    for step, documents in run.of("certify"):  # made from evaluations, or from files: then the bytes and the runtime tell which
        certificate = documents["certificate.json"]
        certificates[by_artifact.get(step["inputs"].get("model")) or _identity(certificate)] = (step, certificate)
        references.append(by_artifact.get(step["inputs"].get("reference")) or _identity(certificate["reference"]))
    reference = next((r for r in references if r in scored), references[0] if references else scored[0] if scored else None)
    benchmarks = run.measurements
    rows = [_row(step, document, _identity(document) == reference, certificates.get(_identity(document)), benchmarks) for step, document in evaluations]
    _add_latencies(rows, benchmarks, {key: _identity(certificate["reference"]) for key, (_, certificate) in certificates.items()})
    return sorted(rows, key=lambda row: not row["is_reference"])


def _identity(document: Mapping[str, Any]) -> Tuple[str, str]:
    """(sha256, runtime) of the file that a document is about."""
    return document["sha256"], document["runtime"]["name"]


def _identity_of(row: Mapping[str, Any]) -> Tuple[str, str]:
    return row["sha256"], row["runtime"]


def _row(step: Mapping[str, Any], document: Mapping[str, Any], is_reference: bool, certificate: Optional[Tuple[Mapping[str, Any], Mapping[str, Any]]],
         benchmarks: List[Tuple[Measurement, str]]) -> Dict[str, Any]:
    runtime = document["runtime"]["name"]
    row: Dict[str, Any] = {"key": f"{step['variant']}@{runtime}", "variant": step["variant"], "scheme": step["variant"].rpartition(".")[0], "format": step["variant"].rpartition(".")[2],
                           "runtime": runtime, "runtime_version": document["runtime"].get("version"), "status": document["status"], "reason": document.get("reason"),
                           "is_reference": is_reference, **{key: document.get(key) for key in EVALUATED}}
    row["gzip_bytes"] = next((m.gzip_bytes for m, _ in benchmarks if m.sha256 == row["sha256"]), None)
    row["sources"] = {"evaluation": f"{step['artifact']}/evaluation.json"}
    if certificate and not is_reference:
        row.update({key: certificate[1].get(key) for key in CERTIFIED if key != "reason"}, verdict=certificate[1].get("reason"))
        row["sources"]["certificate"] = f"{certificate[0]['artifact']}/certificate.json"
    return row


def _add_latencies(rows: List[Dict[str, Any]], records: List[Tuple[Measurement, str]], certified_against: Mapping[Tuple[str, str], Tuple[str, str]]) -> None:
    """Latency by thread count, against the float file of the same format in the same runtime with the same threads; without a row of one, against the file of the certificate."""
    timed = {(m.sha256, m.runtime, m.threads): (m, source) for m, source in records if m.status == "ok" and m.rounds and m.accelerator is None}
    for row in rows:
        base = next((r for r in rows if r["scheme"] == "float32" and r["format"] == row["format"] and r["runtime"] == row["runtime"]), None)
        against = _identity_of(base) if base else certified_against.get(_identity_of(row), ("", ""))
        own = {threads: found for (sha, runtime, threads), found in sorted(timed.items(), key=lambda item: item[0][2]) if (sha, runtime) == (row["sha256"], row["runtime"])}
        row["latency"] = {str(t): latency_entry(m, timed.get((*against, t), (None,))[0] if against[1] == row["runtime"] else None) for t, (m, _) in own.items()}
        row["most_threads"] = str(max(own)) if own else None
        row["peak_rss_bytes"] = max((m.peak_rss_bytes or 0 for m, _ in own.values()), default=0) or None
        first = own[min(own)][0] if own else None
        row.update(load_ms=first and first.load_ms, first_run_ms=first and first.first_run_ms)
        if own:
            row["sources"]["benchmark"] = ", ".join(source for _, source in own.values())


def environment(run: Run) -> Dict[str, Any]:
    """The machine and the versions of everything that had a part."""
    measured = [m for m, _ in run.measurements]
    hosts = [m.host for m in measured] + [d["evaluation.json"].get("host") for _, d in run.of("evaluate") if "evaluation.json" in d]
    versions: Dict[str, str] = {}
    for documents in run.documents.values():
        versions.update({name: version for name, version in documents.get("artifact.json", {}).get("versions", {}).items() if version})
    versions.update({m.runtime: m.runtime_version for m in measured if m.runtime_version})
    return {"host": next((h for h in hosts if h), None), "versions": dict(sorted(versions.items()))}


def skipped(run: Run, rows: List[Dict[str, Any]]) -> List[Dict[str, str]]:
    """What has no result, and why: steps, files that a runtime refused, measurements."""
    found = [{"name": step.get("id") or f"{step['stage']} {step.get('variant') or ''}".strip(), "status": step["status"], "reason": str(step["reason"])}
             for step in run.steps if step["status"] != "ok" and step["stage"] not in ("report", "bundle")]
    found += [{"name": f"evaluate {row['key']}", "status": row["status"], "reason": str(row["reason"])} for row in rows if row["status"] != "ok"]
    found += [{"name": f"benchmark {name_of(m.file)} in {m.engine}, {m.threads} thread{'s' if m.threads > 1 else ''}", "status": m.status, "reason": str(m.reason)}
              for m, _ in run.measurements if m.status != "ok"]
    return found


def name_of(file: str) -> str:
    """The last two parts of a path: files of a run are all called model.tflite or model.onnx."""
    return "/".join(Path(file).parts[-2:])


def warnings(run: Run, rows: List[Dict[str, Any]]) -> List[Dict[str, str]]:
    """Every warning that a stage wrote down, once, with the file it stands in."""
    found: Dict[str, str] = {}
    variants = {step["artifact"]: step["variant"] + (f" in {step['runtime']}: " if step.get("runtime") else ": ") for step in run.steps if step.get("variant")}
    for artifact, documents in run.documents.items():
        for name, document in documents.items():
            for text in document.get("warnings", []) if isinstance(document, dict) else []:
                found.setdefault(variants.get(artifact, "") + _words(text), f"{artifact}/{name}")
    for text, source in measurement_warnings(run, rows):
        found.setdefault(text, source)
    return [{"text": text, "source": source} for text, source in found.items()]


def _words(warning: Any) -> str:
    """A warning is a sentence, or a mapping that says what is wrong and what to do."""
    if not isinstance(warning, dict):
        return str(warning)
    return "; ".join(str(warning[key]) for key in ("text", "message", "reason", "hint", "remedy") if warning.get(key)) or str(warning)


def measurement_warnings(run: Run, rows: List[Dict[str, Any]]) -> Iterator[Tuple[str, str]]:
    """What measurements say against themselves, one line per kind: on a busy machine all of them say the same."""
    kinds: Dict[str, List[Tuple[str, str, str]]] = {}
    for m, source in run.measurements:
        variant = next((row["variant"] for row in rows if row["sha256"] == m.sha256), name_of(m.file))
        for warning in m.warnings:
            kinds.setdefault(warning.code, []).append((f"{variant} in {m.engine} with {m.threads} thread{'s' if m.threads > 1 else ''}: {warning.message}", warning.hint, source))
    for entries in kinds.values():
        text, hint, source = entries[0]
        yield text + (f" (and {len(entries) - 1} more measurements likewise)" if len(entries) > 1 else "") + f"; {hint}", source.partition("#")[0]
