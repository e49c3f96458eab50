"""The ModelSpec of a model file that is the user's own: guessed where its input leaves one reading, or said by its owner."""
from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence, Tuple

from edgepress.artifact import SUFFIXES, model_file, write_atomic
from edgepress.errors import ModelError, RecipeError, nearest
from edgepress.modelspec import NORMALIZATIONS, SPEC_FILE, ModelSpec, to_json

MAX_LABEL_BYTES = 8 << 20


class ImageInput(NamedTuple):
    """How a file takes its picture."""

    height: int
    width: int
    channels: int
    layout: str  # nhwc | nchw


def image_input(shape: Sequence[Any]) -> Optional[ImageInput]:
    """What an input of this shape says about its picture; None where it is no picture of 1 or 3 channels, or its size is open."""
    if len(shape) != 4:
        return None
    planar = shape[1] in (1, 3) and shape[3] not in (1, 3)
    height, width, channels = (shape[2], shape[3], shape[1]) if planar else shape[1:]
    if channels not in (1, 3) or not all(isinstance(side, int) and side > 0 for side in (height, width)):
        return None
    return ImageInput(height, width, channels, "nchw" if planar else "nhwc")


def guess_spec(file: str, *, shape: Sequence[Any], dtype: str, labels: Sequence[str] = (), otherwise: str = "") -> ModelSpec:
    """The spec of a file that carries none, where its input leaves one reading: one picture of bytes.

    Args:
        otherwise: what else the user can do, for the hint.

    Raises:
        ModelError: not a picture, or real numbers, whose scale nothing tells.
    """
    picture = image_input(shape)
    if picture is None:
        raise ModelError(f"{file} has no ModelSpec, and an input of shape {list(shape)} is no picture", otherwise or "only picture classifiers can be given photos")
    if dtype not in ("uint8", "int8"):
        raise ModelError(f"{file} has no ModelSpec and takes {dtype} numbers: nothing says how its pixels are to be normalised",
                         f"say it once: edgepress describe {file} --normalization {'|'.join(NORMALIZATIONS)}" + (f"; or {otherwise}" if otherwise else ""))
    return ModelSpec(labels=tuple(labels), input_height=picture.height, input_width=picture.width, channels=picture.channels, input_type=dtype, layout=picture.layout)


def describe_file(path: Path, *, normalization: str, labels: Optional[Path], resize: str, channel_order: str, logits: bool) -> Tuple[Path, ModelSpec]:
    """Write `<file>.model.json` beside a model file of the user's own; every command reads it from there. The file itself stays as it is.

    Args:
        normalization: a name of `modelspec.NORMALIZATIONS`: what the caller must do to the pixels, or 0..255 where the file does it.
        labels: text file with one label per line, in the order of the outputs.

    Raises:
        ModelError: the file cannot be read, carries a spec already, or takes no picture.
        RecipeError: a normalisation that does not exist.
    """
    from edgepress.metadata import extract_spec

    file = model_file(path, formats=("tflite", "onnx"))
    if extract_spec(file) is not None:
        raise ModelError(f"{file} carries a ModelSpec already: it was made by edgepress", "look at it with `edgepress show`")
    if normalization not in NORMALIZATIONS:
        raise RecipeError(f"normalization {normalization!r} does not exist; {nearest(normalization, NORMALIZATIONS)}")
    inputs, outputs = _ports(file)
    picture = image_input(inputs[0]["shape"]) if len(inputs) == 1 else None
    if picture is None:
        raise ModelError(f"{file} takes {', '.join(str(i['shape']) for i in inputs)}; accepted: one picture of 1 or 3 channels and a fixed size", "other models are calibrated and scored with arrays (.npy, .csv)")
    classes = outputs[0]["shape"][-1] if len(outputs) == 1 else None
    scale, offset = NORMALIZATIONS[normalization]
    spec = ModelSpec(labels=_labels(labels, classes, file), input_height=picture.height, input_width=picture.width, channels=picture.channels, resize=resize, channel_order=channel_order,
                     scale=scale, offset=offset, normalization_inside=normalization == "0..255", input_type=inputs[0]["dtype"], layout=picture.layout,
                     output="logits" if logits else "probabilities", name=file.stem)
    target = file.with_name(f"{file.name}.{SPEC_FILE}")
    write_atomic(target, to_json(spec).encode())
    return target, spec


def read_labels(path: Path) -> Tuple[str, ...]:
    """Labels of a text file, one per line; blank lines at the end do not count.

    Raises:
        ModelError: unreadable, not UTF-8, too large, or empty or double labels.
    """
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise ModelError(f"{path} has more than {MAX_LABEL_BYTES} bytes", "give a text file with one label per line")
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"labels file {path} cannot be read ({getattr(error, 'strerror', None) or error})", "give a UTF-8 text file with one label per line") from error
    labels = tuple(line.strip() for line in lines)
    if not all(labels) or len(set(labels)) != len(labels):
        raise ModelError(f"{path} has an empty line or the same label twice", "one label per line, each once")
    return labels


def _ports(file: Path) -> Tuple[Sequence[Any], Sequence[Any]]:
    if SUFFIXES[file.suffix.lower()] == "tflite":
        from edgepress import flatbuffer

        summary = flatbuffer.summarize(flatbuffer.load_model_t(file))
    else:
        from edgepress import onnx_summary

        summary = onnx_summary.summarize(file)
    return summary["inputs"], summary["outputs"]


def _labels(file: Optional[Path], classes: Any, model: Path) -> Tuple[str, ...]:
    if file is None:
        return ()
    labels = read_labels(file)
    if isinstance(classes, int) and classes > 0 and len(labels) != classes:
        raise ModelError(f"{file} lists {len(labels)} labels, {model} answers {classes} classes", "one label per line, in the order of the outputs")
    return labels
