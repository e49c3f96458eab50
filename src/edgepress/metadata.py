"""Carry a ModelSpec inside the file it describes.

TFLite: the standard `TFLITE_METADATA` table (metadata_format.py) and, behind the flatbuffer, a zip with `labels.txt` and `model.json`, so
that other tools read labels and normalisation too. ONNX: `metadata_props`, keys `edgepress.model` and `labels`. Reading needs the
standard library alone; files are taken as hostile.
"""
from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Optional, Tuple

from edgepress.errors import ModelError
from edgepress.modelspec import SPEC_FILE, ModelSpec, from_json, read_spec, to_json

LABEL_FILE = "labels.txt"
ONNX_KEY, ONNX_LABELS_KEY = "edgepress.model", "labels"
MAX_SPEC_BYTES = 8 << 20  # 100,000 labels of 80 bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip's own zero: same spec → same bytes
_ONNX_METADATA = 14  # ModelProto.metadata_props
_KNOWN_SUFFIXES = (".tflite", ".onnx")


def embed_spec(file: Path, spec: ModelSpec) -> None:
    """Put `spec` into a .tflite or .onnx file, in place of one that may be there; the file is replaced as a whole. Same spec → same bytes.

    Raises:
        ModelError: neither format, or a damaged file.
    """
    from edgepress.artifact import write_atomic

    write_atomic(file, _embed_onnx(file, spec) if _format(file) == ".onnx" else _embed_tflite(file, spec))


def extract_spec(file: Path) -> Optional[ModelSpec]:
    """The ModelSpec inside a .tflite or .onnx file, or None if it carries none.

    Raises:
        ModelError: neither format, unreadable, or a spec that is damaged or too large.
    """
    try:
        text = _extract_onnx(file) if _format(file) == ".onnx" else _extract_member(file, SPEC_FILE)
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror or error})", "check the path and its permissions") from error
    return None if text is None else from_json(text, source=f"{SPEC_FILE} inside {file}")


def find_spec(file: Path) -> Optional[ModelSpec]:
    """The ModelSpec of a file: the one inside, else `<file>.model.json` or `model.json` beside it; None if there is none.

    Raises:
        ModelError: one of them, or the file, is damaged.
    """
    inside = extract_spec(file) if file.suffix.lower() in _KNOWN_SUFFIXES else None
    if inside is not None:
        return inside
    beside = (file.with_name(f"{file.name}.{SPEC_FILE}"), file.parent / SPEC_FILE)
    found = next((read_spec(path) for path in beside if path.is_file()), None)
    if found is None and file.suffix.lower() == ".tflite":
        from edgepress import flatbuffer

        flatbuffer.load_model_t(file)  # a truncated file has lost its spec: that is what is wrong with it
    return found


def associated_files(file: Path) -> List[str]:
    """Names of the files zipped behind a TFLite flatbuffer; empty for every other file."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()[:100]
    except (zipfile.BadZipFile, OSError, ValueError):
        return []


def _format(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix not in _KNOWN_SUFFIXES:
        raise ModelError(f"{file} cannot carry a ModelSpec; accepted: names that end in {' or '.join(_KNOWN_SUFFIXES)}", f"keep a {SPEC_FILE} beside it")
    return suffix


# ---- TFLite

def _embed_tflite(file: Path, spec: ModelSpec) -> bytes:
    from edgepress import flatbuffer, metadata_format

    model = flatbuffer.load_model_t(file)
    graph = model.subgraphs[0]
    names = [graph.tensors[i].name.decode("utf-8", "replace") for i in (graph.inputs[0], graph.outputs[0])]
    metadata_format.attach(model, metadata_format.build(spec, input_name=names[0], output_name=names[1], label_file=LABEL_FILE))
    return flatbuffer.pack_model(model) + _zip({LABEL_FILE: _label_text(spec), SPEC_FILE: to_json(spec)})


def _label_text(spec: ModelSpec) -> str:
    return "".join(label.replace("\n", " ") + "\n" for label in spec.labels)


def _zip(members: Dict[str, str]) -> bytes:
    """A zip whose bytes depend on the members alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, text in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr, entry.create_system = 0o644 << 16, 3
            archive.writestr(entry, text.encode())
    return buffer.getvalue()


def _extract_member(file: Path, name: str) -> Optional[bytes]:
    """A member of the zip behind a flatbuffer; None where there is no zip or no such member."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, struct.error):  # weights that look like a zip's end are no zip
        return None
    with archive:
        if name not in archive.namelist():
            return None
        entry = archive.getinfo(name)
        _check_size(entry.file_size, file)
        try:
            with archive.open(entry) as member:
                return member.read(MAX_SPEC_BYTES + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error, OSError) as error:
            raise ModelError(f"{name} inside {file} is damaged ({error})", "write it again with `edgepress convert`") from error


def _check_size(size: int, file: Path) -> None:
    if size > MAX_SPEC_BYTES:
        raise ModelError(f"the ModelSpec inside {file} claims {size} bytes; accepted: at most {MAX_SPEC_BYTES}", "do not use this file")


# ---- ONNX: a protobuf is a list of (tag, value); only top-level fields are walked, weights are skipped by seeking

def _embed_onnx(file: Path, spec: ModelSpec) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({error.strerror})", "check the path and its permissions") from error
    kept = [data[start:end] for start, end, number, payload in _fields(io.BytesIO(data), len(data), file)
            if number != _ONNX_METADATA or _entry(data[payload:end], file)[0] not in (ONNX_KEY, ONNX_LABELS_KEY)]
    return b"".join(kept) + _property(ONNX_KEY, to_json(spec)) + _property(ONNX_LABELS_KEY, _label_text(spec))


def _extract_onnx(file: Path) -> Optional[bytes]:
    with open(file, "rb") as stream:
        for _, end, number, payload in _fields(stream, file.stat().st_size, file):
            if number == _ONNX_METADATA:
                _check_size(end - payload, file)
                stream.seek(payload)
                key, value = _entry(stream.read(end - payload), file)
                if key == ONNX_KEY:
                    return value
    return None


def _fields(stream: BinaryIO, size: int, file: Path) -> Iterator[Tuple[int, int, int, int]]:
    """(start, end, field number, start of the payload) of every top-level field; the caller may move the stream."""
    position = 0
    while position < size:
        stream.seek(position)
        head = stream.read(20)
        tag, used = _varint(head, 0, file)
        kind, payload = tag & 7, position + used
        if kind == 0:
            end = position + _varint(head, used, file)[1]
        elif kind in (1, 5):
            end = payload + (8 if kind == 1 else 4)
        elif kind == 2:
            length, used = _varint(head, used, file)
            payload = position + used
            end = payload + length
        else:
            raise _damaged(file, f"wire type {kind}")
        if end > size or tag >> 3 == 0:
            raise _damaged(file, f"a field ends at byte {end} of {size}")
        yield position, end, tag >> 3, payload
        position = end


def _varint(data: bytes, position: int, file: Path) -> Tuple[int, int]:
    """(value, position behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _damaged(file, "a number without an end")


def _entry(data: bytes, file: Path) -> Tuple[str, bytes]:
    """(key, value) of a StringStringEntryProto."""
    found = {number: data[payload:end] for _, end, number, payload in _fields(io.BytesIO(data), len(data), file)}
    return found.get(1, b"").decode("utf-8", "replace"), found.get(2, b"")


def _damaged(file: Path, why: str) -> ModelError:
    return ModelError(f"{file} is not an ONNX file, or is truncated or damaged ({why})", "copy or convert it again")


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes(encoded) + bytes([value])


def _property(key: str, value: str) -> bytes:
    """One metadata_props entry of a ModelProto."""
    parts = b"".join(bytes([number << 3 | 2]) + _encode_varint(len(text.encode())) + text.encode() for number, text in ((1, key), (2, value)))
    return bytes([_ONNX_METADATA << 3 | 2]) + _encode_varint(len(parts)) + parts
