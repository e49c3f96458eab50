"""How far a file is from what this machine allows: its compute bound, its roofline, its measured time, and where the difference goes; and how small it could be.

Bounds (Williams, Waterman, Patterson 2009, applied to each operator): compute = MACs / peak of the type; roofline = Σ max(MACs / peak, bytes / bandwidth of the smallest cache that
holds them). `reachable` adds what is known to be lost on this machine: depthwise convolutions at the rate that the runtime reaches with one, tiles that are not full, and
the time of each operator's dispatch. Peaks are measured (`peaks`). What is left between reachable and measured is unexplained, and said so.
"""
from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from edgepress import model_size, peaks
from edgepress.artifact import SUFFIXES, digest_file
from edgepress.counters import HEAVY, Counts, Op, count_file
from edgepress.counters_onnx import CONVERSIONS, MOVES
from edgepress.errors import EdgepressError, JobError, UnsupportedError
from edgepress.jobs import available_runtimes, run_job
from edgepress.measurement import Measurement
from edgepress.progress import report_progress

TILE_ROWS, TILE_COLUMNS, TILE_DEPTH = 4, 16, {"int8": 4}  # of the matrix kernels: XNNPACK and MLAS compute whole tiles of about this size, integers four deep (VNNI, SDOT)
LOW_SHARE = 0.15  # below this share of the roofline the file is most likely not accelerated at all …
SHOWN = 0.0005  # of the measured time: smaller parts are left out
SMALL_MS = 0.02  # … unless there is so little to do that handing it over is the work


@dataclass(frozen=True)
class Limit:
    """One file in one runtime. Times in milliseconds; `measured_ms` is the fastest run, because the peaks are too."""

    file: str
    runtime: str
    threads: int
    counts: Mapping[str, Any]
    compute_ms: float
    roofline_ms: float
    reachable_ms: float
    measured_ms: Optional[float]
    median_ms: Optional[float]
    status: str = "ok"
    reason: Optional[str] = None
    gap: Tuple[Mapping[str, Any], ...] = ()  # {"what", "ms", "how": measured | estimated, "note"}
    ops: Tuple[Mapping[str, Any], ...] = ()
    sizes: Mapping[str, Optional[int]] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> Optional[float]:
        """Roofline against measured, 0 to 1."""
        return self.roofline_ms / self.measured_ms if self.measured_ms else None


def find_limits(files: Sequence[Path], *, threads: int = 1, runtime: Optional[str] = None, measurements: Sequence[Measurement] = (), again: bool = False) -> List[Limit]:
    """The limits of each file on this machine.

    Args:
        runtime: default: the preferred installed one of each format.
        measurements: records that are used instead of measuring, where one is of the same bytes, runtime and threads on this machine.
        again: measure the machine's peaks anew.

    Raises:
        ModelError: no model file, or damaged. UnsupportedError: no runtime is installed for a file.
    """
    counted = [(file, count_file(file)) for file in files]
    rates = peaks.machine_peaks(threads=threads, again=again)
    return [_limit(file, counts, _runtime(file, runtime), threads, rates, measurements) for file, counts in counted]


def _runtime(file: Path, wanted: Optional[str]) -> str:
    found = available_runtimes(SUFFIXES.get(file.suffix.lower(), ""))
    if wanted is not None or not found:
        return wanted or "none"
    return found[0]


def _limit(file: Path, counts: Counts, runtime: str, threads: int, rates: Mapping[str, Any], measurements: Sequence[Measurement]) -> Limit:
    report_progress(f"measuring {file.name} in {runtime}")
    timed = _measured(file, runtime, threads, measurements, cpu=rates["cpu"])
    profile = _profile(file, runtime, threads) if timed["status"] == "ok" else None
    bounds = [_bound(op, rates, runtime) for op in counts.ops]
    compute, roofline, reachable = (1e3 * sum(bound[key] for bound in bounds) for key in ("compute", "roofline", "reachable"))
    limit = Limit(file=str(file), runtime=runtime, threads=threads, counts=counts.summary(), compute_ms=compute, roofline_ms=roofline, reachable_ms=reachable, measured_ms=timed.get("min_ms"),
                  median_ms=timed.get("median_ms"), status=timed["status"], reason=timed.get("reason"), ops=_op_rows(counts, bounds), sizes=sizes(file, counts),
                  details=timed.get("details", {}), host=timed.get("host", {}))
    gap, notes = explain(limit, counts, bounds, profile, rates)
    return Limit(**{**vars(limit), "gap": tuple(gap), "notes": tuple(notes)})


def _measured(file: Path, runtime: str, threads: int, measurements: Sequence[Measurement], *, cpu: str) -> Dict[str, Any]:
    """Fastest and median run, details and host: of a record that fits, or of a short benchmark now."""
    digest = digest_file(file)
    for m in measurements:
        if (m.sha256, m.runtime, m.threads, m.target, m.accelerator, m.status, m.host.get("cpu")) == (digest, runtime, threads, "local", None, "ok", cpu):
            return {"status": "ok", "min_ms": m.min_ms, "median_ms": m.median_ms, "details": dict(m.details), "host": dict(m.host)}
    try:
        with tempfile.TemporaryDirectory(prefix="edgepress-limits-") as work:
            result = run_job({"job": "benchmark", "runtime": runtime, "model": str(file.resolve()), "threads": threads, "min_runs": 30, "min_seconds": 0.5, "max_seconds": 5.0}, work=Path(work))
    except JobError as error:
        return {"status": "failed", "reason": error.reason}
    except EdgepressError as error:
        return {"status": "unsupported", "reason": str(error)}
    if result["status"] != "ok":
        return {"status": result["status"], "reason": result["reason"]}
    latencies = sorted(result["latencies_ms"])
    return {"status": "ok", "min_ms": latencies[0], "median_ms": latencies[len(latencies) // 2], "details": result["details"], "host": result["host"]}


def _profile(file: Path, runtime: str, threads: int) -> Optional[List[Dict[str, Any]]]:
    """Kinds of nodes that ran, with group, count and milliseconds, where the runtime tells: the fused ones, not the file's."""
    if runtime != "onnxruntime":
        return None
    with tempfile.TemporaryDirectory(prefix="edgepress-limits-") as work:
        result = run_job({"job": "profile", "runtime": runtime, "model": str(file.resolve()), "threads": threads}, work=Path(work))
    return [{**row, "group": node_group(row["op"])} for row in result["profile"]["operators"]] if result["status"] == "ok" else None


def node_group(kind: str) -> str:
    """The group of a node of onnxruntime's optimized graph, by its kind; depthwise convolutions are among the convolutions."""
    if "Conv" in kind:
        return "convolution"
    if "Gemm" in kind or "MatMul" in kind:
        return "dense"
    return "conversion" if kind in CONVERSIONS else "movement" if kind in MOVES or kind.startswith("Reorder") else "elementwise"


def _bound(op: Op, rates: Mapping[str, Any], runtime: str) -> Dict[str, float]:
    """Seconds of one operator: compute, roofline, reachable."""
    kind = "int8" if op.dtype == "int8" and "int8" in rates["macs_per_second"] else "float32"
    fused = runtime == "onnxruntime" and op.group not in HEAVY  # it fuses most of them (activations, Q/DQ pairs, additions); its profile says what the rest takes
    compute = op.macs / rates["macs_per_second"][kind]
    memory = 0.0 if fused else op.bytes / bandwidth(op.bytes, rates)
    best = rates["depthwise_macs_per_second"].get(runtime, {}).get(kind) if op.group == "depthwise" else None
    kernel = op.macs / best if best else compute / utilization(op, kind)
    dispatch = 0.0 if fused else rates["seconds_per_operator"].get(runtime, 0.0)
    return {"compute": compute, "roofline": max(compute, memory), "reachable": max(kernel, compute, memory) + dispatch, "kernel": max(kernel, compute, memory), "memory": memory, "dispatch": dispatch}


def bandwidth(size: int, rates: Mapping[str, Any]) -> float:
    """Bytes per second of the smallest memory level that holds `size` bytes."""
    for level, capacity in sorted(rates["level_bytes"].items()):
        if size <= capacity:
            return rates["bytes_per_second"][level]
    return rates["bytes_per_second"]["memory"]


def utilization(op: Op, dtype: str) -> float:
    """Share of full tiles in the matrix product of an operator, 0 to 1."""
    if op.group not in HEAVY or op.group == "depthwise" or len(op.shape) != 3 or not op.macs:
        return 1.0
    tiles = TILE_ROWS, TILE_COLUMNS, TILE_DEPTH.get(dtype, 1)
    shape = op.shape if op.shape[0] >= TILE_ROWS else (TILE_ROWS, *op.shape[1:])  # kernels of fewer rows exist
    return float(np.prod([size / (-(-size // tile) * tile) for size, tile in zip(shape, tiles)]))


def explain(limit: Limit, counts: Counts, bounds: Sequence[Mapping[str, float]], profile: Optional[Sequence[Mapping[str, Any]]], rates: Mapping[str, Any]) -> Tuple[List[Dict[str, Any]], List[str]]:
    """Where the time between roofline and measured goes, and what stands out."""
    if limit.measured_ms is None:
        return [], []
    pairs = list(zip(counts.ops, bounds))
    over = {"depthwise": sum(b["kernel"] - b["roofline"] for op, b in pairs if op.group == "depthwise"), "tiles": sum(b["kernel"] - b["roofline"] for op, b in pairs if op.group != "depthwise")}
    gap = [_part("depthwise convolutions below the peak", over["depthwise"], f"{sum(op.group == 'depthwise' for op, _ in pairs)} of them; no processor's dot products fit them"),
           _part("tiles that are not full", over["tiles"], "channels that are no multiple of 16")]
    notes = _undelegated(limit)
    if profile:
        gap += _profiled(pairs, profile, measured_ms=limit.measured_ms)
    else:
        gap.append(_part("dispatch", sum(b["dispatch"] for _, b in pairs), f"{len(pairs)} operators, {1e6 * rates['seconds_per_operator'].get(limit.runtime, 0.0):.2f} µs each"))
        gap.append({"what": "not explained", "ms": limit.measured_ms - limit.roofline_ms - sum(part["ms"] for part in gap), "how": "the rest",
                    "note": "operators that reach less than one large operator does; other programs" + ("; operators outside the delegate" if notes else "")})
    head = [] if counts.format == "keras" else _head(counts)
    if head:
        notes.append(f"the {len(head)} operator{'s' if len(head) > 1 else ''} that turn pixels into normalized numbers are inside the file and inside the time ({sum(op.bytes for op in head) / 1e6:.2f} MB moved)")
    notes.append("decoding and resizing a photo is not part of it: `edgepress device bench` measures from photo to answer")
    if limit.share is not None and limit.share > 1:
        notes.insert(0, "faster than its bound: other programs were at work when this machine's peaks were measured; run again with --again on a quiet machine")
    if rates.get("busy"):
        notes.insert(0, f"this machine's peaks were measured while other programs used {rates['busy']:.0%} of it: the bounds are too long, so the shares are too high")
    if limit.share is not None and limit.share < LOW_SHARE and limit.roofline_ms > SMALL_MS:
        notes.insert(0, f"only {limit.share:.0%} of the roofline: most likely this file runs in kernels that are not accelerated here")
    return [part for part in gap if abs(part["ms"]) >= SHOWN * limit.measured_ms], notes


def _part(what: str, seconds: float, note: str) -> Dict[str, Any]:
    return {"what": what, "ms": 1e3 * seconds, "how": "estimated", "note": note}


def _undelegated(limit: Limit) -> List[str]:
    left = limit.details.get("not_delegated") or {}
    if limit.details.get("operators") and limit.details.get("delegate") is None and "not_delegated" in limit.details:
        return ["no operator runs in XNNPACK: these are the reference kernels"]
    return [f"outside the delegate: {', '.join(f'{name} {count}' for name, count in left.items())} (LiteRT does not say how long they take)"] if left else []


def _profiled(pairs: Sequence[Tuple[Op, Mapping[str, float]]], profile: Sequence[Mapping[str, Any]], *, measured_ms: float) -> List[Dict[str, Any]]:
    """What onnxruntime's profile shows: the time in its matrix kernels beyond what is reachable, and in everything that is no matrix kernel.

    The profile's medians are scaled down to the fastest run where other programs slowed them.
    """
    total = sum(row["ms"] for row in profile)
    scale = min(1.0, measured_ms / total) if total else 1.0
    spent = {group: scale * sum(row["ms"] for row in profile if row["group"] == group) for group in ("convolution", "dense", "conversion", "elementwise", "movement")}
    nodes = {group: sum(row["count"] for row in profile if row["group"] == group) for group in spent}
    kernels = spent["convolution"] + spent["dense"]
    parts = [{"what": "convolutions and products below their reachable rate", "ms": kernels - 1e3 * sum(bound["kernel"] for op, bound in pairs if op.group in HEAVY), "how": "measured",
              "note": f"{nodes['convolution'] + nodes['dense']} nodes take {kernels:.3f} ms"}]
    for group, what in (("conversion", "conversions between float and integers that were not fused"), ("elementwise", "elementwise operators that were not fused"), ("movement", "transposes and copies")):
        if nodes[group]:
            parts.append({"what": what, "ms": spent[group], "how": "measured", "note": f"{nodes[group]} nodes"})
    return [*parts, {"what": "between the nodes: dispatch, inputs and outputs", "ms": measured_ms - scale * total, "how": "measured", "note": f"{sum(nodes.values())} nodes"}]


def _head(counts: Counts) -> List[Op]:
    """The operators before the first weighted one."""
    head: List[Op] = []
    for op in counts.ops:
        if op.group in HEAVY:
            return head
        head.append(op)
    return head


def _op_rows(counts: Counts, bounds: Sequence[Mapping[str, float]]) -> Tuple[Mapping[str, Any], ...]:
    """One row an operator of the file."""
    return tuple({"name": op.name, "kind": op.kind, "group": op.group, "dtype": op.dtype, "macs": op.macs, "bytes": op.bytes, "compute_ms": 1e3 * bound["compute"],
                  "roofline_ms": 1e3 * bound["roofline"], "reachable_ms": 1e3 * bound["reachable"], "limited_by": "compute" if bound["compute"] >= bound["memory"] else "memory"}
                 for op, bound in zip(counts.ops, bounds))


def sizes(file: Path, counts: Counts) -> Dict[str, Optional[int]]:
    """Bytes of the file: as it is, packed, and at best (the entropy of its weights, and everything else packed by xz)."""
    entropy = None if counts.format == "keras" else model_size.entropy_bytes(weights(file))
    stored = sum(array.nbytes for array in weights(file)) if entropy is not None else 0
    size = file.stat().st_size
    report_progress(f"packing {file.name}")
    return {"file": size, **model_size.packed_bytes(file), "weights": stored or counts.weight_bytes,
            "entropy": entropy, "entropy_bound": None if entropy is None else entropy + model_size.rest_bytes(file, weights(file))}


def weights(file: Path) -> Iterator[np.ndarray]:
    """The constant arrays of a .tflite or .onnx file, each stored one once."""
    if SUFFIXES[file.suffix.lower()] == "onnx":
        from onnx import numpy_helper

        from edgepress.onnx_summary import load_graph

        arrays = (numpy_helper.to_array(tensor) for tensor in load_graph(file).graph.initializer)
        yield from (array for array in arrays if array.dtype.kind != "O")  # strings are no weights
        return
    from edgepress import flatbuffer

    model, seen = flatbuffer.load_model_t(file), set()
    kinds = {value: name.lower() for name, value in vars(flatbuffer.import_schema().TensorType).items() if isinstance(value, int)}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        data = model.buffers[tensor.buffer].data
        if data is not None and len(data) and tensor.buffer not in seen:
            seen.add(tensor.buffer)
            raw = np.asarray(data, dtype=np.uint8)
            kind = kinds.get(tensor.type, "uint8")
            yield raw.view(kind) if kind in ("float32", "float16", "int8", "int16", "int32", "int64", "uint8") and raw.size % np.dtype(kind).itemsize == 0 else raw


def check_runtime(limits: Sequence[Limit]) -> None:
    """Raises UnsupportedError where nothing was measured."""
    if limits and all(limit.measured_ms is None for limit in limits):
        raise UnsupportedError(f"nothing was measured: {limits[0].reason}", "`edgepress runtimes` says what works here")
