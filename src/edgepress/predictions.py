"""What a file answered on labelled images, kept on disk so that anything can be recomputed."""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np

from edgepress.artifact import write_json
from edgepress.errors import ArtifactError, UnsupportedError

EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Score:
    """What one file answered on a set of images. `facts` go into evaluation.json; the arrays are None unless status is ok."""

    facts: Dict[str, Any]
    labels: Tuple[str, ...]
    probabilities: Optional[np.ndarray] = None  # float32 [N, C]
    targets: Optional[np.ndarray] = None  # int64 [N]
    digests: Tuple[str, ...] = ()
    paths: Tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """The file and its runtime, for messages."""
        return f"{self.facts['file']} in {self.facts['runtime']['name']}"

    def require(self) -> None:
        """Raise UnsupportedError, with the runtime's reason, where there are no answers."""
        if self.probabilities is None:
            raise UnsupportedError(f"{self.name} has no answers to compare: {self.facts['reason']}", "choose another --runtime or scheme")


def write_score(out: Path, score: Score, facts: Dict[str, Any]) -> None:
    """Write evaluation.json, and predictions.npz where there are answers."""
    if score.probabilities is not None:
        np.savez_compressed(out / PREDICTIONS, probabilities=score.probabilities, targets=score.targets,
                            digests=np.array(score.digests), paths=np.array(score.paths))
    write_json(out / EVALUATION, facts)


def read_score(folder: Path) -> Score:
    """The answers that an `evaluate` stage kept.

    Raises:
        ArtifactError: the folder is damaged or not of this schema.
    """
    try:
        facts = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
        if facts["status"] != "ok":
            return Score(facts, tuple(facts["labels"]))
        with np.load(folder / PREDICTIONS, allow_pickle=False) as kept:
            return Score(facts, tuple(facts["labels"]), kept["probabilities"], kept["targets"], tuple(kept["digests"].tolist()), tuple(kept["paths"].tolist()))
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder} is not the result of an evaluate stage ({error})", "evaluate the file again") from error
