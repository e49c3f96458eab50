"""ModelSpec: what a caller must know to feed a model and to read its answer; it travels with the file and inside it."""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Tuple, Union

from edgepress.errors import ModelError, nearest

SCHEMA = 1
SPEC_FILE = "model.json"

# y = x * scale + offset on RGB values 0…255, per channel: the names users know them by.
NORMALIZATIONS: Mapping[str, Tuple[Tuple[float, ...], Tuple[float, ...]]] = {
    "0..255": ((1.0,) * 3, (0.0,) * 3),
    "0..1": ((1 / 255.0,) * 3, (0.0,) * 3),
    "-1..1": ((1 / 127.5,) * 3, (-1.0,) * 3),
    "imagenet": ((1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)),
    "caffe": ((1.0,) * 3, (-123.68, -116.779, -103.939)),  # RGB order; models trained on BGR say so in channel_order
}


@dataclass(frozen=True)
class ModelSpec:
    """What a caller must know to feed a model and to read its answer.

    A contract file (`normalization_inside=True`) takes uint8 RGB 0…255 at `input_height` × `input_width`. For other files
    `scale` and `offset` (per RGB channel, y = x·scale + offset) say what the caller must do to the pixels first.
    """

    labels: Tuple[str, ...]
    input_height: int
    input_width: int
    channels: int = 3
    resize: str = "stretch"  # stretch | crop | pad; see preprocess.py
    channel_order: str = "rgb"  # what the *network* expects after normalisation; callers always send RGB to a contract file
    scale: Tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: Tuple[float, ...] = (0.0, 0.0, 0.0)
    normalization_inside: bool = True
    input_type: str = "uint8"  # uint8 | int8 | float32
    layout: str = "nhwc"  # nhwc | nchw
    output: str = "probabilities"  # probabilities | logits
    reject_threshold: Optional[float] = None
    backbone: Optional[str] = None
    weights: Optional[str] = None
    weights_license: Optional[str] = None
    name: str = "model"

    def __post_init__(self) -> None:
        for key, accepted in (("resize", ("stretch", "crop", "pad")), ("channel_order", ("rgb", "bgr")),
                              ("input_type", ("uint8", "int8", "float32")), ("layout", ("nhwc", "nchw")),
                              ("output", ("probabilities", "logits"))):
            if getattr(self, key) not in accepted:
                raise ModelError(f"ModelSpec.{key} is {getattr(self, key)!r}; {nearest(str(getattr(self, key)), accepted)}")
        if min(self.input_height, self.input_width) < 1:
            raise ModelError(f"ModelSpec input size {self.input_height}x{self.input_width} is not positive")

    @property
    def size(self) -> Tuple[int, int]:
        """(height, width) in pixels."""
        return self.input_height, self.input_width


def to_json(spec: ModelSpec) -> str:
    """The spec as one JSON document with sorted keys (same spec → same bytes)."""
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(spec)}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def from_json(text: Union[str, bytes], *, source: str = SPEC_FILE) -> ModelSpec:
    """Read a spec; `source` names it in errors.

    Raises:
        ModelError: not JSON, an unknown schema, or missing or unknown keys.
    """
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{source} is not valid JSON ({error})", "write it again with `edgepress convert`") from error
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise ModelError(f"{source} is not a ModelSpec of schema {SCHEMA}", "write it again with this version of edgepress")
    known = {f.name for f in dataclasses.fields(ModelSpec)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ModelError(f"{source} has the unknown key {unknown[0]!r}; {nearest(unknown[0], known)}")
    for key in ("labels", "scale", "offset"):
        if key in data:
            data[key] = tuple(data[key])
    try:
        return ModelSpec(**data)
    except TypeError as error:
        raise ModelError(f"{source} is not a complete ModelSpec ({error})") from error


def read_spec(path: Path) -> ModelSpec:
    """Read `model.json` (or the one in the folder `path`)."""
    file = path / SPEC_FILE if path.is_dir() else path
    try:
        return from_json(file.read_text(encoding="utf-8"), source=str(file))
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror})") from error
