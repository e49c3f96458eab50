"""Teach a pretrained backbone the user's classes: a convex head on cached features, then fine-tuning if that is better on validation."""
from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from edgepress import keras_files, modelspec
from edgepress.artifact import digest_json, is_artifact, write_atomic, write_json
from edgepress.backbones import Built, build_backbone, parse_backbone
from edgepress.errors import DatasetError
from edgepress.features import WHOLE, Extractor, View, view_sets
from edgepress.imageset import ImageSet, load_images, pixel_file, select
from edgepress.modelspec import SPEC_FILE, ModelSpec
from edgepress.photos import SPLITS
from edgepress.progress import report_progress
from edgepress.recipe import FinetuneConfig
from edgepress.tasks import head as heads
from edgepress.tasks import training
from edgepress.tf import import_tensorflow, set_deterministic

SCHEMA = 1
VERSION = 1  # of what a checkpoint means
MOST_VALUES = 120_000_000  # of features in memory at once (about 0.5 GB as float32, twice while fitting); more photos get fewer views
TINY_VALIDATION = 2  # images per class; with fewer, part of the training images judges instead
BORROWED_SHARE = 0.2
CLOSE_ZOOM, CAREFUL_ZOOM = 0.7, 0.92  # smallest share of each side that fine-tuning shows


@dataclass(frozen=True)
class Split:
    """Photos with their pixels: uint8 [N, H, W, 3], targets int64 [N], one content digest each."""

    pixels: np.ndarray
    targets: np.ndarray
    digests: Tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, chosen: np.ndarray) -> "Split":
        """Some of the photos."""
        return Split(self.pixels[chosen], self.targets[chosen], tuple(self.digests[i] for i in chosen))


@dataclass(frozen=True)
class Task:
    """What every step of the stage needs."""

    built: Built
    spec: ModelSpec
    train: Split
    validation: Split
    class_weights: np.ndarray
    config: FinetuneConfig
    cache: Path

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.spec.labels)


@dataclass(frozen=True)
class Linear:
    """The probe: chosen on validation (`probe`, of training images only), then fitted on all of them (`final`)."""

    probe: heads.Probe
    final: heads.Head
    views: Tuple[View, ...]
    record: Dict[str, Any]


def finetune(out: Path, *, dataset: Path, config: FinetuneConfig) -> None:
    """Write model.keras, model.json, training.json and a TensorBoard log into `out`.

    The head is fitted on the training split, its views and regularization chosen on the validation split, and fitted again on both.
    With `strategy: finetune` the network is then trained from the head of the training split alone and kept only if it is better on
    validation; both figures are in training.json. The test split is never read.

    Raises:
        RecipeError: the backbone does not exist.
        ModelError: weights that are missing or do not fit, or training that diverged.
        DatasetError: fewer than two classes, or no training images.
    """
    clock = _Clock()
    set_deterministic(config.seed)
    built = build_backbone(config.backbone, weights=config.weights)
    report_progress(f"{built.backbone.name}, weights {built.weights}")
    cache = out.parent / ".cache"
    task, notes = _prepare(built, dataset, config, cache)
    clock.lap("prepare")
    linear = _probe(task, clock)
    tuned, model = None, None
    if config.strategy == "finetune":
        checkpoint = cache / f"finetune-{_run_key(task, linear)}.npz"
        pretrained, model = built.model.get_weights(), _with_head(built, linear.probe.head)
        tuned = _tune(task, linear, model, checkpoint=checkpoint, board=out / "tensorboard")
        built.model.set_weights(pretrained)  # training moved the layers that both share
        clock.lap("finetune")
    kept = "finetune" if tuned and (tuned.accuracy, -tuned.loss) > (linear.probe.accuracy, -linear.probe.calibrated.loss) else "head"
    final = _tuned_model(model, tuned) if tuned and kept == "finetune" else _with_head(built, linear.final.cooled(linear.probe.calibrated.temperature))
    _write(out, _with_softmax(final), task.spec)
    clock.lap("write")
    write_json(out / "training.json", {
        "schema": SCHEMA, "stage": "finetune", "backbone": built.backbone.name, "weights": built.weights, "weights_sha256": built.weights_sha256,
        "weights_license": built.weights_license, "strategy": config.strategy, "kept": kept, "why": _why(kept, linear, tuned), "notes": notes,
        "images": {"train": len(task.train), "validation": len(task.validation)}, "class_weights": dict(zip(task.spec.labels, map(float, task.class_weights))),
        "probe": linear.record, "finetune": _tuned_record(tuned), "seconds": clock.seconds})
    if tuned:
        checkpoint.unlink(missing_ok=True)
    report_progress(_why(kept, linear, tuned))


def prepare(cache: Path, *, dataset: Path, config: FinetuneConfig) -> None:
    """Decode the photos of every split of a dataset artifact into `cache`: work for the time in which TensorFlow is being imported elsewhere."""
    size = parse_backbone(config.backbone).size
    for split in SPLITS:
        images = load_images(dataset, split=split)
        if len(images):
            pixel_file(images, ModelSpec(labels=images.labels, input_height=size, input_width=size, resize=config.resize), cache=cache)


class _Clock:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.seconds: Dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase], self._last = round(now - self._last, 2), now


def _prepare(built: Built, dataset: Path, config: FinetuneConfig, cache: Path) -> Tuple[Task, List[str]]:
    train = load_images(dataset, split="train")
    if len(train.labels) < 2 or not len(train.targets):
        raise DatasetError(f"{dataset} has {len(train.targets)} training images of {len(train.labels)} classes; training needs at least 2 classes",
                           "give a folder with one folder of images per class")
    size, row = built.backbone.size, built
    spec = ModelSpec(labels=train.labels, input_height=size, input_width=size, resize=config.resize, scale=row.scale, offset=row.offset,
                     normalization_inside=False, input_type="float32", backbone=built.backbone.name, weights=built.weights,
                     weights_license=built.weights_license, name=built.backbone.name)
    report_progress("reading photos")
    splits = [_load(images, spec, cache) for images in (train, _validation(dataset, train))]
    train_split, validation, notes = _judged(*splits, classes=len(train.labels), seed=config.seed)
    weights = heads.class_weights(train_split.targets, len(train.labels), balanced=config.class_weights == "balanced")
    return Task(built, spec, train_split, validation, weights, config, cache), notes


def _validation(dataset: Path, train: ImageSet) -> ImageSet:
    """The validation split; empty for photos that lie in no split of that name (they are not a dataset artifact)."""
    if is_artifact(dataset):
        return load_images(dataset, split="validation", labels=train.labels)
    try:
        images = load_images(dataset, split="validation", labels=train.labels)
    except DatasetError:  # a train folder and no validation folder
        return select(train, np.arange(0))
    return images if images.paths != train.paths else select(train, np.arange(0))


def _load(images: ImageSet, spec: ModelSpec, cache: Path) -> Split:
    pixels = (np.load(pixel_file(images, spec, cache=cache), mmap_mode="r") if len(images.targets)
              else np.empty((0, *spec.size, spec.channels), np.uint8))
    return Split(pixels, images.targets, tuple(images.digests))


def _judged(train: Split, validation: Split, *, classes: int, seed: int) -> Tuple[Split, Split, List[str]]:
    """Training and validation photos; where validation is missing or tiny, a stratified part of the training photos judges with it."""
    if len(validation) >= TINY_VALIDATION * classes:
        return train, validation, []
    rng, borrowed = np.random.default_rng(seed), []
    for target in range(classes):
        own = np.flatnonzero(train.targets == target)
        borrowed.append(rng.permutation(own)[:max(1, round(BORROWED_SHARE * len(own)))] if len(own) > 1 else own[:0])
    chosen = np.sort(np.concatenate(borrowed))
    rest = np.setdiff1d(np.arange(len(train)), chosen)
    judge = train.take(chosen)
    if len(validation):
        judge = Split(np.concatenate([judge.pixels, validation.pixels]), np.concatenate([judge.targets, validation.targets]), judge.digests + validation.digests)
    return train.take(rest), judge, [f"the validation split has {len(validation)} images, too few to choose by: "
                                     f"{len(chosen)} training images ({BORROWED_SHARE:.0%} of each class) judge with it"]


def _probe(task: Task, clock: _Clock) -> Linear:
    """Fit the head for every set of views, keep the best on validation, fit it again on training and validation photos."""
    extractor = Extractor(task.built, cache=task.cache)
    width = task.built.model.output_shape[-1]
    fits = max(1, min(task.config.views, MOST_VALUES // (width * (len(task.train) + len(task.validation)))))
    sets = view_sets(fits)
    seen = list(dict.fromkeys(view for views in sets.values() for view in views))
    train = _features(extractor, task.train, seen, task, "features of training photos")
    whole = _features(extractor, task.validation, [WHOLE], task, "features of validation photos")[WHOLE]
    clock.lap("features")
    report_progress(f"fitting the head ({len(sets)} set{'s' if len(sets) > 1 else ''} of views)")

    def fit(views: Tuple[View, ...]) -> heads.Probe:
        return heads.choose_head(np.concatenate([train[v] for v in views]), np.tile(task.train.targets, len(views)), whole,
                                 task.validation.targets, classes=task.classes, weights=task.class_weights)

    with heads.one_thread_each(), ThreadPoolExecutor(2) as pool:
        found = dict(zip(sets, pool.map(fit, sets.values())))
    best = min(found, key=lambda name: found[name].calibrated.loss)
    clock.lap("head")
    views, probe = sets[best], found[best]
    more = _features(extractor, task.validation, list(views), task, "features of validation photos")
    extractor.close()
    rows = np.concatenate([np.concatenate([train[v], more[v]]) for v in views])
    targets = np.tile(np.concatenate([task.train.targets, task.validation.targets]), len(views))
    report_progress("fitting the head on training and validation photos")
    with heads.one_thread_each():
        final = heads.refit_head(rows, targets, strength=probe.strength, classes=task.classes, weights=task.class_weights)
    clock.lap("refit")
    record = {"accuracy": probe.accuracy, "loss": probe.calibrated.loss, "temperature": probe.calibrated.temperature, "strength": probe.strength, "path": probe.path, "views": best,
              "resolved_views": [asdict(v) for v in views], "sets": {n: {"accuracy": p.accuracy, "loss": p.calibrated.loss, "strength": p.strength} for n, p in found.items()},
              "augmentation": _augmentation(found, whole, task.validation.targets),
              "refit": "on training and validation photos with the strength and views chosen on validation", "features_by": extractor.runtime,
              "notes": [n for n in (extractor.note, f"{fits} of {task.config.views} views, to keep the features in memory" if fits < task.config.views else None) if n]}
    return Linear(probe, final, views, record)


def _features(extractor: Extractor, split: Split, views: List[View], task: Task, text: str) -> Dict[View, np.ndarray]:
    total = max(1, len(split) * len(views))
    return {view: extractor.extract(split.pixels, split.digests, view, key=[task.spec.size, task.spec.resize],
                                    progress=lambda done, i=i: report_progress(text, done=(i * len(split) + done) / total))
            for i, view in enumerate(views)}


def _augmentation(found: Mapping[str, heads.Probe], whole: np.ndarray, targets: np.ndarray) -> Dict[str, Any]:
    """What photos may go through while fine-tuning, by what it did to the probe on validation.

    Mirroring changes the meaning of letters and digits, and a close crop cuts off what tells a 7 from a 1: flowers mind neither. What
    was not tried with the probe is not done (mirroring) or done with care (crops).
    """
    losses = {name: heads.photo_losses(probe.head.logits(whole) / probe.calibrated.temperature, targets) for name, probe in found.items()}

    def hurts(name: str, instead: str) -> bool:
        more = losses[name] - losses[instead]
        return bool(more.mean() > more.std() / np.sqrt(len(more)))

    flips, crops = "flips and crops", "crops"
    return {"mirror": flips in losses and not hurts(flips, crops if crops in losses else "whole"),
            "smallest_zoom": CAREFUL_ZOOM if crops not in losses or hurts(crops, "whole") else CLOSE_ZOOM}


def _with_head(built: Built, head: heads.Head) -> Any:
    """Backbone and head: normalized image to logits."""
    _, keras = import_tensorflow()
    logits = keras.layers.Dense(len(head.bias), name="logits")
    model = keras.Model(built.model.input, logits(built.model.output), name="edgepress")
    logits.set_weights([head.kernel, head.bias])
    return model


def _with_softmax(model: Any) -> Any:
    _, keras = import_tensorflow()
    return keras.Model(model.input, keras.layers.Softmax(name="probabilities")(model.output), name="edgepress")


def _tuned_model(model: Any, tuned: training.Tuned) -> Any:
    for variable, value in zip(model.trainable_variables, tuned.weights):
        variable.assign(value)
    logits = model.get_layer("logits")
    logits.set_weights([w / np.float32(tuned.temperature) for w in logits.get_weights()])
    return model


def _run_key(task: Task, linear: Linear) -> str:
    """What a checkpoint belongs to."""
    return digest_json([VERSION, task.built.weights_sha256, asdict(task.config), task.spec.labels, task.train.digests, task.validation.digests,
                        task.train.targets.tolist(), task.validation.targets.tolist(), linear.probe.strength, linear.record["views"], linear.record["augmentation"]])[:32]


def _tune(task: Task, linear: Linear, model: Any, *, checkpoint: Path, board: Path) -> training.Tuned:
    config = task.config
    schedule = training.Schedule(config.epochs, config.batch_size, config.learning_rate, config.layer_decay, config.label_smoothing, config.ema,
                                 config.patience, config.seed, augment=config.augment, **linear.record["augmentation"])
    photos = [training.Photos(split.pixels, split.targets) for split in (task.train, task.validation)]
    return training.fine_tune(model, task.built.freeze_points, train=photos[0], validation=photos[1], normalize=(task.spec.scale, task.spec.offset),
                              class_weights=task.class_weights, schedule=schedule, checkpoint=checkpoint, log=_board(board))


def _board(folder: Path) -> Any:
    """A function that adds one epoch's figures to a TensorBoard log."""
    tf, _ = import_tensorflow()
    writer = tf.summary.create_file_writer(str(folder))

    def log(epoch: int, figures: Mapping[str, float]) -> None:
        with writer.as_default(step=epoch):
            for name, value in figures.items():
                if name != "epoch":
                    tf.summary.scalar(name, value)
        writer.flush()
        report_progress(f"epoch {epoch}: loss {figures['loss']:.4f}, validation accuracy {figures['validation_accuracy']:.1%}, loss {figures['validation_loss']:.4f}")
    return log


def _tuned_record(tuned: Optional[training.Tuned]) -> Optional[Dict[str, Any]]:
    return tuned and {"accuracy": tuned.accuracy, "loss": tuned.loss, "temperature": tuned.temperature, "epoch": tuned.epoch, "history": tuned.history, "resumed_from": tuned.resumed_from}


def _why(kept: str, linear: Linear, tuned: Optional[training.Tuned]) -> str:
    said = f"head {linear.probe.accuracy:.1%} on validation (loss {linear.probe.calibrated.loss:.4f})"
    if tuned is None:
        return f"{said}; fine-tuning was not asked for"
    said += f", fine-tuned {tuned.accuracy:.1%} (loss {tuned.loss:.4f})"
    return f"{said}: the {'fine-tuned network' if kept == 'finetune' else 'head'} is kept"


def _write(out: Path, model: Any, spec: ModelSpec) -> None:
    keras_files.save_model(model, out / "model.keras")
    write_atomic(out / SPEC_FILE, modelspec.to_json(spec).encode())
