"""Pack the file that ships with everything it needs into one folder: program, labels, certificate, self-test, requirements, bill of materials, hashes."""
from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import edgepress
from edgepress import bundle_choice, bundle_files, bundle_golden, bundle_texts, locks, predictions, profiles, report_data, sbom
from edgepress.artifact import digest_file, write_json
from edgepress.browser.static import write_web_app
from edgepress.bundle_archive import FOLDER
from edgepress.errors import ArtifactError, ModelError, RecipeError
from edgepress.jobs import interpreter
from edgepress.metadata import find_spec
from edgepress.modelspec import SPEC_FILE, ModelSpec, to_json
from edgepress.onnx_bytes import external_tensors
from edgepress.recipe import BundleConfig
from edgepress.runtimes import load_runtime, runtimes_for
from edgepress.worker_pack import worker_bytes

MORE = "models"  # folder of the files beside the main one
Row = Mapping[str, Any]


def bundle(out: Path, *, run: Path, config: BundleConfig) -> None:
    """Write the bundle of a run into `out`/bundle: the chosen file and all that a device needs besides Python, NumPy, Pillow and one runtime.

    Nothing in it depends on when or where it is packed: the same run gives the same bytes.

    Raises:
        GateError: nothing is certified.
        RecipeError: `config.choose` or `config.also` names no file of the run, or `config.offline` no Python and machine.
        UnsupportedError: a named file does not run, or there are no wheels to pack.
        ArtifactError: not a run, or its files or test photos changed or went away.
    """
    facts = report_data.read_run(run)
    rows = report_data.comparison_rows(facts)
    row, why = bundle_choice.choose(rows, config.choose)
    chosen = [row, *_others(rows, row, config.also)]
    out = out / FOLDER
    out.mkdir()
    models = [_model_entry(rows, each, _source(facts, each), main=number == 0) for number, each in enumerate(chosen)]
    specs = [_copy_model(_source(facts, each), out / entry["file"], each) for each, entry in zip(chosen, models)]
    spec = specs[0]
    if any(each != spec for each in specs):
        raise RecipeError(f"also is {','.join(config.also)}; accepted: files that want the same pixels as {models[0]['file']}", "make a bundle of its own for each")
    spec = replace(spec, name=config.name or Path(str(facts.recipe.get("images") or spec.name)).name)  # two apps on one device may have one backbone
    bundle_texts.write_text(out / "labels.txt", "".join(f"{label}\n" for label in spec.labels))
    bundle_texts.write_text(out / SPEC_FILE, to_json(spec))
    write_json(out / "certificate.json", _certificate(facts, row, models[0]["file"]))
    (out / bundle_files.WORKER).write_bytes(worker_bytes())
    bundle_texts.write_programs(out)
    bundle_texts.write_requirements(out, sorted({name for entry in models for name in entry["runtimes"]}))
    _download_wheels(out, models[0]["runtimes"], config.offline)
    slug = bundle_texts.write_service(out, spec)
    runtimes = models[0]["runtimes"]
    about = {"schema": bundle_files.SCHEMA, "edgepress": edgepress.__version__, "name": spec.name, "model": models[0]["file"], "variant": row["variant"], "why": why, "runtimes": runtimes,
             "install": bundle_texts.install_command(runtimes[0]), "models": models}
    photos = _write_golden(out, run / row["sources"]["evaluation"].rpartition("/")[0], spec, count=config.golden)
    _write_answers(out, chosen, photos, {**about, "files": _listed(out)})
    write_json(out / sbom.FILE, sbom.make_sbom(facts, models, chosen, spec, worker_sha256=digest_file(out / bundle_files.WORKER)))
    bundle_texts.write_readme(out, row, spec, about, golden=len(photos), offline=bool(config.offline), slug=slug, web=config.web)
    write_json(out / bundle_files.MANIFEST, {**about, "files": _listed(out)})
    if config.web:
        write_web_app(out, out / "web")  # made of a whole bundle
        write_json(out / bundle_files.MANIFEST, {**about, "files": _listed(out)})


def _others(rows: Sequence[Row], main: Row, names: Sequence[str]) -> List[Row]:
    """The rows of further files by name, without the main one and each file once."""
    found: List[Row] = []
    for name in names:
        row, _ = bundle_choice.named(rows, name, option="also", more=())
        if row["sha256"] not in [main["sha256"], *(each["sha256"] for each in found)]:
            found.append(row)
    return found


def _source(facts: report_data.Run, row: Row) -> Path:
    """The file that a row's evaluation ran."""
    evaluation = row["sources"]["evaluation"].rpartition("/")[0]
    step = next(step for step in facts.steps if step["artifact"] == evaluation and step["stage"] == "evaluate")
    return facts.folder / step["inputs"]["model"]


def _model_entry(rows: Sequence[Row], row: Row, source: Path, *, main: bool) -> Dict[str, Any]:
    return {"file": f"model{source.suffix}" if main else f"{MORE}/{row['variant']}", "format": row["format"], "variant": row["variant"], "runtimes": _runtimes(rows, row, source),
            "certified": row.get("certified"), "tolerance": bundle_golden.tolerance(row["variant"])}


def _copy_model(source: Path, target: Path, row: Row) -> ModelSpec:
    if not source.is_file() or digest_file(source) != row["sha256"]:
        raise ArtifactError(f"{source} is not the file that was evaluated: it is gone or its bytes changed", "run the recipe again")
    spec = find_spec(source)
    if spec is None:
        raise ModelError(f"{source} has no ModelSpec: nothing says how to feed it", "convert it with edgepress, or put a model.json beside it")
    if source.suffix == ".onnx" and external_tensors(str(source)):
        raise ModelError(f"{source} keeps tensors in other files, which no bundle ships; accepted: files that hold their own weights", "save it with save_as_external_data=False")
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    return spec


def _certificate(facts: report_data.Run, row: Row, model: str) -> Dict[str, Any]:
    """The certificate without paths and addresses of this machine; for the reference, what was measured of it."""
    folder = row["sources"].get("certificate", "").rpartition("/")[0]
    if not folder:
        return {"schema": 1, "certified": None, "reason": "this is the float reference: there is nothing to compare it with",
                "file": model, **{key: row[key] for key in ("sha256", "size_bytes", "images", "accuracy", "accuracy_interval")}}
    found = _without_target(facts.documents[folder]["certificate.json"])
    reference = {**_without_target(found["reference"]), "file": Path(found["reference"]["file"]).name}
    return {**found, "file": model, "reference": reference, "dataset": Path(str(found.get("dataset", ""))).name}


def _without_target(document: Mapping[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in document.items() if key != "target"}


def _runtimes(rows: Sequence[Row], chosen: Row, source: Path) -> List[str]:
    """Runtimes that may run the file: the measured one first, others of its format unless this run saw them fail with it or the profiles refuse it."""
    failed = {row["runtime"] for row in rows if row["variant"] == chosen["variant"] and (row["status"] != "ok" or row.get("certified") is False)}
    facts = profiles.file_facts(source)
    others = [name for name in runtimes_for(chosen["format"]) if load_runtime(name).PORTABLE and name not in failed and profiles.verdict(name, facts)[0] != "refused"]
    return [chosen["runtime"], *(name for name in others if name != chosen["runtime"])]


def _download_wheels(out: Path, runtimes: Sequence[str], places: Sequence[str]) -> None:
    """Pack the wheels of the first runtime that has them, for each Python and machine asked for."""
    known = locks.locked()
    for place in places:
        python, _, machine = place.partition("-")
        runtime = next((name for name in runtimes if (name, python, machine) in known), None)
        if runtime is None:
            fit = sorted({f"{p}-{m}" for name, p, m in known if name in runtimes})
            raise RecipeError(f"offline is {place!r}, for which {' and '.join(runtimes)} have no wheels; accepted: {', '.join(fit) or 'nothing'}", "name the Python and the machine of the device, such as 3.13-aarch64")
        locks.download_wheels(runtime, python, machine, out / "wheels")


def _write_golden(out: Path, evaluation: Path, spec: ModelSpec, *, count: int) -> List[Tuple[str, str, str]]:
    """Write golden/*; (file, true label, kind) of each."""
    score = predictions.read_score(evaluation)
    assert score.probabilities is not None and score.targets is not None  # a row with status ok has them
    chosen = bundle_golden.choose_photos(score.probabilities, score.targets, score.paths, score.digests, count=count)
    folder = out / "golden"
    folder.mkdir()
    photos = [(f"{number:02}.png", score.labels[score.targets[index]], "plain") for number, index in enumerate(chosen)]
    for (name, _, _), index in zip(photos, chosen):
        bundle_golden.write_copy(Path(score.paths[index]), folder / name, spec)
    photos += [(name, photos[source][1], kind) for name, kind, source in bundle_golden.write_hard_copies(folder, [name for name, _, _ in photos])]
    return [(f"golden/{name}", label, kind) for name, label, kind in photos]


def _write_answers(out: Path, rows: Sequence[Row], photos: Sequence[Tuple[str, str, str]], manifest: Mapping[str, Any]) -> None:
    """Write golden.json: the answers of the bundle's own worker and models to the bundle's own photos."""
    answers = []
    for row, entry in zip(rows, manifest["models"]):
        result = bundle_files.run_images(out, [name for name, _, _ in photos], manifest=bundle_files.select_model(manifest, entry["file"]), runtime=row["runtime"], python=str(interpreter(row["runtime"])))
        answers.append({"runtime": result["runtime"], "tolerance": entry["tolerance"], "probabilities": result["probabilities"]})
    images = [{"file": name, "label": label, "kind": kind, "probabilities": answer} for (name, label, kind), answer in zip(photos, answers[0].pop("probabilities"))]
    others = {entry["file"]: answer for entry, answer in zip(manifest["models"][1:], answers[1:])}
    write_json(out / bundle_files.GOLDEN, {"schema": bundle_files.SCHEMA, **answers[0], "images": images, "others": others})


def _listed(out: Path) -> Dict[str, Any]:
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {name: bundle_files.file_facts(out / name) for name in names if name != bundle_files.MANIFEST}
