"""Does `compare` find a slow-down of 5 % and stay quiet where there is none? A file against itself with a few more operators, and against a copy.

    python benchmarks/gates.py FILE.onnx [--times 20] [--gate "latency>+1%"] [--stored] [--json FILE]

--stored: each side is measured by itself, as a baseline of last week would be, and the results are compared (no pairs: weaker).

Operators are added to the input of the ONNX file until it takes 5 % longer (measured, by turns). Bars: found 20 of 20, alarmed without a slow-down at
most 1 of 20. Exit code 4 where one is missed. About 6 to 10 s a comparison on two cores.
"""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

from edgepress.comparing import compare_paths
from edgepress.compare import Comparison, compare
from edgepress.gates import parse_gate
from edgepress.recipe import BenchmarkConfig
from edgepress.result_sets import of_measurements
from edgepress.sitting import measure_cases
from edgepress.stages.benchmark import cases_of
from edgepress.targets import connect

PLANTED = 0.05
CONFIG = BenchmarkConfig(effort="normal", max_seconds=5.0, threads=(1,), runtimes=("onnxruntime",))  # ends as soon as the ratio is known to 1 %


def slower(file: Path, out: Path, *, operators: int) -> None:
    """The file with that many more elementwise operators before its first one; the runtime cannot fold them away."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(file))
    graph = model.graph
    given = graph.input[0]
    kind = onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    if kind != np.float32:
        raise SystemExit(f"{file} takes {kind}; accepted: a file with a float32 input")
    channels = given.type.tensor_type.shape.dim[1].dim_value or 1
    graph.initializer.append(numpy_helper.from_array(np.linspace(0, 1e-6, channels, dtype=np.float32).reshape(1, channels, 1, 1), "planted"))
    name, made = given.name, []
    for number in range(operators):
        made.append(onnx.helper.make_node(("Add", "Sub")[number % 2], [name, "planted"], [f"planted_{number}"], name=f"planted_{number}"))
        name = f"planted_{number}"
    for node in graph.node:
        node.input[:] = [name if i == given.name else i for i in node.input]
    for place, node in enumerate(made):
        graph.node.insert(place, node)
    onnx.save(model, str(out))


def change(comparison: Comparison) -> float:
    """Relative change of the latency."""
    return next(row.figures["latency"].value for row in comparison.rows) - 1


def calibrate(file: Path, work: Path) -> Path:
    """A file that takes about 5 % longer: the cost of an operator is measured with many of them, then the number is set and measured again."""
    out, operators, tried, found = work / "slow.onnx", 40, 0, 0.0
    for _ in range(4):
        slower(file, out, operators=operators)
        seen = change(compare_paths([file, out], gates=[], config=CONFIG))
        print(f"{operators} more operators: {seen:+.1%}", flush=True)
        tried, found = tried + operators, found + seen
        operators = max(1, round(PLANTED * tried / max(found, 1e-3)))
    slower(file, out, operators=operators)
    print(f"planted: {operators} operators", flush=True)
    return out


def stored(old: Path, new: Path, gate: str) -> Comparison:
    """Both measured one after the other, each in a sitting of its own."""
    sides = []
    for file in (old, new):
        with tempfile.TemporaryDirectory() as work:
            cases = cases_of([file], CONFIG, connection=connect("local"))
            sides.append(of_measurements(measure_cases(cases, CONFIG, connection=connect("local"), work=Path(work)), source=str(file)))
    return compare(*sides, gates=[parse_gate(gate)])


def trial(old: Path, new: Path, gate: str, *, apart: bool) -> Dict[str, Any]:
    """One comparison: does the gate fail, and what was seen."""
    comparison = stored(old, new, gate) if apart else compare_paths([old, new], gates=[gate], config=CONFIG)
    figure = next(row.figures["latency"] for row in comparison.rows)
    return {"failed": bool(comparison.failed), "verdict": figure.verdict, "change": figure.value - 1, "low": figure.low - 1, "high": figure.high - 1}


def main() -> int:
    """Print each trial and how many were right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--gate", default="latency>+1%")
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    started, rows = time.monotonic(), {"planted": [], "none": []}  # type: Any
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.onnx"
        shutil.copyfile(given.file, copy)
        slow = calibrate(given.file, Path(folder))
        for _ in range(given.times):
            for kind, file in (("planted", slow), ("none", copy)):
                rows[kind].append(trial(given.file, file, given.gate, apart=given.stored))
                print(f"{kind:8} {rows[kind][-1]['change']:+.2%} {rows[kind][-1]['verdict']}, gate {'failed' if rows[kind][-1]['failed'] else 'not failed'}", flush=True)
    return report(given, rows, seconds=time.monotonic() - started)


def report(given: argparse.Namespace, rows: Dict[str, List[Dict[str, Any]]], *, seconds: float) -> int:
    """Print the figures; the exit code."""
    found, alarms = (sum(row["failed"] for row in rows[kind]) for kind in ("planted", "none"))
    result = {"file": given.file.name, "gate": given.gate, "stored": given.stored, "times": given.times, "found": found, "false_alarms": alarms, "bars": {"found": given.times, "false_alarms": given.times // 20},
              "mean_change": {kind: sum(row["change"] for row in rows[kind]) / len(rows[kind]) for kind in rows}, "seconds": round(seconds, 1)}
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0 if found == given.times and alarms <= given.times // 20 else 4


if __name__ == "__main__":
    sys.exit(main())
