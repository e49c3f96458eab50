"""A measurement: raw latencies and everything they depend on. Statistics are computed on reading, and it criticises itself."""
from __future__ import annotations

import dataclasses
import json
import math
import statistics as stats
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from edgepress.errors import ArtifactError, UnsupportedError, nearest

SCHEMA = 1
FILE = "measurements.json"
P90_RUNS, P99_RUNS = 44, 459  # with fewer runs, the largest one is no upper bound of that quantile at 99 % confidence (0.9^44 < 0.01, 0.99^459 < 0.01)
SPREAD, DRIFT, BUSY, STOLEN, HOT_C, SLOWED = 0.10, 0.05, 0.10, 0.02, 80.0, 0.10


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
    inputs_bytes: int = 0  # of the benchmark's own inputs, part of rss_after_runs_bytes
    load_average: Optional[float] = None
    temperature_c: Optional[float] = None
    temperature_after_c: Optional[float] = None
    clock_mhz: Optional[float] = None
    clock_after_mhz: Optional[float] = None
    others_share: Optional[float] = None  # of all processor time meanwhile, what other processes used
    stolen_share: Optional[float] = None  # and other virtual machines


class Caveat(NamedTuple):
    """What is doubtful about a measurement, and what to do about it."""

    code: str
    message: str
    hint: str


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

    @property
    def latencies_ms(self) -> List[float]:
        """All timed runs, round after round."""
        return [value for one in self.rounds for value in one.latencies_ms]

    @property
    def min_ms(self) -> Optional[float]:
        """Fastest run: the figure least disturbed by a busy machine."""
        return min(self.latencies_ms, default=None)

    @property
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
        return median_interval(self.latencies_ms)

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
    def warnings(self) -> List[Caveat]:
        """What is doubtful about this measurement."""
        return [w for check in CHECKS for w in [check(self)] if w is not None] if self.rounds else []

    def summary(self) -> Dict[str, Any]:
        """The statistics as plain values, for tables."""
        interval = self.median_interval_ms
        return {"file": self.file, "sha256": self.sha256, "format": self.format, "size_bytes": self.size_bytes, "gzip_bytes": self.gzip_bytes,
                "runtime": self.runtime, "runtime_version": self.runtime_version, "threads": self.threads, "target": self.target,
                "measured_on": self.measured_on, "accelerator": self.accelerator, "status": self.status, "reason": self.reason, "remark": self.remark,
                "runs": len(self.latencies_ms), "min_ms": self.min_ms, "median_ms": self.median_ms,
                "median_interval_ms": list(interval) if interval else None, "p90_ms": self.p90_ms, "p99_ms": self.p99_ms, "load_ms": self.load_ms,
                "first_run_ms": self.first_run_ms, "peak_rss_bytes": self.peak_rss_bytes, "model_rss_bytes": self.model_rss_bytes,
                "warnings": [w._asdict() for w in self.warnings]}


def quantile(values: Sequence[float], share: float) -> float:
    """Smallest value that at least `share` of the values do not exceed (an observed one, not interpolated)."""
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> Optional[Tuple[float, float]]:
    """Interval of the median from the ranks of the sorted values: no assumption about their distribution (Conover 1999, §3.2).

    Assumes independent runs; runs of one process are not quite, so it is a lower bound of the uncertainty.
    """
    count = len(values)
    rank = _median_rank(count, (1 - confidence) / 2)
    if rank is None:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[count - rank]


def _median_rank(count: int, tail: float) -> Optional[int]:
    """Largest rank k with P(Binomial(count, 1/2) < k) ≤ tail, or None if even k = 1 has not."""
    if count > 1000:
        return int(count / 2 - stats.NormalDist().inv_cdf(1 - tail) * math.sqrt(count) / 2)
    below, rank = 0, 0
    while (below + math.comb(count, rank)) <= tail * 2**count:
        below += math.comb(count, rank)
        rank += 1
    return rank or None


def _few_runs(m: Measurement) -> Optional[Caveat]:
    wanted = m.settings.get("min_runs", 50)
    count = len(m.latencies_ms)
    if count >= wanted:
        return None
    return Caveat("too_few_runs", f"{count} runs of the {wanted} asked for: they ended at {m.settings.get('max_seconds', 0):g} s", "raise --max-seconds")


def _spread(m: Measurement) -> Optional[Caveat]:
    values, median = m.latencies_ms, m.median_ms
    if len(values) < 8 or not median:
        return None
    spread = (quantile(values, 0.75) - quantile(values, 0.25)) / median
    if spread <= SPREAD:
        return None
    return Caveat("spread", f"half of the runs lie {spread:.0%} of the median apart", "close other programs, or compare the fastest runs (min) only")


def _drift(m: Measurement) -> Optional[Caveat]:
    medians = [stats.median(r.latencies_ms) for r in m.rounds]
    if len(medians) < 2 or max(medians) <= (1 + DRIFT) * min(medians):
        return None
    return Caveat("drift", f"the median of one round is {max(medians) / min(medians):.3g} times that of another", "let the machine come to rest and measure again")


def _busy(m: Measurement) -> Optional[Caveat]:
    shares = [r.others_share for r in m.rounds if r.others_share is not None]
    if shares and max(shares) > BUSY:
        return Caveat("busy", f"other processes used {max(shares):.0%} of the processors meanwhile", "close other programs and measure again")
    loads = [r.load_average for r in m.rounds if r.load_average is not None]
    if not shares and loads and max(loads) > m.host.get("cpus", 1) / 2:
        return Caveat("busy", f"the load average was {max(loads):g}", "close other programs and measure again")
    return None


def _stolen(m: Measurement) -> Optional[Caveat]:
    share = max((r.stolen_share for r in m.rounds if r.stolen_share is not None), default=0.0)
    return Caveat("stolen", f"other virtual machines took {share:.0%} of the processors", "measure on a machine of your own") if share > STOLEN else None


def _governor(m: Measurement) -> Optional[Caveat]:
    governor = m.host.get("governor")
    if governor in (None, "performance"):
        return None
    return Caveat("governor", f"the frequency governor is {governor!r}", "for steady figures: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")


def _hot(m: Measurement) -> Optional[Caveat]:
    degrees = max((t for r in m.rounds for t in (r.temperature_c, r.temperature_after_c) if t is not None), default=0.0)
    slowed = max((1 - r.clock_after_mhz / r.clock_mhz for r in m.rounds if r.clock_mhz and r.clock_after_mhz), default=0.0)
    if degrees < HOT_C and slowed <= SLOWED:
        return None
    what = f"the hottest sensor read {degrees:.0f} °C" if degrees >= HOT_C else f"the clock fell by {slowed:.0%}"
    return Caveat("throttling", what, "cool the machine, or measure after a pause")


def _no_delegate(m: Measurement) -> Optional[Caveat]:
    if m.format != "tflite" or m.details.get("delegate") or not m.details.get("operators"):
        return None
    return Caveat("no_delegate", "no operator runs in XNNPACK: these are the slow reference kernels", "choose another scheme or runtime for this file")


def _known(m: Measurement) -> Optional[Caveat]:
    return Caveat("known_slow", m.remark, "see `edgepress show` and the target profiles") if m.remark else None


CHECKS: Tuple[Callable[[Measurement], Optional[Caveat]], ...] = (_few_runs, _spread, _drift, _busy, _stolen, _governor, _hot, _no_delegate, _known)


def speedup(slow: Measurement, fast: Measurement) -> float:
    """How many times faster the second is, by medians.

    Raises:
        UnsupportedError: the two were not measured under the same conditions, or one has no latencies.
    """
    for key in ("target", "measured_on", "threads", "accelerator", "input_shapes"):
        ours, theirs = getattr(slow, key), getattr(fast, key)
        if key == "input_shapes":  # channels first or last is the file's choice; the amount of work is not
            ours, theirs = [sorted(s) for s in ours], [sorted(s) for s in theirs]
        if ours != theirs:
            raise UnsupportedError(f"{slow.file} and {fast.file} cannot be compared: {key} is {ours} and {theirs}", "measure both under the same conditions")
    if slow.host.get("cpu") != fast.host.get("cpu"):
        raise UnsupportedError(f"{slow.file} and {fast.file} were measured on different processors", "measure both on one machine")
    if not slow.median_ms or not fast.median_ms:
        raise UnsupportedError(f"{(slow if not slow.median_ms else fast).file} has no latencies to compare", "see its reason")
    return slow.median_ms / fast.median_ms


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
    values["rounds"] = tuple(_read(Round, {**r, "latencies_ms": _latencies(r, source)}, source=source) for r in rounds)
    values["input_shapes"] = tuple(tuple(shape) for shape in values.get("input_shapes", ()))
    measurement = _read(Measurement, values, source=source)
    if measurement.status not in ("ok", "unsupported", "failed"):
        raise ArtifactError(f"{source}: status is {measurement.status!r}; {nearest(str(measurement.status), ('ok', 'unsupported', 'failed'))}")
    return measurement


def _latencies(data: Any, source: str) -> Tuple[float, ...]:
    values = data.get("latencies_ms") if isinstance(data, Mapping) else None
    if not isinstance(values, (list, tuple)) or not values or not all(isinstance(v, (int, float)) and v > 0 and math.isfinite(v) for v in values):
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


def table(measurements: Sequence[Measurement]) -> str:
    """The measurements as a table in plain text, and below it what is doubtful, each doubt once."""
    names = _names(measurements)
    header = ("file", "runtime", "threads", "min ms", "median ms", "p90 ms", "load ms", "peak MB", "file kB", "gzip kB")
    rows = [header] + [(names[m.file], m.runtime if m.target == "local" else f"{m.runtime} on {m.target}", str(m.threads), *_cells(m)) for m in measurements]
    widths = [max(len(row[i]) for row in rows if len(row) > i + (i > 2 and len(row) == 4)) for i in range(len(header))]
    lines = ["  ".join(text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths))) if len(row) == len(header)
             else "  ".join(text.ljust(w) for text, w in zip(row[:3], widths)) + "  " + row[3] for row in rows]
    doubts: Dict[str, List[Tuple[str, Caveat]]] = {}
    for m in measurements:
        for doubt in m.warnings:
            doubts.setdefault(doubt.code, []).append((f"{names[m.file]} in {m.runtime}", doubt))
    for entries in doubts.values():
        more = f" (and {len(entries) - 1} more likewise)" if len(entries) > 1 else ""
        lines.append(f"warning: {entries[0][0]}: {entries[0][1].message}{more}; {entries[0][1].hint}")
    return "\n".join(lines)


def _cells(m: Measurement) -> Tuple[str, ...]:
    if m.status != "ok":
        return (f"{m.status}: {m.reason}",)
    times = [f"{value:.3g}" if value is not None and value < 100 else "-" if value is None else f"{value:.0f}" for value in (m.min_ms, m.median_ms, m.p90_ms, m.load_ms)]
    peak = m.peak_rss_bytes
    return (*times, "-" if peak is None else f"{peak / 1e6:.0f}", f"{m.size_bytes / 1e3:.0f}", f"{m.gzip_bytes / 1e3:.0f}")


def _names(measurements: Sequence[Measurement]) -> Dict[str, str]:
    """File → as much of the end of its path as tells it from the others."""
    paths = {m.file: Path(m.file).parts for m in measurements}
    for parts in range(1, 10):
        names = {file: "/".join(path[-parts:]) for file, path in paths.items()}
        if len(set(names.values())) == len(names):
            return names
    return {file: file for file in paths}
