"""Fine-tune a network that starts from a fitted head: slow towards the stem, batch norm frozen, averaged weights, resumable."""
from __future__ import annotations

import io
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from edgepress.artifact import write_atomic
from edgepress.errors import ModelError
from edgepress.progress import report_progress
from edgepress.tasks.head import Calibrated, calibrate
from edgepress.tf import import_tensorflow

MOMENTUM = 0.9
WARMUP_STEPS = 100  # at most, and at most a tenth of all steps
CLIP_NORM = 5.0


@dataclass(frozen=True)
class Photos:
    """Pixels uint8 [N, H, W, 3] (memory-mapped or not) and targets int64 [N]."""

    pixels: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `mirror`: left and right may be swapped; `smallest_zoom`: how closely photos may be cropped."""

    epochs: int
    batch_size: int
    learning_rate: float
    layer_decay: float
    label_smoothing: float
    ema: float
    patience: int
    seed: int
    augment: bool = True
    mirror: bool = True
    smallest_zoom: float = 0.7  # share of each side that the closest crop shows


@dataclass(frozen=True)
class Tuned:
    """The averaged weights that were kept, how they did on validation, and one record per epoch."""

    weights: List[np.ndarray]
    accuracy: float
    temperature: float  # to divide the logits by
    loss: float  # at that temperature
    epoch: int  # 1 is the first
    history: List[Dict[str, float]]
    resumed_from: int  # epochs that an earlier, interrupted run had done


def learning_rates(model: Any, freeze_points: Sequence[str], decay: float) -> List[float]:
    """One factor per trainable variable: 1 for the head, `decay` to the number of freeze points from there to the layer below it."""
    names = [layer.name for layer in model.layers]
    points, head = [names.index(p) for p in freeze_points], names.index("logits")
    factors = {}
    for index, layer in enumerate(model.layers):
        group = len(points) + 1 if index >= head else sum(index > p for p in points)
        factors.update({id(v): decay ** (len(points) + 1 - group) for v in layer.trainable_variables})
    return [factors[id(v)] for v in model.trainable_variables]


def affine(count: int, size: Tuple[int, int], schedule: Schedule, rng: np.random.Generator) -> np.ndarray:
    """Random zoom, aspect, turn, shift and mirroring as [count, 8] rows of tf.raw_ops.ImageProjectiveTransformV3 (output to input pixels)."""
    height, width = size
    zoom, aspect = rng.uniform(schedule.smallest_zoom, 1.1, count), np.exp(rng.uniform(-0.12, 0.12, count))
    turn = rng.normal(0, 0.08, count)
    side = np.where(rng.random(count) < 0.5, -1.0, 1.0) if schedule.mirror else np.ones(count)
    a, b = side * zoom * aspect * np.cos(turn), -zoom * aspect * np.sin(turn)
    d, e = side * zoom / aspect * np.sin(turn), zoom / aspect * np.cos(turn)
    room = np.maximum(0.0, 1 - zoom) / 2 + 0.04
    cx, cy = (width - 1) / 2, (height - 1) / 2
    c = cx * (1 + 2 * room * rng.uniform(-1, 1, count)) - a * cx - b * cy
    f = cy * (1 + 2 * room * rng.uniform(-1, 1, count)) - d * cx - e * cy
    return np.stack([a, b, c, d, e, f, np.zeros(count), np.zeros(count)], axis=1).astype(np.float32)


def color_jitter(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random [count, 3]: added brightness (share of 255), contrast and saturation factors."""
    return np.stack([rng.uniform(-0.1, 0.1, count), rng.uniform(0.8, 1.2, count), rng.uniform(0.8, 1.2, count)], axis=1).astype(np.float32)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class _Steps:
    """The compiled steps of one network; `normalize` is (scale, offset) per channel."""

    def __init__(self, model: Any, normalize: Tuple[Sequence[float], Sequence[float]], rates: Sequence[float], schedule: Schedule) -> None:
        self.tf, _ = tf, _ = import_tensorflow()
        self.model, self.schedule = model, schedule
        self.scale, self.offset = (tf.constant(v, tf.float32) for v in normalize)
        self.variables, self.rates = model.trainable_variables, list(rates)
        self.velocity = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
        self.average = [tf.Variable(v, trainable=False) for v in self.variables]
        self.train = tf.function(self._train, reduce_retracing=True)
        self.logits = tf.function(lambda x: self.model(tf.cast(x, tf.float32) * self.scale + self.offset, training=False), reduce_retracing=True)

    def _augment(self, pixels: Any, transforms: Any, jitter: Any) -> Any:
        tf = self.tf
        x = tf.raw_ops.ImageProjectiveTransformV3(images=tf.cast(pixels, tf.float32), transforms=transforms, output_shape=tf.shape(pixels)[1:3],
                                                  fill_value=0.0, interpolation="BILINEAR", fill_mode="NEAREST")
        brightness, contrast, saturation = (jitter[:, i, None, None, None] for i in range(3))
        mean = tf.reduce_mean(x, axis=[1, 2, 3], keepdims=True)
        grey = tf.reduce_mean(x, axis=3, keepdims=True)
        x = grey + (x - grey) * saturation
        return tf.clip_by_value((x - mean) * contrast + mean + 255.0 * brightness, 0.0, 255.0)

    def _train(self, pixels: Any, targets: Any, weights: Any, transforms: Any, jitter: Any, rate: Any, keep: Any) -> Any:
        tf, smoothing = self.tf, self.schedule.label_smoothing
        x = self._augment(pixels, transforms, jitter) if self.schedule.augment else tf.cast(pixels, tf.float32)
        with tf.GradientTape() as tape:
            logits = self.model(x * self.scale + self.offset, training=False)  # batch norm by its stored statistics (LP-FT, arXiv 2202.10054)
            classes = logits.shape[-1]
            wanted = tf.one_hot(targets, classes) * (1 - smoothing) + smoothing / classes
            loss = tf.reduce_mean(weights * tf.nn.softmax_cross_entropy_with_logits(wanted, logits))
        slopes, _ = tf.clip_by_global_norm(tape.gradient(loss, self.variables), CLIP_NORM)
        for variable, slope, velocity, average, factor in zip(self.variables, slopes, self.velocity, self.average, self.rates):
            velocity.assign(MOMENTUM * velocity + slope)
            variable.assign_sub(rate * factor * (slope + MOMENTUM * velocity))  # Nesterov
            average.assign(keep * average + (1 - keep) * variable)
        return loss

    def state(self) -> Dict[str, Sequence[Any]]:
        """Every variable that the next step depends on."""
        return {"live": self.variables, "velocity": self.velocity, "average": self.average}

    def averaged(self) -> List[np.ndarray]:
        return [a.numpy() for a in self.average]

    def score(self, photos: Photos, weights: Sequence[np.ndarray]) -> Tuple[float, Calibrated]:
        """Accuracy and calibrated loss on photos with other weights in the network; the own ones are put back."""
        own = [v.numpy() for v in self.variables]
        self.assign(weights)
        logits = np.concatenate([self.logits(np.ascontiguousarray(photos.pixels[i:i + 64])).numpy() for i in range(0, len(photos), 64)])
        self.assign(own)
        return float((logits.argmax(axis=1) == photos.targets).mean()), calibrate(logits, photos.targets)

    def assign(self, weights: Sequence[np.ndarray]) -> None:
        for variable, value in zip(self.variables, weights):
            variable.assign(value)


def fine_tune(model: Any, freeze_points: Sequence[str], *, train: Photos, validation: Photos, normalize: Tuple[Sequence[float], Sequence[float]],
              class_weights: np.ndarray, schedule: Schedule, checkpoint: Path, log: Callable[[int, Mapping[str, float]], None]) -> Tuned:
    """Train `model` (float32 [N, H, W, 3] to logits, with its head already fitted) and return the averaged weights of the last
    epoch whose calibrated validation loss is within one standard error of the lowest.

    After every epoch the state goes to `checkpoint`; a run that finds one there goes on after its last epoch and ends with the same
    weights. `log` gets (epoch, figures).

    Raises:
        ModelError: the loss is no longer a number.
    """
    steps = _Steps(model, normalize, learning_rates(model, freeze_points, schedule.layer_decay), schedule)
    per_epoch = -(-len(train) // schedule.batch_size)
    record, best_weights = _restore(steps, checkpoint)
    history, best, resumed = record["history"], record["best"], len(record["history"])
    for epoch in range(len(history), schedule.epochs):
        if best and epoch - best["epoch"] >= schedule.patience:
            break
        started = time.monotonic()
        loss = _epoch(steps, train, class_weights, epoch, per_epoch)
        if not math.isfinite(loss):
            raise ModelError(f"fine-tuning diverged in epoch {epoch + 1}: the loss is {loss}", "lower learning_rate, for example to a third")
        weights = steps.averaged()
        accuracy, calibrated = steps.score(validation, weights)
        history.append({"epoch": epoch + 1, "loss": loss, "validation_loss": calibrated.loss, "validation_accuracy": accuracy,
                        "seconds": round(time.monotonic() - started, 2)})
        log(epoch + 1, history[-1])
        lowest = min(tuple(record["lowest"] or ()) or (calibrated.loss, calibrated.error), (calibrated.loss, calibrated.error))
        if calibrated.loss <= sum(lowest):  # the lowest loss or one that cannot be told from it: later epochs have smaller steps behind them
            best, best_weights = {"accuracy": accuracy, "temperature": calibrated.temperature, "loss": calibrated.loss, "epoch": epoch + 1}, weights
        record = {"history": history, "best": best, "lowest": lowest}
        _save(steps, checkpoint, record, best_weights)
    return Tuned(weights=best_weights, history=history, resumed_from=resumed, **best)


def _epoch(steps: _Steps, train: Photos, class_weights: np.ndarray, epoch: int, per_epoch: int) -> float:
    """One pass in an order and with an augmentation that depend on seed and epoch alone; returns the mean loss."""
    schedule, tf = steps.schedule, steps.tf
    rng = np.random.default_rng([schedule.seed, epoch])
    order, losses = rng.permutation(len(train)), []
    for i in range(per_epoch):
        chosen = np.sort(order[i * schedule.batch_size:(i + 1) * schedule.batch_size])  # sorted: reads the file in order
        targets, step = train.targets[chosen], epoch * per_epoch + i
        rate = learning_rate(step, schedule.epochs * per_epoch, schedule.learning_rate)
        keep = min(schedule.ema, (1 + step) / (10 + step))  # an average over what there is at first
        losses.append(float(steps.train(
            train.pixels[chosen], targets, class_weights[targets], affine(len(chosen), train.pixels.shape[1:3], schedule, rng),
            color_jitter(len(chosen), rng), tf.constant(rate, tf.float32), tf.constant(keep, tf.float32))))
        report_progress("fine-tuning", done=(step + 1) / (schedule.epochs * per_epoch))
    return float(np.mean(losses))


def _save(steps: _Steps, checkpoint: Path, record: Mapping[str, Any], best: Sequence[np.ndarray]) -> None:
    arrays = {f"{name}/{i}": np.asarray(value) for name, values in (*steps.state().items(), ("best", best)) for i, value in enumerate(values)}
    buffer = io.BytesIO()
    np.savez(buffer, record=np.frombuffer(json.dumps(record).encode(), np.uint8), **arrays)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(checkpoint, buffer.getvalue())


def _restore(steps: _Steps, checkpoint: Path) -> Tuple[Dict[str, Any], List[np.ndarray]]:
    """The record and best weights of an interrupted run, its state put into `steps`; an empty record without one."""
    if not checkpoint.is_file():
        return {"history": [], "best": None, "lowest": None}, []
    with np.load(checkpoint, allow_pickle=False) as file:
        for name, variables in steps.state().items():
            for i, variable in enumerate(variables):
                variable.assign(file[f"{name}/{i}"])
        record, best = json.loads(file["record"].tobytes()), [file[f"best/{i}"] for i in range(len(steps.variables))]
    report_progress(f"resuming after epoch {len(record['history'])}")
    return record, best
