"""Raw tensor files listed in a CSV of file,classes,label: the official accuracy inputs of MLPerf Tiny (github.com/eembc/energyrunner)."""
from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

import numpy as np

from edgepress.errors import DatasetError
from edgepress.photos import read_rows
from edgepress.preprocess import SUFFIXES, name_of

if TYPE_CHECKING:
    from edgepress.imageset import ImageSet


def is_tensor_csv(path: Path) -> bool:
    """Whether `path` is a CSV of file,classes,label whose files are raw tensors."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    row = read_rows(path)[0]
    return len(row) == 3 and row[1].isdigit() and row[2].isdigit() and Path(row[0]).suffix.lower() not in SUFFIXES


def load_tensors(csv: Path, *, shape: Optional[Tuple[int, ...]] = None, dtype: str = "uint8", labels: Optional[Sequence[str]] = None) -> Tuple[np.ndarray, "ImageSet"]:
    """The tensors of a CSV as one array [N, *shape], and their targets as an ImageSet (`.targets` int64 [N], `.digests`, `.paths`).

    Args:
        shape: of one tensor; default: flat, as long as the first file.
        dtype: how the files' bytes are numbers: uint8 (ic01, vww01), int8 (kws01).
        labels: class names in order; default: "0", "1", … as many as the CSV says.

    Raises:
        DatasetError: a line that is not file,classes,label, a label out of range, or a file that is missing or of another size.
    """
    from edgepress.imageset import ImageSet

    rows = read_rows(csv)
    classes, targets = _classes_and_targets(csv, rows)
    if labels is not None and len(labels) != classes:
        raise DatasetError(f"{name_of(csv)} is about {classes} classes, the model about {len(labels)}", "evaluate a model of this benchmark")
    paths = [csv.parent / row[0] for row in rows]
    blocks = [_read(path) for path in paths]
    count = int(np.prod(shape, dtype=np.int64)) if shape is not None else len(blocks[0]) // np.dtype(dtype).itemsize
    for path, block in zip(paths, blocks):
        if len(block) != count * np.dtype(dtype).itemsize:
            wanted = f"{list(shape)} {dtype}" if shape is not None else f"the {len(blocks[0])} bytes of the first file"
            raise DatasetError(f"{name_of(path)} has {len(block)} bytes; accepted: {wanted}" + (f" = {count * np.dtype(dtype).itemsize} bytes" if shape is not None else ""),
                               "give the inputs of this model's own benchmark")
    array = np.frombuffer(b"".join(blocks), dtype=dtype).reshape((len(rows), *(shape if shape is not None else (count,))))
    names = tuple(labels) if labels is not None else tuple(map(str, range(classes)))
    return array, ImageSet(names, tuple(paths), targets, tuple(sha256(block).hexdigest() for block in blocks))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{name_of(path)} cannot be read ({error.strerror})", "the .bin files lie beside the CSV") from error


def _classes_and_targets(csv: Path, rows: List[List[str]]) -> Tuple[int, np.ndarray]:
    for number, row in enumerate(rows, start=1):
        if len(row) != 3 or not (row[1].isdigit() and row[2].isdigit()) or not int(row[2]) < int(row[1]) or row[1] != rows[0][1]:
            raise DatasetError(f"{name_of(csv)} line {number} is {','.join(row)!r}; accepted: file,classes,label with label below classes and the same classes in all lines")
    return int(rows[0][1]), np.array([int(row[2]) for row in rows], dtype=np.int64)
