"""One command: which folder it fills, and the recipe that options mean."""
from __future__ import annotations

import dataclasses
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from edgepress.artifact import RECORD, SUFFIXES, digest_file, is_artifact, read_record, run_stage, write_atomic
from edgepress.child import TENSORFLOW, StageChild
from edgepress.collect import HIDDEN, collect_run
from edgepress.context import stage_context
from edgepress.device_use import LOCAL, on_each, split_targets
from edgepress.errors import ArtifactError, EdgepressError, RecipeError
from edgepress.pipeline import OFFLINE_SOURCES, digest_input
from edgepress.progress import report_progress
from edgepress.recipe import SECTIONS, PruneConfig, Recipe, check_value, load_recipe, make_config
from edgepress.stages import STAGES, Stage




def run_single(stage: Stage, inputs: Dict[str, Any], config: Any, *, out: Optional[Path], again: bool = False) -> Path:
    """Run one stage for the command line; `again` even if its result is there.

    Returns:
        The artifact's folder; or, where `out` names a model file, that file (its record lies beside it as `<file>.json`).
    """
    if out is not None and out.suffix.lower() in SUFFIXES and stage.name in ("convert", "quantize"):
        return _run_to_file(stage, inputs, config, out, again=again)
    first = inputs[stage.inputs[0].role]
    first = first[0] if isinstance(first, list) else first
    work, targets = None, _targets(config)
    again = again or targets != (LOCAL,)  # what is installed on a device is not part of a stage's key
    if out is None:
        if stage.name in ("report", "bundle"):
            work = first
        else:
            out = _outside_bundles(first).parent / (f"{first.name}.{stage.name}" + ("" if targets == (LOCAL,) else f"-{_file_name(targets)}"))
    base = work or out.parent
    inputs = _with_dataset(stage, {**inputs, "images": _own_folder(first)} if "images" in inputs else inputs, base)
    if "run" in inputs:
        collect_run(inputs["run"])
    cache = base / ".cache"
    with StageChild(TENSORFLOW) as child:
        made = run_stage(stage, inputs=inputs, config=config, out=out, work=work, digest=partial(digest_input, cache=cache), context=stage_context(stage.name, config, inputs), again=again,
                         call=child.call if stage.tensorflow else None)
    if stage.name == "certify" and inputs["model"].is_file() and targets == (LOCAL,):
        from edgepress.stages.certify import write_beside

        write_beside(made, inputs["model"])
    return made


def _outside_bundles(path: Path) -> Path:
    """The path beside which results go: a bundle holds what was packed into it, and nothing else."""
    from edgepress.bundle_files import MANIFEST

    return next((folder for folder in path.resolve().parents if (folder / MANIFEST).is_file()), path)


def run_on_targets(stage: Stage, inputs: Dict[str, Any], config: Any, *, out: Optional[Path], again: bool = False) -> Tuple[List[Path], Optional[EdgepressError]]:
    """`run_single` once for each target that the config names, all at once; each result is a folder of its own. What failed is in the error (see `on_each`).

    A benchmark holds all its targets in one result, so that they stand in one table.
    """
    targets = _targets(config)
    if len(targets) == 1 or stage.name == "benchmark":
        return [run_single(stage, inputs, config, out=out, again=again)], None
    made, failure = on_each(targets, lambda target: run_single(stage, inputs, replace(config, target=target), again=again,
                                                      out=out and out.with_name(f"{out.name}-{_file_name((target,))}")))
    return list(made.values()), failure


def _targets(config: Any) -> Tuple[str, ...]:
    """Where a stage runs its file.

    Raises:
        RecipeError: nowhere.
    """
    target = getattr(config, "target", LOCAL)
    targets = split_targets(target) if isinstance(target, str) else tuple(target)
    return targets or split_targets("")


def _file_name(targets: Tuple[str, ...]) -> str:
    return re.sub("[^A-Za-z0-9.]+", "-", "-".join(targets)).strip("-")


def _with_dataset(stage: Stage, inputs: Dict[str, Any], base: Path) -> Dict[str, Any]:
    """Training stages take photos too: the dataset stage is run first, and said."""
    source = inputs.get("dataset")
    if stage.name not in ("finetune", "prune") or source is None or is_artifact(source):
        return inputs
    report_progress(f"reading {source} into a dataset first (edgepress dataset)")
    made = run_stage(STAGES["dataset"], inputs={"images": source}, config=SECTIONS["dataset"](), work=base, digest=partial(digest_input, cache=base / ".cache"))
    return {**inputs, "dataset": made}


def _run_to_file(stage: Stage, inputs: Dict[str, Any], config: Any, out: Path, *, again: bool) -> Path:
    """Run into a hidden work folder, then put the one model file (and its record) where the user wants it."""
    form = SUFFIXES[out.suffix.lower()]
    _check_target(stage, inputs["model"], out)
    if stage.name == "convert":
        config = replace(config, formats=(form,))
    work = Path(os.path.abspath(out)).parent / HIDDEN
    with StageChild(TENSORFLOW) as child:
        folder = run_stage(stage, inputs=inputs, config=config, work=work, digest=partial(digest_input, cache=work / ".cache"),
                           context=stage_context(stage.name, config, inputs), again=again, call=child.call if stage.tensorflow else None)
    made = [p for p in folder.iterdir() if p.suffix in SUFFIXES]
    if [p.suffix for p in made] != [out.suffix.lower()]:
        raise RecipeError(f"{out} ends in {out.suffix}, but the {stage.name} stage made {', '.join(p.name for p in made)}", f"give -o a name that ends in {made[0].suffix}")
    _copy_atomic(made[0], out)
    details = next(folder.glob("*ion.json"))
    write_atomic(out.with_name(out.name + ".json"), details.read_bytes())
    return out


def _check_target(stage: Stage, model: Path, out: Path) -> None:
    """Refuse what would overwrite a file that is not ours, before anything is done.

    Raises:
        RecipeError: another format than the model's.
        ArtifactError: `out` is the input, a folder, or a file that no command here made.
    """
    if stage.name == "quantize" and model.is_file() and model.suffix.lower() in SUFFIXES and model.suffix.lower() != out.suffix.lower():
        raise RecipeError(f"{out} ends in {out.suffix}, but {model.name} stays a {model.suffix} file when it is quantized", f"give -o a name that ends in {model.suffix}")
    if not out.exists():
        return
    made = {facts["sha256"] for record in (out.parent / HIDDEN).glob(f"*/{RECORD}") for facts in read_record(record.parent)["files"].values()}
    if out.is_dir() or out.resolve() == model.resolve() or digest_file(out) not in made:
        raise ArtifactError(f"{out} exists and was not made by this command; accepted: a new name, or a file that edgepress made there", "choose another -o")


def _copy_atomic(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        shutil.copyfile(source, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _own_folder(images: Path) -> Path:
    """A folder of the user's wins over the built-in dataset of the same name."""
    return Path(os.path.abspath(images)) if str(images) in OFFLINE_SOURCES and images.exists() else images


def build_recipe(source: Path, values: Mapping[str, Any]) -> Recipe:
    """The recipe that `edgepress run SOURCE` with these options means: a recipe file is the base, options change it."""
    recipe = load_recipe(source) if source.suffix == ".toml" else Recipe(images=str(_own_folder(source)))
    if source.suffix == ".toml" and recipe.images not in OFFLINE_SOURCES and not Path(recipe.images).is_absolute():
        recipe = replace(recipe, images=str(source.parent / recipe.images))
    if recipe.images not in OFFLINE_SOURCES and not Path(recipe.images).exists():
        raise RecipeError(f"{recipe.images} does not exist", "give a folder with one folder of photos per class, a CSV of path,label, a recipe .toml, or the word digits")
    changes: Dict[str, Any] = {}
    for key in ("schemes", "runtimes"):
        if values.get(key):
            kind = {f.name: f for f in dataclasses.fields(Recipe)}[key]
            import typing

            changes[key] = check_value(typing.get_type_hints(Recipe)[kind.name], values[key], where=f"--{key}")
    for name, section in SECTIONS.items():
        given = {f.name: values[f.name] for f in dataclasses.fields(section) if values.get(f.name) is not None and _belongs(f.name, name)}
        if given:
            base = getattr(recipe, name) or section()
            changes[name] = make_config(section, {**dataclasses.asdict(base), **given}, where=f"edgepress run, {name}")
    return replace(recipe, **changes)


# Options of `run` whose name several stages share, and the stages they are for.
_SHARED = {"threads": ("benchmark",), "runtimes": (), "seed": ("finetune", "quantize", "prune"), "resize": ("finetune",), "epochs": ("finetune",),
           "batch_size": ("finetune",), "learning_rate": ("finetune",)}


def _belongs(field: str, section: str) -> bool:
    return section in _SHARED.get(field, (section,)) and not (section == "prune" and field != "sparsity")


def runtimes_by_format(recipe: Recipe) -> Dict[str, Tuple[str, ...]]:
    """Format → runtimes of this machine that open it, in the table's order; those of the recipe only, where it names some.

    Raises:
        RecipeError: a runtime of the recipe does not exist, or none opens a format of the recipe.
    """
    from edgepress.jobs import available_runtimes

    found: Dict[str, Tuple[str, ...]] = {}
    for form in recipe.convert.formats:
        names = tuple(n for n in available_runtimes(form) if (n in recipe.runtimes if recipe.runtimes else n != "keras"))
        if not names:
            raise RecipeError(f"no runtime {'of ' + ','.join(recipe.runtimes) + ' ' if recipe.runtimes else ''}on this machine opens .{form} files",
                              f"leave it out with --formats {','.join(f for f in recipe.convert.formats if f != form) or 'tflite'}, or see `edgepress runtimes`")
        found[form] = names
    return found
