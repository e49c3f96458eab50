"""What `edgepress compare` and `benchmark --self-check` do: read or measure both sides, compare, write what CI reads."""
from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from edgepress.artifact import SUFFIXES, write_atomic
from edgepress.compare import Comparison, compare
from edgepress.compare_text import junit, markdown
from edgepress.device_use import hold
from edgepress.errors import ArtifactError, GateError, ModelError, RecipeError
from edgepress.gates import parse_gate
from edgepress.measurement import Measurement
from edgepress.ratios import Ratio, latency_ratio
from edgepress.recipe import BenchmarkConfig
from edgepress.result_sets import Results, of_measurements, read_results
from edgepress.sitting import Case, measure_cases
from edgepress.stages.benchmark import cases_of, check_cases


def compare_paths(paths: Sequence[Path], *, gates: Sequence[str], config: BenchmarkConfig, across_machines: bool = False) -> Comparison:
    """Compare two results, or two model files, which are then measured by turns on the spot.

    Raises:
        RecipeError: not two paths, or a gate that cannot be read.
        ArtifactError, UnsupportedError: nothing to compare, or other machines.
    """
    parsed = [parse_gate(text) for text in gates]
    if len(paths) != 2:
        raise RecipeError(f"compare got {len(paths)} paths ({', '.join(map(str, paths)) or 'none'}); accepted: OLD and NEW", "gates go after --fail-on, in quotes")
    for path in paths:
        if not path.exists():
            raise ArtifactError(f"{path} does not exist; accepted: results of a run, a benchmark or a suite, or a model file", "look at the spelling")
    models = [_is_model(path) for path in paths]
    if models[0] != models[1]:
        raise RecipeError(f"{paths[models.index(True)]} is a model and {paths[models.index(False)]} holds results; accepted: two of a kind", "give two model files to have both measured, or two results")
    old, new = _measured(paths, config) if all(models) else map(read_results, paths)
    return compare(old, new, gates=parsed, across_machines=across_machines)


def _is_model(path: Path) -> bool:
    """A model file, or a bundle (a folder with model.json and one model file, and no results)."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    return (path / "model.json").is_file() and not (path / "run.json").is_file() and any(p.suffix.lower() in SUFFIXES for p in path.iterdir())


def _measured(paths: Sequence[Path], config: BenchmarkConfig) -> Tuple[Results, Results]:
    if len(config.target) != 1:
        raise RecipeError(f"--target is {','.join(config.target)}; accepted: one target, where both files are measured")
    with hold(config.target[0]) as connection, tempfile.TemporaryDirectory(prefix="edgepress-compare-") as work:
        cases = [replace(case, role=role) for role, path in zip(("old", "new"), paths) for case in cases_of([path], config, connection=connection, target=config.target[0])]
        records = measure_cases(check_cases(cases, connection, work=Path(work)), config, connection=connection, work=Path(work))
    sides = [[m for case, m in zip(cases, records) if case.role == role] for role in ("old", "new")]
    return _side(sides[0], paths[0]), _side(sides[1], paths[1])


def _side(records: List[Measurement], path: Path) -> Results:
    return of_measurements(records, source=str(path))


def write_outputs(comparison: Comparison, *, markdown_file: Optional[Path], junit_file: Optional[Path]) -> None:
    """Write what was asked for, whole or not at all."""
    for file, data in ((markdown_file, lambda: markdown(comparison).encode()), (junit_file, lambda: junit(comparison))):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, data())


def require_met(comparison: Comparison, *, strict: bool = False) -> None:
    """Raise where a gate failed (or, if strict, where it cannot be told)."""
    bad = [c for c in comparison.checks if c.outcome == "failed" or (strict and c.outcome == "unresolved")]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise GateError(f"gate {bad[0].gate.text} {'failed' if bad[0].outcome == 'failed' else 'cannot be told'} for {bad[0].key}: {bad[0].text}{more}",
                        "look at what changed; `--effort long` narrows the intervals")


def self_check(file: Path, config: BenchmarkConfig) -> Tuple[Measurement, Measurement, Ratio]:
    """Measure a file against itself by turns: the verdict must be "can't tell"; the interval says which differences this machine shows.

    Raises:
        ModelError: the file cannot be measured here.
    """
    if config.accelerator:
        raise RecipeError(f"--self-check with --accelerator {','.join(config.accelerator)}; accepted: without, as it checks how still this machine is")
    config = replace(config, threads=config.threads[:1] or (1,))
    with hold(config.target[0]) as connection, tempfile.TemporaryDirectory(prefix="edgepress-self-check-") as work:
        found = check_cases(cases_of([file], config, connection=connection, target=config.target[0]), connection, work=Path(work))
        case: Case = next((c for c in found if c.refusal() is None), found[0])
        one, other = measure_cases([replace(case, role="A"), replace(case, role="B")], config, connection=connection, work=Path(work))
    for m in (one, other):
        if m.status != "ok":
            raise ModelError(f"{file} cannot be measured in {m.engine}: {m.reason}", "try another file or --runtimes")
    return one, other, latency_ratio(one, other)


def self_check_text(one: Measurement, other: Measurement, ratio: Ratio) -> str:
    """What a self-check found, for people."""
    verdict = "as it must be" if ratio.verdict == "can't tell" else "WRONG: it is the same file"
    lines = [f"{one.file} against itself in {one.runtime}, {one.threads} thread{'s' if one.threads > 1 else ''}: {ratio.rounds} rounds of two processes, {len(one.latencies_ms)} and {len(other.latencies_ms)} runs",
             f"ratio {ratio.value:.4f}, 95 % interval {ratio.low:.4f} to {ratio.high:.4f}: {ratio.verdict} ({verdict})",
             f"differences above about {max(ratio.half_width, 0.01):.1%} can be seen on this machine now",
             f"timing itself takes {max(r.timer_ns or 0 for r in one.rounds)} ns of a run's {one.median_ms:.4g} ms"]
    doubts = {w.code: w for m in (one, other) for w in m.warnings}
    return "\n".join(lines + [f"warning: {w.message}; {w.hint}" for w in doubts.values()])
