"""The standard TFLite `ModelMetadata` table (metadata_schema.fbs 1.1.0), written by hand: tflite-support, its own writer, needs old NumPy."""
from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence, Tuple

from edgepress.modelspec import ModelSpec

FIELD_NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"  # nothing newer than the first version is used
RGB, AXIS_LABELS = 1, 2  # ColorSpaceType, AssociatedFileType
IMAGE_PROPERTIES, NORMALIZATION_OPTIONS = 2, 1  # members of their unions
_INT8, _UINT32, _TABLE = "Int8", "Uint32", "UOffsetTRelative"
Slot = Tuple[int, str, Any]  # field number in the schema, kind, value


def attach(model: Any, metadata: bytes) -> None:
    """Make `metadata` the TFLITE_METADATA of a `ModelT`, in the buffer of one that is there."""
    import numpy as np
    from edgepress import flatbuffer

    schema = flatbuffer.import_schema()
    entries = [entry for entry in model.metadata or [] if entry.name == FIELD_NAME.encode()]
    if entries:
        buffer = model.buffers[entries[0].buffer]
    else:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        model.buffers.append(buffer)
        entry.name, entry.buffer = FIELD_NAME.encode(), len(model.buffers) - 1
        model.metadata = [*(model.metadata or []), entry]
    buffer.data = np.frombuffer(metadata, np.uint8)


def build(spec: ModelSpec, *, input_name: str, output_name: str, label_file: str) -> bytes:
    """The bytes of a `ModelMetadata` for an image classifier: input picture and its normalisation, output scores and their label file."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    tensors = _input_tensor(builder, spec, input_name), _output_tensor(builder, spec, output_name, label_file)
    graph = _table(builder, [(0, _TABLE, builder.CreateString("main")), (2, _TABLE, _offsets(builder, tensors[:1])), (3, _TABLE, _offsets(builder, tensors[1:]))])
    slots = [(0, builder.CreateString(spec.name)), (1, builder.CreateString(_description(spec))), (3, _offsets(builder, [graph]))]
    if spec.weights_license:
        slots.append((5, builder.CreateString(spec.weights_license)))
    slots.append((7, builder.CreateString(MIN_PARSER_VERSION)))
    builder.Finish(_table(builder, [(field, _TABLE, value) for field, value in slots]), IDENTIFIER)
    return bytes(builder.Output())


def _description(spec: ModelSpec) -> str:
    trained = f"Backbone {spec.backbone}. " if spec.backbone else ""
    return f"{trained}Image classification, {len(spec.labels)} classes, photos resized by {spec.resize!r}; full description in model.json behind this file."


def _input_tensor(builder: Any, spec: ModelSpec, name: str) -> int:
    mean, std = normalization(spec)
    size = _table(builder, [(0, _UINT32, spec.input_width), (1, _UINT32, spec.input_height)])
    image = _table(builder, [(0, _INT8, RGB), (1, _TABLE, size)])
    content = _table(builder, [(0, _INT8, IMAGE_PROPERTIES), (1, _TABLE, image)])
    options = _table(builder, [(0, _TABLE, _floats(builder, mean)), (1, _TABLE, _floats(builder, std))])
    unit = _table(builder, [(0, _INT8, NORMALIZATION_OPTIONS), (1, _TABLE, options)])
    low, high = ([(pixel - m) / s for m, s in zip(mean, std)] for pixel in (0.0, 255.0))
    stats = _table(builder, [(0, _TABLE, _floats(builder, high)), (1, _TABLE, _floats(builder, low))])
    strings = builder.CreateString(name), builder.CreateString("RGB picture" + (", bytes 0 to 255" if spec.normalization_inside else ", normalised as said here"))
    return _table(builder, [(0, _TABLE, strings[0]), (1, _TABLE, strings[1]), (3, _TABLE, content), (4, _TABLE, _offsets(builder, [unit])), (5, _TABLE, stats)])


def normalization(spec: ModelSpec) -> Tuple[List[float], List[float]]:
    """(mean, std) such that (x − mean) / std is what the file wants: 0 and 1 where the file takes raw bytes."""
    if spec.normalization_inside:
        return [0.0], [1.0]
    return [-offset / scale for scale, offset in zip(spec.scale, spec.offset)], [1 / scale for scale in spec.scale]


def _output_tensor(builder: Any, spec: ModelSpec, name: str, label_file: str) -> int:
    labels = _table(builder, [(0, _TABLE, builder.CreateString(label_file)), (1, _TABLE, builder.CreateString("one class per line")), (2, _INT8, AXIS_LABELS)])
    feature = _table(builder, [])
    content = _table(builder, [(0, _INT8, 1), (1, _TABLE, feature)])
    stats = None
    if spec.output == "probabilities":
        stats = _table(builder, [(0, _TABLE, _floats(builder, [1.0])), (1, _TABLE, _floats(builder, [0.0]))])
    strings = builder.CreateString(name), builder.CreateString(f"{spec.output} of the classes")
    slots: List[Slot] = [(0, _TABLE, strings[0]), (1, _TABLE, strings[1]), (3, _TABLE, content), (6, _TABLE, _offsets(builder, [labels]))]
    return _table(builder, slots + ([(5, _TABLE, stats)] if stats is not None else []))


def _table(builder: Any, slots: Sequence[Slot]) -> int:
    builder.StartObject(1 + max((field for field, _, _ in slots), default=-1))
    for field, kind, value in slots:
        write: Callable[[int, Any, Optional[int]], None] = getattr(builder, f"Prepend{kind}Slot")
        write(field, value, 0)
    return builder.EndObject()


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()


def _offsets(builder: Any, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()
