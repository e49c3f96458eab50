"""Latency and throughput on accelerators against this machine's CPU: files × accelerators × batch sizes × copies in and out of the timing.

    python benchmarks/gpu.py FILE… [--accelerators cuda,tensorrt,gpu] [--batches 1,2,4,8,16,32,64] [--copies in,out] [--threads 1] [--json RESULT]

Give the float32, float16 and int8 files of one network. `cuda`, `tensorrt`, `openvino:device_type=GPU` … are execution providers of onnxruntime (.onnx files), `gpu` is LiteRT's accelerator
(.tflite) and Keras' GPU (.keras), the reference. Each row says what really ran: the device and how many nodes it took, as the runtime itself reports them. What did not run says why;
where no accelerator did any work the exit code is 1. Batches need files whose batch dimension is open (`edgepress convert --batch none`); others say so.
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from edgepress.artifact import SUFFIXES, digest_file
from edgepress.errors import EdgepressError
from edgepress.host import host_facts
from edgepress.jobs import available_runtimes, run_job

RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime", "keras": "keras"}
OWN = {"tflite": ("gpu",), "keras": ("gpu",)}  # accelerators that these formats know; every other one is an execution provider of onnxruntime
HEADER = ("file", "accelerator", "device", "nodes", "batch", "copies", "median ms", "images/s", "times CPU", "")


def combinations(file: Path, accelerators: Sequence[str], batches: Sequence[int], copies: Sequence[str]) -> Iterator[Tuple[Optional[str], int, str]]:
    """(accelerator or None for the CPU, batch, in | out) that make sense for a file."""
    kind = SUFFIXES[file.suffix.lower()]
    for batch in batches:
        yield None, batch, "in"
        for name in accelerators:
            if (name.partition(":")[0] in OWN[kind]) if kind in OWN else name.partition(":")[0] != "gpu":
                for where in copies if kind == "onnx" else ("in",):
                    yield name, batch, where


def measure(file: Path, accelerator: Optional[str], batch: int, copies: str, *, threads: int, work: Path) -> Dict[str, Any]:
    """One row, whatever becomes of it."""
    text = accelerator if accelerator is None or copies == "in" else f"{accelerator}{',' if ':' in accelerator else ':'}copies=out"
    row: Dict[str, Any] = {"file": file.name, "sha256": digest_file(file), "accelerator": accelerator or "cpu", "batch": batch, "copies": copies}
    job = {"job": "benchmark", "runtime": RUNTIMES[SUFFIXES[file.suffix.lower()]], "model": str(file.resolve()), "threads": threads, "accelerator": text, "batch": batch,
           "min_runs": 50, "min_seconds": 1.0, "max_seconds": 10.0}
    try:
        result = run_job(job, work=work)
    except EdgepressError as error:
        return {**row, "status": "failed", "reason": getattr(error, "reason", str(error))}
    if result["status"] != "ok":
        return {**row, "status": result["status"], "reason": result["reason"]}
    latencies = sorted(result["latencies_ms"])
    shape = result["input_shapes"][0]
    found = result["details"].get("accelerator") or {"device": "CPU"}
    return {**row, "status": "ok", "reason": None, "batch": shape[0] if shape else 1, "median_ms": latencies[len(latencies) // 2], "min_ms": latencies[0], "runs": len(latencies), "runtime": result["runtime"], **found}


def table(rows: Sequence[Dict[str, Any]]) -> str:
    """The rows for people, each against the CPU with the same batch."""
    cpu = {(row["file"], row["batch"]): row["median_ms"] for row in rows if row["status"] == "ok" and row["accelerator"] == "cpu"}
    lines: List[Tuple[str, ...]] = [HEADER]
    for row in rows:
        if row["status"] != "ok":
            lines.append((row["file"], row["accelerator"], "-", "-", str(row["batch"]), row["copies"], "-", "-", "-", f"{row['status']}: {row['reason']}"))
            continue
        base = cpu.get((row["file"], row["batch"]))
        nodes = f"{row['nodes_taken']}/{row['nodes']}" if "nodes" in row else "all" if row.get("fully_accelerated") else "-"
        lines.append((row["file"], row["accelerator"], row["device"], nodes, str(row["batch"]), row["copies"], f"{row['median_ms']:.3g}", f"{1e3 * row['batch'] / row['median_ms']:.0f}",
                      f"{base / row['median_ms']:.2f}" if base else "-", row.get("adapter", "")))
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER) - 1)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)) + "  " + line[-1] for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--accelerators", default="cuda,tensorrt,gpu", help="separated by commas; an option's own commas as ';' (openvino:device_type=GPU;precision=FP16)")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64")
    parser.add_argument("--copies", default="in,out")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU rows")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    missing = [str(file) for file in given.files if not file.is_file() or file.suffix.lower() not in SUFFIXES]
    if missing:
        sys.exit(f"{missing[0]} is no model file; accepted: {', '.join(SUFFIXES)}")
    accelerators = given.accelerators.split(",")
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgepress-gpu-") as work:
        for file in given.files:
            if not available_runtimes(SUFFIXES[file.suffix.lower()]):
                sys.exit(f"no runtime for {file.suffix} files is installed: `edgepress runtimes`")
            refused = set()  # a device that is not there is not there for every batch
            for accelerator, batch, copies in combinations(file, accelerators, [int(n) for n in given.batches.split(",")], given.copies.split(",")):
                if accelerator not in refused:
                    rows.append(measure(file, accelerator, batch, copies, threads=given.threads, work=Path(work)))
                    print(f"{file.name} {rows[-1]['accelerator']} batch {rows[-1]['batch']} copies {copies}: {rows[-1].get('median_ms', rows[-1]['status'])}", file=sys.stderr, flush=True)
                    if rows[-1]["status"] == "unsupported":
                        refused.add(accelerator)
    print(table(rows))
    host = host_facts()
    print(f"\nCPU: {host['cpu']}, {host['cpus']} cores, {given.threads} threads")
    if given.json:
        given.json.write_text(json.dumps({"host": host, "rows": rows}, indent=1))
    if not any(row["status"] == "ok" and row["accelerator"] != "cpu" for row in rows):
        print("no accelerator did any work here; the reasons stand above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
