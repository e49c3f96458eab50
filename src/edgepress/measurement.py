"""A measurement: raw latencies and everything they depend on. Statistics are computed on reading, and it criticises itself."""
from __future__ import annotations

import dataclasses
import json
import math
import statistics as stats
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from edgepress.caveats import Caveat, doubts
from edgepress.errors import ArtifactError, nearest
from edgepress.statistics import quantile_interval

SCHEMA = 1
FILE = "measurements.json"
P90_RUNS, P99_RUNS = 44, 459  # with fewer runs, the largest one is no upper bound of that quantile at 99 % confidence (0.9^44 < 0.01, 0.99^459 < 0.01)


@dataclass(frozen=True)
class Round:
    """One process that opened the file and timed it. Memory is the process's peak up to that moment; None where unreadable."""

    latencies_ms: Tuple[float, ...]
    import_ms: float
    load_ms: float
    first_run_ms: float
    warmup_runs: int
    rss_before_load_bytes: Optional[int] = None
    rss_after_load_bytes: Optional[int] = None
    rss_after_runs_bytes: Optional[int] = None
    anonymous_before_bytes: Optional[int] = None  # resident memory that no file backs, before loading
    anonymous_after_bytes: Optional[int] = None
    inputs_bytes: int = 0  # of the benchmark's own inputs, part of rss_after_runs_bytes
    load_average: Optional[float] = None
    temperature_c: Optional[float] = None
    temperature_after_c: Optional[float] = None
    clock_mhz: Optional[float] = None
    clock_after_mhz: Optional[float] = None
    others_share: Optional[float] = None  # of all processor time meanwhile, what other processes used
    stolen_share: Optional[float] = None  # and other virtual machines
    block_runs: Tuple[int, ...] = ()  # how the latencies fall into blocks, where others had their turn in between
    timer_ns: Optional[int] = None  # what the measuring loop itself adds to one latency


def engine_name(runtime: str, accelerator: Optional[str]) -> str:
    """A runtime with the accelerator it used, in words."""
    return f"{runtime} with {accelerator}" if accelerator else runtime


@dataclass(frozen=True)
class Measurement:
    """How one file ran in one runtime with one number of threads on one target."""

    file: str
    sha256: str
    format: str
    size_bytes: int
    gzip_bytes: int
    runtime: str
    threads: int
    target: str = "local"
    measured_on: str = "real"  # real | emulated
    accelerator: Optional[str] = None
    runtime_version: Optional[str] = None
    status: str = "ok"  # ok | unsupported | failed
    reason: Optional[str] = None
    remark: Optional[str] = None  # what is known about this file in this runtime, where it ran all the same
    timed: str = "inputs handed over, inference, outputs read; batch 1"
    input_shapes: Tuple[Tuple[int, ...], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    rounds: Tuple[Round, ...] = ()
    throughput: Mapping[str, Sequence[float]] = field(default_factory=dict)  # number of processes at once → runs per second of all of them, block by block
    sitting: Optional[str] = None  # measurements of one sitting were taken by turns: block by block they saw the same disturbances
    started: Optional[str] = None  # UTC, ISO 8601

    @property
    def engine(self) -> str:
        """What did the work: the runtime, and the accelerator where it was not the CPU."""
        return engine_name(self.runtime, self.accelerator)

    @cached_property
    def latencies_ms(self) -> List[float]:
        """All timed runs, round after round."""
        return [value for one in self.rounds for value in one.latencies_ms]

    @property
    def min_ms(self) -> Optional[float]:
        """Fastest run: the figure least disturbed by a busy machine."""
        return min(self.latencies_ms, default=None)

    @cached_property
    def median_ms(self) -> Optional[float]:
        """Half of the runs were faster."""
        return stats.median(self.latencies_ms) if self.rounds else None

    @property
    def p90_ms(self) -> Optional[float]:
        """90 % of the runs were as fast; None with fewer than 44 runs."""
        return quantile(self.latencies_ms, 0.9) if len(self.latencies_ms) >= P90_RUNS else None

    @property
    def p99_ms(self) -> Optional[float]:
        """99 % of the runs were as fast; None with fewer than 459 runs."""
        return quantile(self.latencies_ms, 0.99) if len(self.latencies_ms) >= P99_RUNS else None

    @property
    def median_interval_ms(self) -> Optional[Tuple[float, float]]:
        """95 % interval of the median by order statistics; None with fewer than 6 runs."""
        return quantile_interval(self.latencies_ms, 0.5)

    @property
    def p90_interval_ms(self) -> Optional[Tuple[float, float]]:
        """95 % interval of p90; None where p90 is None or the runs do not enclose it."""
        return quantile_interval(self.latencies_ms, 0.9) if self.p90_ms is not None else None

    @property
    def p99_interval_ms(self) -> Optional[Tuple[float, float]]:
        """95 % interval of p99; None where p99 is None or the runs do not enclose it."""
        return quantile_interval(self.latencies_ms, 0.99) if self.p99_ms is not None else None

    @property
    def load_ms(self) -> Optional[float]:
        """Opening the file, the runtime being imported already (median of the rounds)."""
        return stats.median(r.load_ms for r in self.rounds) if self.rounds else None

    @property
    def first_run_ms(self) -> Optional[float]:
        """The first inference after opening (median of the rounds)."""
        return stats.median(r.first_run_ms for r in self.rounds) if self.rounds else None

    @property
    def peak_rss_bytes(self) -> Optional[int]:
        """Largest resident memory of the process, the runtime's own included."""
        return max((r.rss_after_runs_bytes for r in self.rounds if r.rss_after_runs_bytes is not None), default=None)

    @property
    def model_rss_bytes(self) -> Optional[int]:
        """What opening and running the file added to the process, without the benchmark's inputs."""
        added = [r.rss_after_runs_bytes - r.rss_before_load_bytes - r.inputs_bytes for r in self.rounds
                 if r.rss_after_runs_bytes is not None and r.rss_before_load_bytes is not None]
        return max(0, *added) if added else None

    @property
    def load_rss_bytes(self) -> Optional[int]:
        """What opening the file added to the process (largest of the rounds)."""
        return max((r.rss_after_load_bytes - r.rss_before_load_bytes for r in self.rounds if r.rss_after_load_bytes is not None and r.rss_before_load_bytes is not None), default=None)

    @property
    def arena_bytes(self) -> Optional[int]:
        """Memory that no file backs which opening and running added: the runtime's tensors and unpacked weights, without the benchmark's inputs."""
        added = [r.anonymous_after_bytes - r.anonymous_before_bytes - r.inputs_bytes for r in self.rounds if r.anonymous_after_bytes is not None and r.anonymous_before_bytes is not None]
        return max(0, *added) if added else None

    @property
    def warnings(self) -> List[Caveat]:
        """What is doubtful about this measurement."""
        return doubts(self)

    def summary(self) -> Dict[str, Any]:
        """The statistics as plain values, for tables."""
        kept = ("file", "sha256", "format", "size_bytes", "gzip_bytes", "runtime", "runtime_version", "threads", "target", "measured_on", "accelerator", "status", "reason",
                "remark", "min_ms", "median_ms", "p90_ms", "p99_ms", "load_ms", "first_run_ms", "peak_rss_bytes", "model_rss_bytes", "load_rss_bytes", "arena_bytes", "started")
        throughput = {count: stats.median(values) for count, values in self.throughput.items()}
        intervals = {name: list(interval) if interval else None for name in ("median_interval_ms", "p90_interval_ms", "p99_interval_ms") for interval in [getattr(self, name)]}
        return {**{key: getattr(self, key) for key in kept}, **intervals, "throughput_per_second": throughput, "runs": len(self.latencies_ms), "warnings": [w._asdict() for w in self.warnings]}


def quantile(values: Sequence[float], share: float) -> float:
    """Smallest value that at least `share` of the values do not exceed (an observed one, not interpolated)."""
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def to_json(measurement: Measurement) -> str:
    """One measurement as one line of JSON."""
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(measurement)}, ensure_ascii=False)


def from_json(data: Mapping[str, Any], *, source: str = FILE) -> Measurement:
    """A measurement from parsed JSON; `source` names it in errors.

    Raises:
        ArtifactError: another schema, an unknown or missing key, or latencies that are not positive numbers.
    """
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise ArtifactError(f"{source} is not a measurement of schema {SCHEMA}", "measure again with this version of edgepress")
    values = {key: value for key, value in data.items() if key != "schema"}
    rounds = values.get("rounds", [])
    if not isinstance(rounds, (list, tuple)):
        raise ArtifactError(f"{source}: rounds is {rounds!r}; accepted: a list")
    values["rounds"] = tuple(_round(r, source) for r in rounds)
    values["input_shapes"] = tuple(tuple(shape) for shape in values.get("input_shapes", ()))
    measurement = _read(Measurement, values, source=source)
    if measurement.status not in ("ok", "unsupported", "failed"):
        raise ArtifactError(f"{source}: status is {measurement.status!r}; {nearest(str(measurement.status), ('ok', 'unsupported', 'failed'))}")
    return measurement


def _round(data: Any, source: str) -> Round:
    latencies = _latencies(data, source)
    blocks = data.get("block_runs", ())
    if not isinstance(blocks, (list, tuple)) or (blocks and (sum(blocks) != len(latencies) or min(blocks) < 1)):
        raise ArtifactError(f"{source}: block_runs of a round is {blocks!r}; accepted: numbers of runs that add up to its {len(latencies)} latencies", "measure again")
    return _read(Round, {**data, "latencies_ms": latencies, "block_runs": tuple(blocks)}, source=source)


def _latencies(data: Any, source: str) -> Tuple[float, ...]:
    values = data.get("latencies_ms") if isinstance(data, Mapping) else None
    if not isinstance(values, (list, tuple)) or not values or not set(map(type, values)) <= {int, float} or min(values) <= 0 or not math.isfinite(sum(values)):
        raise ArtifactError(f"{source}: latencies_ms of a round is not a list of positive numbers", "measure again")
    return tuple(values)


def _read(kind: type, values: Mapping[str, Any], *, source: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise ArtifactError(f"{source}: a {kind.__name__.lower()} has the unknown key {key!r}; {nearest(key, known)}", "measure again with this version of edgepress")
    try:
        return kind(**values)
    except TypeError as error:
        raise ArtifactError(f"{source}: a {kind.__name__.lower()} is not complete ({error})", "measure again") from error


def dump(measurements: Sequence[Measurement]) -> str:
    """A JSON list with one measurement a line."""
    return "[\n" + ",\n".join(to_json(m) for m in measurements) + "\n]\n"


def read_measurements(path: Path) -> List[Measurement]:
    """The records of a `measurements.json`, or of the one in a folder.

    Raises:
        ArtifactError: unreadable, not JSON, or not measurements.
    """
    file = path / FILE if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read ({error})", "run `edgepress benchmark` again") from error
    return load_records(data, source=str(file))


def load_records(data: Any, *, source: str = FILE) -> List[Measurement]:
    """The measurements of a parsed `measurements.json`.

    Raises:
        ArtifactError: not a list of measurements.
    """
    if not isinstance(data, list):
        raise ArtifactError(f"{source} is not a list of measurements", "run `edgepress benchmark` again")
    return [from_json(record, source=source) for record in data]
