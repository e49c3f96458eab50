"""Fine-tune a Keras model while a pruning method makes it sparse."""
from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from edgepress.errors import ModelError
from edgepress.modelspec import ModelSpec
from edgepress.progress import report_progress
from edgepress.pruning.kernels import copy_weights, walk_layers
from edgepress.pruning.plan import PrunePlan
from edgepress.recipe import PruneConfig
from edgepress.tf import import_tensorflow, set_deterministic

TEACHER_SHARE = 0.5  # of the target; the unpruned model's own answers keep the pruned one near it on few images
WARMUP_SHARE = 0.1  # of all steps
STATISTICS_IMAGES = (64, 1000)  # fewest that say what a channel's mean and variance are, and as many as are enough
STATISTICS_BATCH = 64
PROGRESS = "fine-tuning while pruning"


@dataclass(frozen=True)
class Images:
    """Pixels uint8 [N, H, W, 3] (a memory-mapped file is read batch by batch) and targets int64 [N]."""

    pixels: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Result:
    """The pruned model, one record per epoch, and the epoch (from 1) whose weights were kept."""

    model: Any
    epochs: Tuple[Dict[str, Any], ...]
    kept_epoch: int


def count_steps(images: int, config: PruneConfig) -> int:
    """Training steps of all epochs."""
    return config.epochs * -(-images // config.batch_size)


def normalize(pixels: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """uint8 RGB pixels [N, H, W, 3] as the network's float32 input."""
    values = pixels.astype(np.float32) * np.float32(spec.scale) + np.float32(spec.offset)
    return values[..., ::-1] if spec.channel_order == "bgr" else values


def predict(model: Any, pixels: np.ndarray, spec: ModelSpec, *, batch_size: int) -> np.ndarray:
    """float32 [N, classes]."""
    parts = [model.predict_on_batch(normalize(pixels[i:i + batch_size], spec)) for i in range(0, len(pixels), batch_size)]
    return np.concatenate(parts).astype(np.float32)


def accuracy(probabilities: np.ndarray, targets: np.ndarray) -> Optional[float]:
    """Share of images whose largest output is the target; None without images."""
    return float(np.mean(probabilities.argmax(axis=1) == targets)) if len(targets) else None


def fine_tune(source: Any, plan: PrunePlan, *, method: ModuleType, train: Images, validation: Images, spec: ModelSpec, config: PruneConfig) -> Result:
    """A new model with the architecture of `source`, fine-tuned on `train` while `method` prunes it. `source` is not touched.

    Batch normalisation stays in inference mode while training steps are taken: batches of few images would spoil its statistics. After each
    epoch they are estimated anew over many (BN re-estimation), and kept where validation images are none the worse: zeros shift what every later
    layer sees, and with the old ones training at high sparsity collapses. Of the epochs that ended at the final sparsity the best on validation
    images is kept; the earlier ones, with fewer zeros, are never chosen.

    Raises:
        ModelError: the loss is not finite any more.
    """
    _, keras = import_tensorflow()
    set_deterministic(config.seed)
    clone = keras.models.clone_model(source)
    copy_weights(source, clone)
    for _, layer in walk_layers(clone):
        layer.trainable = type(layer).__name__ != "BatchNormalization"
    model = method.wrap(clone, plan)
    model.compile(optimizer=keras.optimizers.Adam(_learning_rate(keras, config, count_steps(len(train), config))), loss="categorical_crossentropy")
    teacher = predict(source, train.pixels, spec, batch_size=config.batch_size)
    batches = _batches(keras, train, teacher, spec=spec, config=config)
    chosen = np.random.default_rng(config.seed).permutation(len(train))[:STATISTICS_IMAGES[1]]
    watch = _Watch(model, plan, validation, spec=spec, config=config, steps=count_steps(len(train), config),
                   estimate=lambda: estimate_statistics(clone, train.pixels, chosen, spec))
    model.fit(batches, epochs=config.epochs, shuffle=False, verbose=0, workers=1,
              callbacks=[*method.callbacks(model, plan), keras.callbacks.TerminateOnNaN(), *watch.callbacks(keras)])
    result = keras.models.clone_model(source)
    copy_weights(method.strip(watch.finish()), result)
    return Result(result, tuple(watch.epochs), watch.kept_epoch)


def _learning_rate(keras: Any, config: PruneConfig, steps: int) -> Any:
    """Linear warm-up, then a cosine down to zero."""
    warmup = max(1, round(steps * WARMUP_SHARE))
    return keras.optimizers.schedules.CosineDecay(0.0, decay_steps=max(1, steps - warmup), warmup_target=config.learning_rate, warmup_steps=warmup)


def _batches(keras: Any, images: Images, teacher: np.ndarray, *, spec: ModelSpec, config: PruneConfig) -> Any:
    """A Keras sequence of (input, soft targets) in an order that only the seed and the epoch decide."""
    soft = (1 - TEACHER_SHARE) * np.eye(teacher.shape[1], dtype=np.float32)[images.targets] + TEACHER_SHARE * teacher
    generator = np.random.default_rng(config.seed)

    class Batches(keras.utils.Sequence):
        def __init__(self) -> None:
            self.order = generator.permutation(len(images))

        def __len__(self) -> int:
            return -(-len(images) // config.batch_size)

        def __getitem__(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
            chosen = np.sort(self.order[index * config.batch_size:(index + 1) * config.batch_size])
            return normalize(images.pixels[chosen], spec), soft[chosen]

        def on_epoch_end(self) -> None:
            self.order = generator.permutation(len(images))

    return Batches()


def estimate_statistics(model: Any, pixels: np.ndarray, chosen: np.ndarray, spec: ModelSpec) -> None:
    """Set the moving mean and variance of every batch normalisation to the average over batches of the chosen images.

    Nothing where they are fewer than STATISTICS_IMAGES. Source: AIMET, bn_reestimation.
    """
    layers = [layer for _, layer in walk_layers(model)]
    norms = [layer for layer in layers if type(layer).__name__ == "BatchNormalization"]
    batches = len(chosen) // STATISTICS_BATCH  # whole ones: a small one would count as much as the others
    if not norms or len(chosen) < STATISTICS_IMAGES[0]:
        return
    drops = [layer for layer in layers if hasattr(layer, "rate")]
    momenta, rates = [layer.momentum for layer in norms], [layer.rate for layer in drops]
    for layer in drops:
        layer.rate = 0.0
    for layer in norms:
        layer.trainable = True  # else it ignores training=True
    for batch in range(batches):
        for layer in norms:
            layer.momentum = batch / (batch + 1)  # of all batches, the mean
        rows = np.sort(chosen[batch * STATISTICS_BATCH:(batch + 1) * STATISTICS_BATCH])
        model(normalize(pixels[rows], spec), training=True)
    for layer, momentum in zip(norms, momenta):
        layer.momentum, layer.trainable = momentum, False
    for layer, rate in zip(drops, rates):
        layer.rate = rate


class _Watch:
    """Follows training: progress, accuracy after each epoch (with the batch statistics of before or those of `estimate`), and the best weights at the final sparsity."""

    def __init__(self, model: Any, plan: PrunePlan, validation: Images, *, spec: ModelSpec, config: PruneConfig, steps: int, estimate: Callable[[], None]) -> None:
        self.estimate = estimate
        self.model, self.plan, self.validation, self.spec, self.config, self.steps = model, plan, validation, spec, config, steps
        self.epochs: List[Dict[str, Any]] = []
        self.kept_epoch, self._best, self._weights = 0, (-1.0, 0.0), None

    def callbacks(self, keras: Any) -> List[Any]:
        """They must come after the method's own: those apply the masks."""
        return [keras.callbacks.LambdaCallback(on_train_batch_end=self._after_step, on_epoch_end=self._after_epoch)]

    def _step(self) -> int:
        return int(self.model.optimizer.iterations.numpy())

    def _after_step(self, batch: int, logs: Any = None) -> None:
        report_progress(PROGRESS, done=self._step() / self.steps)

    def _after_epoch(self, epoch: int, logs: Any = None) -> None:
        loss = float((logs or {}).get("loss", np.nan))
        if not np.isfinite(loss):
            return
        weights, (reached, score) = self.model.get_weights(), self._judge()
        self.estimate()
        again, fresh = self._judge()
        if fresh >= score:
            reached, score = again, fresh
        else:
            self.model.set_weights(weights)
        final = self._step() >= self.plan.schedule.end_step
        self.epochs.append({"epoch": epoch + 1, "loss": loss, "validation_accuracy": reached, "at_final_sparsity": final})
        if final and score >= self._best:
            self.kept_epoch, self._best, self._weights = epoch + 1, score, self.model.get_weights()

    def _judge(self) -> Tuple[Optional[float], Tuple[float, float]]:
        """Accuracy on validation images, and the score that epochs are chosen by."""
        probabilities = predict(self.model, self.validation.pixels, self.spec, batch_size=self.config.batch_size) if len(self.validation) else np.empty((0, 1), np.float32)
        return accuracy(probabilities, self.validation.targets), _score(probabilities, self.validation.targets)

    def finish(self) -> Any:
        """The model with the weights that are kept."""
        if self._weights is None:
            raise ModelError(f"training diverged after {len(self.epochs)} epochs: the loss is not a finite number", "use a smaller --learning-rate")
        self.model.set_weights(self._weights)
        return self.model


def _score(probabilities: np.ndarray, targets: np.ndarray) -> Tuple[float, float]:
    """(accuracy, mean log-likelihood): larger is better; the same for every epoch without images, so that the last is kept."""
    if not len(targets):
        return 0.0, 0.0
    likelihoods = np.maximum(probabilities[np.arange(len(targets)), targets], 1e-7)
    return accuracy(probabilities, targets) or 0.0, float(np.log(likelihoods).mean())
