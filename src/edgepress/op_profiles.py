"""Per-operator profiles of several files side by side: where float spends its time beside int8, and what no delegate took."""
from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from edgepress.artifact import digest_file
from edgepress.device_use import hold
from edgepress.errors import RecipeError
from edgepress.jobs import run_job
from edgepress.recipe import BenchmarkConfig
from edgepress.stages.benchmark import cases_of, check_cases


def profile_files(paths: Sequence[Path], config: BenchmarkConfig) -> List[Dict[str, Any]]:
    """One profile per file, runtime and thread count; what cannot be profiled has a status and a reason.

    Raises:
        RecipeError: more than one target.
    """
    if len(config.target) != 1:
        raise RecipeError(f"--target is {','.join(config.target)}; accepted with --profile-ops: one")
    if config.accelerator:
        raise RecipeError(f"--profile-ops with --accelerator {','.join(config.accelerator)}; accepted: without, as only the CPU tells its operators' times", "edgepress benchmark FILE --accelerator … says which nodes an accelerator took")
    found = []
    with hold(config.target[0]) as connection, tempfile.TemporaryDirectory(prefix="edgepress-profile-") as work:
        for case in check_cases(cases_of(list(paths), config, connection=connection, target=config.target[0]), connection, work=Path(work)):
            facts = {"file": str(case.file), "sha256": case.sha256, "runtime": case.runtime, "threads": case.threads, "target": case.target}
            reason = case.refusal()
            result = {"status": "unsupported", "reason": reason} if reason else run_job(
                {"job": "profile", "runtime": case.runtime, "model": str(case.file.resolve()), "sha256": digest_file(case.file), "threads": case.threads}, work=Path(work), target=connection)
            found.append({**facts, "status": result["status"], "reason": result.get("reason"), **result.get("profile", {}), "details": result.get("details", {})})
    return found


def profile_text(profiles: Sequence[Mapping[str, Any]]) -> str:
    """A table with one column group per file: number of operators and milliseconds of one run, slowest operator first."""
    able = [p for p in profiles if p["status"] == "ok"]
    rows: Dict[str, Dict[int, Tuple[int, float]]] = {}
    for index, profile in enumerate(able):
        for op in profile["operators"]:
            name = op["op"] + (" (not delegated)" if op["provider"] == "none" and profile["details"].get("delegate") else "")
            count, ms = rows.setdefault(name, {}).get(index, (0, 0.0))
            rows[name][index] = (count + op["count"], ms + (op["ms"] or 0.0))
    names = [f"{Path(p['file']).name} in {p['runtime']}, {p['threads']}t" for p in able]
    lines = [f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[i % 26]}: {name}" + _delegation(p["details"]) for i, (name, p) in enumerate(zip(names, able))]
    header = ["operator"] + [f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[i % 26]} {what}" for i in range(len(able)) for what in ("count", "ms", "share")]
    totals = [sum(row[i][1] for row in rows.values() if i in row) for i in range(len(able))]
    order = sorted(rows, key=lambda name: (-max(ms for _, ms in rows[name].values()), -max(n for n, _ in rows[name].values()), name))
    body = [[name, *(text for i in range(len(able)) for text in _cells(rows[name].get(i), totals[i]))] for name in order]
    lines += _aligned([header, *body, ["all", *(text for i, p in enumerate(able) for text in _cells((sum(row[i][0] for row in rows.values() if i in row), totals[i]), totals[i]))]]) if able else []
    lines += [f"{Path(p['file']).name} in {p['runtime']}: {p['status']}: {p['reason']}" for p in profiles if p["status"] != "ok"]
    lines += list(dict.fromkeys(f"note: no times of {name}: {p['reason']}" for name, p in zip(names, able) if p.get("reason")))
    return "\n".join(lines + (["note: profiling itself slows small operators down; compare shares, and take latencies from `edgepress benchmark`"] if any(totals) else []))


def _delegation(details: Mapping[str, Any]) -> str:
    if "delegate" not in details:
        return f": {', '.join(details.get('providers', []))}"
    left = ", ".join(f"{n} {op}" for op, n in details.get("not_delegated", {}).items())
    return f": {details['delegate'] or 'no delegate'}, {details.get('partitions', 0)} partitions; not delegated: {left or 'nothing'}"


def _cells(found: Any, total: float) -> Tuple[str, str, str]:
    if found is None:
        return "", "", ""
    count, ms = found
    return str(count), f"{ms:.3f}" if total else "-", f"{ms / total:.0%}" if total else "-"


def _aligned(rows: Sequence[Sequence[str]]) -> List[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(text.rjust(w) if i else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths))).rstrip() for row in rows]
