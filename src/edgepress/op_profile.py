"""Where the time of a file goes, operator by operator, as far as its runtime tells. Device-safe: NumPy, Python 3.9."""
from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence

if TYPE_CHECKING:
    from edgepress.modelspec import ModelSpec
    from edgepress.runtimes.base import Session

RUNS = 50
NO_TIMES = "this runtime's Python interface tells which operators there are and which a delegate took, not how long each takes; Google's benchmark_model --enable_op_profiling does"


def profile(session: Session, path: str, *, runtime: str, threads: int, runs: int = RUNS, seed: int = 0, spec: Optional[ModelSpec] = None) -> Dict[str, Any]:
    """Operators of an open file.

    Returns:
        "operators": list of {"op", "count", "ms" (of one run, median; None without times), "provider"}; "reason" where there are no times; "runs".
    """
    if runtime != "onnxruntime":
        return {"operators": _listed(session.details), "reason": NO_TIMES, "runs": 0}
    from edgepress.timing import random_inputs

    pool = random_inputs(session.inputs, seed=seed, spec=spec)
    with tempfile.TemporaryDirectory() as folder:
        trace = _trace(path, pool, threads=threads, runs=runs, folder=Path(folder))
    return {"operators": by_operator(trace, runs=runs), "reason": None, "runs": runs}


def _listed(details: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Operators by name, those that no delegate took apart."""
    left = details.get("not_delegated") or {}
    rows = []
    for name, count in (details.get("operators") or {}).items():
        for provider, number in ((details.get("delegate"), count - left.get(name, 0)), (None, left.get(name, 0))):
            if number:
                rows.append({"op": name, "count": number, "ms": None, "provider": provider or "none"})
    return rows


def _trace(path: str, pool: Sequence[Sequence[Any]], *, threads: int, runs: int, folder: Path) -> List[Dict[str, Any]]:
    """Node events of ONNX Runtime's own profiler, of the timed runs only."""
    import onnxruntime

    from edgepress.runtimes.onnxruntime import CPU, OnnxSession, _options
    from edgepress.timing import warm_up

    options = _options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = os.path.join(str(folder), "trace")
    inner = onnxruntime.InferenceSession(path, options, providers=[CPU])
    session = OnnxSession(inner, path=path)
    warm_up(session, pool, seconds=0.1)
    begin = len(pool)  # what the warm-up ran is cut off by its count below
    for number in range(runs):
        session.run(pool[(begin + number) % len(pool)])
    events = json.loads(Path(inner.end_profiling()).read_text(encoding="utf-8"))
    return [event for event in events if event.get("cat") == "Node" and event.get("name", "").endswith("_kernel_time")]


def by_operator(events: Sequence[Mapping[str, Any]], *, runs: int) -> List[Dict[str, Any]]:
    """Kernel times summed by kind of operator, the slowest first: each node's median over its last `runs` runs."""
    nodes: Dict[str, List[Mapping[str, Any]]] = {}
    for event in events:
        nodes.setdefault(event["name"], []).append(event)
    found: Dict[Any, Dict[str, Any]] = {}
    for seen in nodes.values():
        last = sorted(event["dur"] for event in seen[-runs:])
        kind = (seen[0]["args"].get("op_name", "?"), seen[0]["args"].get("provider", "?").replace("ExecutionProvider", ""))
        row = found.setdefault(kind, {"op": kind[0], "count": 0, "ms": 0.0, "provider": kind[1]})
        row["count"] += 1
        row["ms"] += last[len(last) // 2] / 1e3
    return sorted(({**row, "ms": round(row["ms"], 5)} for row in found.values()), key=lambda row: -row["ms"])
