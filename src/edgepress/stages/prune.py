"""Prune a Keras model by weight magnitude and fine-tune what is left."""
from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np

from edgepress import keras_files, modelspec
from edgepress.artifact import model_file, write_atomic, write_json
from edgepress.errors import DatasetError, ModelError, RecipeError
from edgepress.imageset import ImageSet, load_images, pixel_file, select
from edgepress.modelspec import SPEC_FILE, ModelSpec
from edgepress.progress import report_progress
from edgepress.pruning import choose_method, kernels, training
from edgepress.pruning.plan import PrunePlan, make_schedule
from edgepress.recipe import PruneConfig

NOTE = ("Pruning makes the compressed file smaller and not the inference faster: the zeros are stored and multiplied like any other weight; "
        "only gzip, zip or a packed download gains.")
SPARSITY_OF_2_4 = 0.5
TOLERATED_POINTS = 2.0  # lost on validation before a note advises more training
SCHEMA = 1


def prune(out: Path, *, model: Path, dataset: Path, config: PruneConfig) -> None:
    """Write model.keras with the zeros asked for, model.json and training.json into `out`.

    Args:
        model: a finetune artifact, or a `.keras`/`.h5` file with model.json beside it.
        dataset: a dataset artifact or what `edgepress dataset` takes; its training split is trained on, its validation split chooses the epoch.

    Raises:
        RecipeError: a sparsity that cannot be.
        ModelError: no model.json, nothing to prune, labels that do not fit, training that diverged, or a layer that missed its sparsity.
        UnsupportedError: method = tfmot and TensorFlow Model Optimization refuses the model.
        DatasetError: no training images.
    """
    _check(config)
    file = model_file(model, formats=("keras",))
    spec = modelspec.read_spec(file.parent)
    source = keras_files.flatten_model(keras_files.load_model(file))
    train, validation = _splits(dataset, spec, cache=out.parent / ".cache")
    if not len(train):
        raise DatasetError(f"{dataset} has no training images; pruning fine-tunes on them", "give a dataset with a training split")
    plan = _plan(source, config, steps=training.count_steps(len(train), config))
    method, why = choose_method(source, plan, method=config.method)
    report_progress(f"pruning {len(plan.kernels)} kernels to {config.sparsity:.0%} with the method {method.NAME}: {why}")
    before = _figures(source, validation, spec, config)
    result = training.fine_tune(source, plan, method=method, train=train, validation=validation, spec=spec, config=config)
    layers, after = kernels.check_sparsity(result.model, plan), _figures(result.model, validation, spec, config)
    notes = _notes(file.parent) + _loss_note(before, after)
    keras_files.save_model(result.model, out / "model.keras")
    write_atomic(out / SPEC_FILE, modelspec.to_json(spec).encode())
    write_json(out / "training.json", {
        "schema": SCHEMA, "stage": "prune", "note": NOTE, "method": method.NAME, "why": why, "pattern": plan.pattern, "sparsity": plan.sparsity,
        "schedule": asdict(plan.schedule), "images": {"train": len(train), "validation": len(validation)}, "before": before, "after": after,
        "epochs": list(result.epochs), "kept_epoch": result.kept_epoch, "notes": notes, "layers": layers, "not_pruned": [asdict(skipped) for skipped in plan.skipped]})
    for text in (*notes, NOTE):
        report_progress(text)


def _check(config: PruneConfig) -> None:
    if not 0.0 < config.sparsity < 1.0:
        raise RecipeError(f"prune sparsity is {config.sparsity:g}; accepted: a share of zeros between 0 and 1, such as 0.5", "leave the prune stage out to prune nothing")
    if config.pattern == "2:4" and config.sparsity != SPARSITY_OF_2_4:
        raise RecipeError(f"prune sparsity is {config.sparsity:g} with the pattern 2:4; accepted: {SPARSITY_OF_2_4:g}, as two of four weights are zero", "use --pattern block for other shares")


def _splits(dataset: Path, spec: ModelSpec, *, cache: Path) -> Tuple[training.Images, training.Images]:
    """Training images, and validation images that are not among them (photos without splits are all for training)."""
    train, validation = (load_images(dataset, split=split, labels=spec.labels) for split in ("train", "validation"))
    seen = set(train.digests)
    unseen = select(validation, np.array([i for i, digest in enumerate(validation.digests) if digest not in seen], dtype=np.int64))
    return _pixels(train, spec, cache), _pixels(unseen, spec, cache)


def _pixels(images: ImageSet, spec: ModelSpec, cache: Path) -> training.Images:
    pixels = np.load(pixel_file(images, spec, cache=cache), mmap_mode="r") if len(images) else np.empty((0, *spec.size, 3), np.uint8)
    return training.Images(pixels, images.targets)


def _plan(model: Any, config: PruneConfig, *, steps: int) -> PrunePlan:
    chosen, skipped = kernels.choose_kernels(model, pattern=config.pattern)
    return PrunePlan(chosen, skipped, config.pattern, config.sparsity, make_schedule(config, steps=steps))


def _notes(folder: Path) -> List[str]:
    """What makes the figures before and after less comparable than they look."""
    try:
        kept = json.loads((folder / "training.json").read_text(encoding="utf-8")).get("kept")
    except (OSError, ValueError):
        return []  # a model of the user's own
    return ["the head of the unpruned model was fitted on the validation images too, so its accuracy on them is flattering"] if kept == "head" else []


def _loss_note(before: Mapping[str, Any], after: Mapping[str, Any]) -> List[str]:
    if after["validation_accuracy"] is None:
        return ["no validation images: what pruning cost is not known before the pruned file is evaluated"]
    lost = 100 * (before["validation_accuracy"] - after["validation_accuracy"])
    return [f"pruning lost {lost:.1f} points on validation images: more --epochs, or less --sparsity, loses less"] if lost > TOLERATED_POINTS else []


def _figures(model: Any, validation: training.Images, spec: ModelSpec, config: PruneConfig) -> Dict[str, Any]:
    """Accuracy on validation images, and the weights' bytes plain and compressed (gzip -9)."""
    probabilities = training.predict(model, validation.pixels, spec, batch_size=config.batch_size) if len(validation) else np.empty((0, 1), np.float32)
    weights = b"".join(np.ascontiguousarray(w).tobytes() for w in model.get_weights())
    return {"validation_accuracy": training.accuracy(probabilities, validation.targets), "zero_share": kernels.zero_share(np.frombuffer(weights, np.float32)),
            "weights_bytes": len(weights), "weights_gzip_bytes": len(gzip.compress(weights, 9, mtime=0))}
