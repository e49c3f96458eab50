"""Pack the file that ships with everything it needs into one folder: program, labels, certificate, self-test, hashes."""
from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

import edgepress
from edgepress import bundle_files, bundle_golden, predictions, profiles, report_choice, report_data
from edgepress.artifact import digest_file, write_json
from edgepress.errors import ArtifactError, GateError, ModelError, RecipeError, UnsupportedError, nearest
from edgepress.jobs import interpreter
from edgepress.metadata import find_spec
from edgepress.modelspec import SPEC_FILE, ModelSpec, to_json
from edgepress.recipe import BundleConfig
from edgepress.report_text import milliseconds, percent, points, size
from edgepress.runtimes import load_runtime, runtimes_for
from edgepress.worker_pack import worker_bytes

Row = Mapping[str, Any]
COMMANDS = {"predict": "Say what is in photos: python predict.py photo.jpg",
            "selftest": "Check that this bundle is whole and works on this machine: python selftest.py"}
NUMPY = {"tflite_runtime": "'numpy<2'"}  # its wheels were built against NumPy 1 and break with 2, although their metadata allows it
CANDIDATES = 3  # named in the error where nothing may ship


def bundle(out: Path, *, run: Path, config: BundleConfig) -> None:
    """Write the bundle of a run into `out`: the chosen file and all that a device needs besides Python, NumPy, Pillow and one runtime.

    Nothing in it depends on when or where it is packed: the same run gives the same bytes.

    Raises:
        GateError: nothing is certified.
        RecipeError: `config.choose` names no file of the run.
        UnsupportedError: the named file does not run.
        ArtifactError: not a run, or its files or test photos changed or went away.
    """
    facts = report_data.read_run(run)
    rows = report_data.comparison_rows(facts)
    row, why = choose(rows, config.choose)
    evaluation = row["sources"]["evaluation"].rpartition("/")[0]
    step = next(step for step in facts.steps if step["artifact"] == evaluation and step["stage"] == "evaluate")
    source = run / step["inputs"]["model"]
    spec = _copy_model(source, out, row)
    model = f"model{source.suffix}"
    _write_text(out / "labels.txt", "".join(f"{label}\n" for label in spec.labels))
    _write_text(out / SPEC_FILE, to_json(spec))
    write_json(out / "certificate.json", _certificate(facts, row, model))
    (out / bundle_files.WORKER).write_bytes(worker_bytes())
    for command, summary in COMMANDS.items():
        _write_text(out / f"{command}.py", _template("command.py", command=command, summary=summary))
    runtimes = _runtimes(rows, row, source)
    about = {"schema": bundle_files.SCHEMA, "name": spec.name, "model": model, "variant": row["variant"], "why": why, "runtimes": runtimes, "install": _install(runtimes[0])}
    photos = _write_golden(out, run / evaluation, spec, count=config.golden)
    _write_answers(out, row, photos, {**about, "files": _listed(out)})
    _write_readme(out, row, spec, about, golden=len(photos))
    write_json(out / bundle_files.MANIFEST, {**about, "files": _listed(out)})


def choose(rows: Sequence[Row], name: str) -> Tuple[Row, str]:
    """The row of the file that ships, and why.

    Args:
        rows: see `report_data.comparison_rows`.
        name: auto (the report's own choice), a variant, or variant@runtime.
    """
    if name != "auto":
        return _named(rows, name)
    if not any(row.get("certified") is True for row in rows):
        raise _nothing_certified(rows)
    verdict = report_choice.headline(rows, next((row["images"] for row in rows if row.get("images")), None))
    return next(row for row in rows if row["key"] == verdict["key"]), verdict["why"]


def _named(rows: Sequence[Row], name: str) -> Tuple[Row, str]:
    found = [row for row in rows if name in (row["variant"], row["key"])]
    if not found:
        raise RecipeError(f"bundle choose is {name!r}; {nearest(name, ['auto', *(row['variant'] for row in rows)])}")
    fit = [row for row in found if row["status"] == "ok"]
    if not fit:
        raise UnsupportedError(f"{found[0]['key']} cannot ship: {found[0]['reason']}", "choose another file of the report")
    best = min(fit, key=lambda row: (row.get("certified") is not True, report_choice.cost(row, "latency") or float("inf")))
    verdict = "is the float reference" if best["is_reference"] else {True: "certified", False: "NOT certified"}.get(best.get("certified"), "not certified: unresolved")
    return best, f"Asked for by name; {verdict}."


def _nothing_certified(rows: Sequence[Row]) -> GateError:
    """The error that names the files which came nearest, and each way on."""
    fit = [row for row in rows if row["status"] == "ok" and not row["is_reference"] and row.get("drop_at_most") is not None]
    near = sorted(fit, key=lambda row: row["drop_at_most"])[:CANDIDATES]
    reference = next((row for row in rows if row["is_reference"] and row["status"] == "ok"), None)
    listed = "; ".join(f"{row['key']} lost {points(row['drop']).lstrip('+')} points on {row['images']} test images and at most {row['drop_at_most']:.2f} are sure" for row in near)
    message = "no file of this run is certified, so none ships" + (f"; accepted: at most {near[0]['max_drop']:g} points. Nearest: {listed}" if near else ": none was compared with the float reference")
    ways = [f"--choose {near[0]['variant']} to ship it on your own judgement", f"run again with a budget of --max-drop {np.ceil(near[0]['drop_at_most'] * 10) / 10:g} or with more test images"] if near else []
    ways += [f"--choose {reference['variant']} for the float reference"] if reference else []
    return GateError(message, "; or ".join(ways) or "see the report for the reasons")


def _copy_model(source: Path, out: Path, row: Row) -> ModelSpec:
    if not source.is_file() or digest_file(source) != row["sha256"]:
        raise ArtifactError(f"{source} is not the file that was evaluated: it is gone or its bytes changed", "run the recipe again")
    spec = find_spec(source)
    if spec is None:
        raise ModelError(f"{source} has no ModelSpec: nothing says how to feed it", "convert it with edgepress, or put a model.json beside it")
    shutil.copyfile(source, out / f"model{source.suffix}")
    return spec


def _certificate(facts: report_data.Run, row: Row, model: str) -> Dict[str, Any]:
    """The certificate without paths of this machine; for the reference, what was measured of it."""
    folder = row["sources"].get("certificate", "").rpartition("/")[0]
    if not folder:
        return {"schema": 1, "certified": None, "reason": "this is the float reference: there is nothing to compare it with",
                "file": model, **{key: row[key] for key in ("sha256", "size_bytes", "images", "accuracy", "accuracy_interval")}}
    found = dict(facts.documents[folder]["certificate.json"])
    reference = {**found["reference"], "file": "/".join(Path(found["reference"]["file"]).parts[-1:])}
    return {**found, "file": model, "reference": reference, "dataset": Path(str(found.get("dataset", ""))).name}


def _runtimes(rows: Sequence[Row], chosen: Row, source: Path) -> List[str]:
    """Runtimes that may run the file: the measured one first, others of its format unless this run saw them fail with it or the profiles refuse it."""
    failed = {row["runtime"] for row in rows if row["variant"] == chosen["variant"] and (row["status"] != "ok" or row.get("certified") is False)}
    facts = profiles.file_facts(source)
    others = [name for name in runtimes_for(chosen["format"]) if load_runtime(name).PORTABLE and name not in failed and profiles.verdict(name, facts)[0] != "refused"]
    return [chosen["runtime"], *(name for name in others if name != chosen["runtime"])]


def _install(runtime: str) -> str:
    return f"python -m pip install {load_runtime(runtime).DISTRIBUTION} {NUMPY.get(runtime, 'numpy')} pillow"


def _others(runtimes: Sequence[str]) -> str:
    return "".join(f" Where pip has no package for this machine, `{name}` does it too: `{_install(name)}`." for name in runtimes)


def _write_golden(out: Path, evaluation: Path, spec: ModelSpec, *, count: int) -> List[Tuple[str, str]]:
    """Write golden/*.png; (file, true label) of each."""
    score = predictions.read_score(evaluation)
    assert score.probabilities is not None and score.targets is not None  # a row with status ok has them
    chosen = bundle_golden.choose_photos(score.probabilities, score.targets, score.paths, score.digests, count=count)
    (out / "golden").mkdir()
    photos = [(f"golden/{number:02}.png", score.labels[score.targets[index]]) for number, index in enumerate(chosen)]
    for (name, _), index in zip(photos, chosen):
        bundle_golden.write_copy(Path(score.paths[index]), out / name, spec)
    return photos


def _write_answers(out: Path, row: Row, photos: Sequence[Tuple[str, str]], manifest: Mapping[str, Any]) -> None:
    """Write golden.json: the answers of the bundle's own worker and model to the bundle's own photos."""
    result = bundle_files.run_images(out, [name for name, _ in photos], manifest=manifest, runtime=row["runtime"], python=str(interpreter(row["runtime"])))
    images = [{"file": name, "label": label, "probabilities": answer} for (name, label), answer in zip(photos, result["probabilities"])]
    write_json(out / bundle_files.GOLDEN, {"schema": bundle_files.SCHEMA, "runtime": result["runtime"], "tolerance": bundle_golden.tolerance(row["variant"]), "images": images})


def _listed(out: Path) -> Dict[str, Any]:
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {name: bundle_files.file_facts(out / name) for name in names}


def _write_readme(out: Path, row: Row, spec: ModelSpec, about: Mapping[str, Any], *, golden: int) -> None:
    texts = {"model": about["model"], "runtime": row["runtime"], "runtimes": ", ".join(about["runtimes"]), "install": about["install"], "others": _others(about["runtimes"][1:]), "version": edgepress.__version__}
    labels = ", ".join(spec.labels[:12]) + (f" and {len(spec.labels) - 12} more (labels.txt)" if len(spec.labels) > 12 else "")
    channels = f"{spec.input_type} [1, {spec.input_height}, {spec.input_width}, {spec.channels}]"
    input_text = channels + (", RGB 0–255, normalisation inside" if spec.normalization_inside else f", normalised by the program as `{SPEC_FILE}` says")
    _write_text(out / "README.md", _template("README.md", **texts, title=f"{spec.name}: {row['variant']}", classes=str(len(spec.labels)), labels=labels,
                                             golden=str(golden), input=input_text, facts="\n".join(f"- {fact}" for fact in _facts(row, about["why"]))))
    weights = f"The weights it started from ({spec.backbone or 'unknown backbone'}, {spec.weights or 'unknown weights'}): {spec.weights_license or 'licence not recorded'}."
    _write_text(out / "LICENSES.md", _template("LICENSES.md", **texts, weights=weights))
    _write_text(out / "LICENSE-Apache-2.0.txt", _resource("LICENSE-Apache-2.0.txt"))


def _facts(row: Row, why: str) -> List[str]:
    """Sentences for the README; figures only as measured."""
    facts = [f"Why this file: {why}", f"Right on {percent(row['accuracy'])} of {row['images']} test photos."]
    if row.get("verdict"):
        facts.append(f"Against the float model: {row['verdict']}.")
    facts += [f"{milliseconds(entry['median_ms'])} per photo (median of {entry['runs']} runs, {threads} thread{'s' if threads != '1' else ''}, in {row['runtime']}, on the machine that packed it)."
              for threads, entry in row["latency"].items()]
    return facts + [f"{size(row['size_bytes'])} on disk."]


def _template(name: str, **values: Optional[str]) -> str:
    return Template(_resource(f"{name}.txt")).substitute(values)


def _resource(name: str) -> str:
    return resources.files("edgepress").joinpath("bundle_templates", name).read_text(encoding="utf-8")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
