"""Golden photos of a bundle: which test photos they are, their lossless small copies, and copies that decoders get wrong."""
from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
from PIL import Image

from edgepress.errors import ArtifactError
from edgepress.modelspec import ModelSpec
from edgepress.parity_photos import KINDS as HARD
from edgepress.preprocess import decode

MARGIN = 0.2  # between the two largest probabilities: smaller ones may swap on another processor without anything being wrong
OVERSIZE = 1.25  # short side of a copy against the input's long side: the resize is still part of the test
KINDS = {"exif": "exif_rotated.jpg", "grey": "grey.png", "alpha": "alpha.png"}  # photos that devices get wrong → how parity_photos calls them
TOLERANCES = {"float32": 0.005, "float16": 0.02}
TOLERANCE = 0.05  # quantized: one step of an 8-bit answer is 0.004, kernels of other processors round differently in every layer


def choose_photos(probabilities: np.ndarray, targets: np.ndarray, paths: Sequence[str], digests: Sequence[str], *, count: int) -> List[int]:
    """Indices of test photos to ship, in a fixed order: classes take turns, clear and right answers first, then by content hash.

    Args:
        probabilities: float32 [N, C] of the file that ships.
        targets: int64 [N].

    Raises:
        ArtifactError: none of the photos is there any more.
    """
    ranked = np.sort(probabilities, axis=1)
    clear = (ranked[:, -1] - ranked[:, -2] >= MARGIN) & (probabilities.argmax(axis=1) == targets)
    order = sorted(range(len(paths)), key=lambda i: (not clear[i], digests[i]))
    seen: Dict[int, int] = {}
    turns = {}
    for index in order:
        turns[index] = seen[int(targets[index])] = seen.get(int(targets[index]), 0) + 1
    there = [i for i in sorted(order, key=lambda i: (turns[i], targets[i])) if Path(paths[i]).is_file()]
    if not there:
        raise ArtifactError(f"none of the {len(paths)} test photos is there any more (first: {paths[0] if paths else 'none'})",
                            "put the photos back where they were, or run the whole recipe again")
    return there[:count]


def write_copy(source: Path, target: Path, spec: ModelSpec) -> None:
    """Write a photo as PNG, upright, and no larger than the self-test needs."""
    image = decode(source)
    short = round(OVERSIZE * max(spec.size))
    if min(image.size) > short:
        scale = short / min(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample=Image.Resampling.LANCZOS)
    image.save(target, format="PNG", compress_level=9)


def write_hard_copies(folder: Path, names: Sequence[str]) -> List[Tuple[str, str, int]]:
    """Write one copy of each of `KINDS` beside golden photos: (file name, kind, index of the photo it was made from). Their answers prove the device's decoder too."""
    made = []
    for number, (kind, writer) in enumerate(KINDS.items()):
        source = number % len(names)
        name = f"{kind}{Path(writer).suffix}"
        HARD[writer](decode(folder / names[source]), folder / name)
        made.append((name, kind, source))
    return made


def tolerance(variant: str) -> float:
    """Largest accepted difference of a probability, by the scheme of a variant such as static_wi8_ai8.tflite."""
    return TOLERANCES.get(variant.rpartition(".")[0], TOLERANCE)

