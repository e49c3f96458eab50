"""What will be pruned, when and in which pattern: plain data that every pruning method follows."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from edgepress.recipe import PruneConfig

POWER = 3  # cubic growth: Zhu & Gupta 2017, "To prune, or not to prune" (arXiv:1710.01878), and TFMOT's PolynomialDecay
UPDATES = 24  # masks are chosen again about this often while sparsity grows
GROWTH_SHARE = 2 / 3  # of all steps; the rest trains at the final sparsity and recovers accuracy


@dataclass(frozen=True)
class Kernel:
    """One weight tensor to prune. `layer` is the path of the layer: outer/inner for nested models."""

    layer: str
    attribute: str
    kind: str
    shape: Tuple[int, ...]
    zeros_before: float  # share of zeros the kernel already has


@dataclass(frozen=True)
class Skipped:
    """A layer with weights that is not pruned, and why."""

    layer: str
    kind: str
    reason: str


@dataclass(frozen=True)
class PruneSchedule:
    """At which training steps (the first is 1) masks are chosen again, and the sparsity then."""

    final: float
    begin_step: int
    end_step: int
    frequency: int
    gradual: bool

    def is_update(self, step: int) -> bool:
        """Whether masks are chosen again at this step."""
        return self.begin_step <= step <= self.end_step and (step - self.begin_step) % self.frequency == 0

    def sparsity(self, step: int) -> float:
        """Share of zeros wanted at this step, 0–1."""
        if not self.gradual:
            return self.final
        progress = min(1.0, max(0.0, (step - self.begin_step) / (self.end_step - self.begin_step)))
        return self.final * (1.0 - (1.0 - progress) ** POWER)


@dataclass(frozen=True)
class PrunePlan:
    """Everything a pruning method needs besides the model."""

    kernels: Tuple[Kernel, ...]
    skipped: Tuple[Skipped, ...]
    pattern: str
    sparsity: float
    schedule: PruneSchedule


def make_schedule(config: PruneConfig, *, steps: int) -> PruneSchedule:
    """The schedule of `config` over `steps` training steps; the last update happens at exactly the final sparsity.

    2:4 has one level only, so its masks are chosen once, at the first step, as TFMOT does.
    """
    if config.pattern == "2:4":
        return PruneSchedule(config.sparsity, begin_step=1, end_step=1, frequency=1, gradual=False)
    gradual = config.schedule == "polynomial"
    begin = 0 if gradual else 1
    span = max(1 - begin, int(steps * GROWTH_SHARE) - begin)
    frequency = max(1, span // UPDATES)
    return PruneSchedule(config.sparsity, begin_step=begin, end_step=begin + span // frequency * frequency, frequency=frequency, gradual=gradual)
