"""Count the work in a model file: multiply-accumulates, parameters, activations and bytes, operator by operator. Nothing is run.

Conventions: one multiply-accumulate is one MAC, whatever its type; only convolutions and matrix products have any. `biases` counts one addition for each channel of a bias or batch
normalization: the published MobileNet tables are MACs plus biases, once per channel (d-li14/mobilenetv2.pytorch: 300.79 million at 224 pixels is 300,774,272 + 18,056).
`activations` are the output values of convolutions and matrix products (as fvcore and timm count them). One photo: open batch dimensions are 1.
"""
from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from edgepress.artifact import SUFFIXES
from edgepress.errors import ModelError

GROUPS = ("convolution", "depthwise", "dense", "elementwise", "conversion", "movement")  # in the order of tables; conversion: between float and integer
HEAVY = ("convolution", "depthwise", "dense")
_COUNTERS = {"tflite": "edgepress.counters_tflite", "onnx": "edgepress.counters_onnx", "keras": "edgepress.counters_keras"}


@dataclass(frozen=True)
class Op:
    """One operator of a file. Bytes are those its tensors take where they lie: inputs, outputs, constants."""

    name: str
    kind: str  # as the format calls it
    group: str
    dtype: str  # what it computes in: float32 | float16 | int8 | int16
    macs: int = 0
    biases: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    activations: int = 0
    shape: Tuple[int, ...] = ()  # (rows, columns, depth) of the matrix product that a heavy operator is

    @property
    def bytes(self) -> int:
        """All that has to be read or written."""
        return self.weight_bytes + self.input_bytes + self.output_bytes


@dataclass(frozen=True)
class Counts:
    """A file's work."""

    file: str
    format: str
    ops: Tuple[Op, ...]
    parameters: int  # values of the weights: what the file stores
    trainable: int  # without moving means and variances, as PyTorch counts
    weight_bytes: int
    unknown: Tuple[str, ...] = ()  # operators whose shapes the file does not tell

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one photo."""
        return sum(op.macs for op in self.ops)

    @property
    def biases(self) -> int:
        """Additions of biases, one a channel."""
        return sum(op.biases for op in self.ops)

    @property
    def activations(self) -> int:
        """Output values of convolutions and matrix products."""
        return sum(op.activations for op in self.ops if op.group in HEAVY)

    @property
    def dtype(self) -> str:
        """The type that most of the work is done in."""
        work: Dict[str, int] = {}
        for op in self.ops:
            work[op.dtype] = work.get(op.dtype, 0) + op.macs
        return max(work, key=lambda kind: work[kind]) if work else "float32"

    def by_group(self) -> Dict[str, List[Op]]:
        """The operators of each group that occurs."""
        return {group: found for group in GROUPS for found in [[op for op in self.ops if op.group == group]] if found}

    def summary(self) -> Dict[str, Any]:
        """Plain values for JSON and tables."""
        return {"macs": self.macs, "biases": self.biases, "macs_and_biases": self.macs + self.biases, "parameters": self.parameters, "trainable": self.trainable,
                "activations": self.activations, "weight_bytes": self.weight_bytes, "dtype": self.dtype, "unknown": list(self.unknown),
                "groups": {group: {"ops": len(ops), "macs": sum(op.macs for op in ops), "bytes": sum(op.bytes for op in ops)} for group, ops in self.by_group().items()}}


def count_file(path: Path) -> Counts:
    """The work in a .tflite, .onnx, .keras or .h5 file.

    Raises:
        ModelError: no such file, or damaged.
        MissingDependencyError: the library that reads the format is not installed.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None or not path.is_file():
        raise ModelError(f"{path} {'is no model file' if path.is_file() else 'does not exist'}; accepted: {', '.join(SUFFIXES)}", "give a model file")
    return importlib.import_module(_COUNTERS[kind]).count(path)


def product(sizes: Iterable[int]) -> int:
    """Product of sizes; open ones (-1, 0) count as 1."""
    result = 1
    for size in sizes:
        result *= max(int(size), 1)
    return result


def heavy(group: str, *, outputs: Sequence[int], kernel: int, depth: int) -> Dict[str, Any]:
    """MACs, activations and the matrix shape of a convolution or product.

    Args:
        outputs: the output's shape, channels last.
        kernel: values of the kernel that one output value takes (height × width × input channels of its group).
        depth: the same for the shape of the matrix product.
    """
    values = product(outputs)
    columns = max(int(outputs[-1]), 1) if outputs else 1
    return {"group": group, "macs": values * kernel, "activations": values, "shape": (values // columns, columns, depth)}


def to_json(counts: Counts) -> Dict[str, Any]:
    """All of it as plain values."""
    return {"file": counts.file, "format": counts.format, **counts.summary(), "operators": [dataclasses.asdict(op) for op in counts.ops]}


def format_counts(summary: Mapping[str, Any]) -> str:
    """One line for people."""
    text = f"{_amount(summary['macs'])} multiply-accumulates ({_amount(summary['macs'] + summary['biases'])} with biases), {_amount(summary['activations'])} activations"
    return text + (f"; not counted: {', '.join(summary['unknown'][:5])}" if summary["unknown"] else "")


def _amount(value: int) -> str:
    return f"{value / 1e6:.2f} million" if value >= 100_000 else f"{value:,}"
