"""The convex head: multinomial logistic regression on cached features, its regularization chosen on validation data."""
from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Dict, Iterator, List, Tuple

import numpy as np

# Strength of the L2 penalty on standardized features, strong to weak: each fit starts from the one before (Kornblith et al., arXiv 1805.08974).
STRENGTHS: Tuple[float, ...] = tuple(10.0 ** np.arange(1.0, -3.6, -0.5))
PRIOR_DEVIATION = 0.35  # of log temperature
WORSE_IN_A_ROW = 2  # the path ends after this many strengths with a worse validation loss
_PATH_ITERATIONS, _ITERATIONS = 60, 200  # on the way, where the next fit goes on from here; and for a head that is kept
_TINY = 1e-3  # added to the deviation of a feature, so that dead ones stay at zero


@dataclass(frozen=True)
class Head:
    """logits = features @ kernel + bias, on raw features; kernel float32 [D, C], bias float32 [C]."""

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float32 [N, C] of features [N, D]."""
        return features.astype(np.float32) @ self.kernel + self.bias

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float32 [N, C] of features [N, D]."""
        return softmax(self.logits(features))

    def cooled(self, temperature: float) -> "Head":
        """The head whose logits are divided by `temperature`."""
        return Head(self.kernel / np.float32(temperature), self.bias / np.float32(temperature))


@dataclass(frozen=True)
class Calibrated:
    """The temperature that makes probabilities softmax(logits / temperature) honest on validation, the loss it leaves and its standard error."""

    temperature: float
    loss: float
    error: float = 0.0


@dataclass(frozen=True)
class Probe:
    """A head with how it was found. `path` has one record per strength tried."""

    head: Head
    strength: float
    accuracy: float  # on validation
    loss: float  # mean negative log-likelihood on validation
    calibrated: "Calibrated"
    path: List[Dict[str, float]] = field(default_factory=list)


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Fits run side by side with one BLAS thread each: two threads on matrices this narrow wait for each other (20 times slower on a busy machine)."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of logits [N, C] as probabilities."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def photo_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood [N] of each photo's true class."""
    return -np.log(np.clip(softmax(logits)[np.arange(len(targets)), targets], 1e-7, 1.0))


def calibrate(logits: np.ndarray, targets: np.ndarray) -> Calibrated:
    """Temperature scaling (Guo et al., arXiv 1706.04599) of logits [N, C] on validation targets [N], drawn towards 1.

    Losses of networks trained with and without label smoothing can be compared only after it. Without the prior on log T, a few
    photos that are all right would ask for certainty.
    """
    from scipy.optimize import minimize_scalar

    def cost(log_temperature: float) -> float:
        return float(photo_losses(logits / np.exp(log_temperature), targets).mean()) + 0.5 * (log_temperature / PRIOR_DEVIATION) ** 2 / len(targets)

    temperature = float(np.exp(minimize_scalar(cost, bounds=(np.log(0.2), np.log(5.0)), method="bounded").x))
    losses = photo_losses(logits / temperature, targets)
    return Calibrated(temperature, float(losses.mean()), float(losses.std() / np.sqrt(len(targets))))


def class_weights(targets: np.ndarray, classes: int, *, balanced: bool) -> np.ndarray:
    """float32 [C]: N / (C · images of the class) where balanced, else ones; a class without images weighs nothing."""
    counts = np.bincount(targets, minlength=classes)
    if not balanced:
        return np.ones(classes, np.float32)
    return np.where(counts > 0, len(targets) / (classes * np.maximum(counts, 1)), 0.0).astype(np.float32)


class Solver:
    """L-BFGS on one set of features [N, D]; keeps the last solution to start the next from."""

    def __init__(self, features: np.ndarray, targets: np.ndarray, classes: int, weights: np.ndarray) -> None:
        x = features.astype(np.float32)
        self._mean, self._deviation = x.mean(axis=0), x.std(axis=0) + _TINY
        self._x, self._y = (x - self._mean) / self._deviation, targets
        self._onehot = np.eye(classes, dtype=np.float32)[targets]
        self._row_weights = (weights[targets] / max(float(weights[targets].sum()), 1e-12)).astype(np.float32)[:, None]
        self._solution = np.zeros((x.shape[1] + 1) * classes)
        self._classes = classes

    def fit(self, strength: float, *, iterations: int = _ITERATIONS) -> Head:
        """The head that minimizes the weighted mean loss + strength / 2 · ‖kernel‖² (on standardized features)."""
        from scipy.optimize import minimize

        result = minimize(self._loss, self._solution, args=(strength,), jac=True, method="L-BFGS-B",
                          options={"maxiter": iterations, "maxcor": 10, "ftol": 1e-7, "gtol": 1e-5})
        self._solution = result.x
        kernel, bias = self._split(result.x)
        kernel = kernel / self._deviation[:, None]  # folded, so the network needs no extra operation
        return Head(kernel.astype(np.float32), (bias - self._mean @ kernel).astype(np.float32))

    def _split(self, flat: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        both = flat.reshape(-1, self._classes)
        return both[:-1], both[-1]

    def _loss(self, flat: np.ndarray, strength: float) -> Tuple[float, np.ndarray]:
        kernel, bias = self._split(flat)
        p = softmax(self._x @ kernel.astype(np.float32) + bias.astype(np.float32))
        own = np.clip(p[np.arange(len(self._y)), self._y], 1e-30, None)
        value = -float((np.log(own) * self._row_weights[:, 0]).sum(dtype=np.float64)) + 0.5 * strength * float((kernel ** 2).sum())
        slope = (p - self._onehot) * self._row_weights
        return value, np.concatenate([(self._x.T @ slope + strength * kernel).ravel(), slope.sum(axis=0)]).astype(np.float64)


def choose_head(features: np.ndarray, targets: np.ndarray, validation: np.ndarray, validation_targets: np.ndarray, *,
                classes: int, weights: np.ndarray) -> Probe:
    """Fit along the path of strengths and keep the best on validation by loss, which moves with less noise than accuracy.

    Of strengths whose loss differs by less than 1 / photos (one photo a little surer) the strongest is kept: where every validation
    photo is right the loss falls for ever, and the head would grow without reason.

    Args:
        features: [N, D], the views of all photos one after the other.
        targets: int [N].
        weights: float [C], see `class_weights`.
    """
    solver, tried, worse = Solver(features, targets, classes, weights), [], 0
    for strength in STRENGTHS:
        tried.append(_score(solver.fit(strength, iterations=_PATH_ITERATIONS), strength, validation, validation_targets))
        worse = 0 if tried[-1].loss <= min(p.loss for p in tried) else worse + 1
        if worse == WORSE_IN_A_ROW:
            break
    near = min(p.loss for p in tried) + 1 / len(validation_targets)
    return replace(next(p for p in tried if p.loss <= near), path=[{"strength": p.strength, "loss": p.loss, "accuracy": p.accuracy} for p in tried])


def _score(head: Head, strength: float, validation: np.ndarray, targets: np.ndarray) -> Probe:
    logits = head.logits(validation)
    return Probe(head, strength, float((logits.argmax(axis=1) == targets).mean()), float(photo_losses(logits, targets).mean()), calibrate(logits, targets))


def refit_head(features: np.ndarray, targets: np.ndarray, *, strength: float, classes: int, weights: np.ndarray) -> Head:
    """The head at a strength chosen before."""
    solver = Solver(features, targets, classes, weights)
    solver.fit(10 * strength, iterations=_PATH_ITERATIONS)
    return solver.fit(strength)
