"""What a browser hands back becomes measurements. A phone is not trusted: sizes, types and ranges are checked, identities are ours, and answers are judged again here."""
from __future__ import annotations

import dataclasses
import math
import re
import threading
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from edgepress import measurement
from edgepress.artifact import write_atomic
from edgepress.browser.packages import versions
from edgepress.bundle_files import compare_answers
from edgepress.errors import ArtifactError
from edgepress.measurement import Measurement, Round

SCHEMA = 1
MOST_RESULTS, MOST_RUNS, MOST_THREADS = 200, 5_000, 64
MOST_KEPT = 2_000  # measurements of one session: whoever has the address could fill the disk
MOST_MS = 1e7
MOST_TEXT, MOST_ENTRIES, MOST_DEPTH = 400, 40, 3
RUNTIMES = {"tflite": "litert-web", "onnx": "onnxruntime-web"}
ACCELERATORS = (None, "webgpu")
SOURCE = "the result"
_TARGET = re.compile(r"browser://[a-z][a-z-]{0,29}")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_AGAIN = "measure again with the page of this version of edgepress"


class Results:
    """Collects what browsers hand back in one measurements.json; several may do so at once."""

    def __init__(self, app: Mapping[str, Any], file: Path) -> None:
        self.file = file
        self.measurements: List[Measurement] = []
        self._models = {model["sha256"]: model for model in app["models"]}
        self._golden = [i for i, photo in enumerate(app["photos"]) if photo["kind"] == "golden"]
        self._names = [photo["name"] for photo in app["photos"]]
        self._kept = measurement.read_measurements(file) if file.exists() else []
        self._lock = threading.Lock()

    def accept(self, data: Any) -> List[Measurement]:
        """Check the parsed JSON of a page, and add it to the file; all of it or nothing.

        Raises:
            ArtifactError: anything is not as a page would send it.
        """
        if not isinstance(data, Mapping) or set(data) != {"schema", "results"} or data["schema"] != SCHEMA or not isinstance(data["results"], list):
            raise ArtifactError(f"{SOURCE} is not a document of schema {SCHEMA} with results", _AGAIN)
        if not 1 <= len(data["results"]) <= MOST_RESULTS:
            raise ArtifactError(f"{SOURCE} has {len(data['results'])} entries; accepted: 1 to {MOST_RESULTS}", _AGAIN)
        try:
            found = [self._read(entry) for entry in data["results"]]
        except (TypeError, ValueError, OverflowError) as error:  # lists where numbers belong, numbers of a thousand digits
            raise ArtifactError(f"{SOURCE} is not laid out as a page would send it", _AGAIN) from error
        with self._lock:
            if len(self.measurements) + len(found) > MOST_KEPT:
                raise ArtifactError(f"{MOST_KEPT} measurements came in already; no more are taken", "serve the page again")
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.file, measurement.dump([*self._kept, *self.measurements, *found]).encode())
            self.measurements += found
        return found

    def _read(self, entry: Any) -> Measurement:
        if not isinstance(entry, Mapping) or set(entry) != {"measurement", "answers"} or not isinstance(entry["measurement"], Mapping):
            raise ArtifactError(f"{SOURCE}: an entry has other parts than measurement and answers", _AGAIN)
        given = measurement.from_json(entry["measurement"], source=SOURCE)
        model = self._models.get(given.sha256) if isinstance(given.sha256, str) else None
        if model is None:
            raise ArtifactError(f"{SOURCE} is about a file that this page did not hand out", _AGAIN)
        checked = _checked(given, model)
        problem = self._problem(model, entry["answers"]) if checked.status == "ok" else None
        return checked if problem is None else dataclasses.replace(checked, status="failed", reason=f"answers differ from this machine's: {problem}", rounds=())

    def _problem(self, model: Mapping[str, Any], answers: Any) -> Optional[str]:
        """Why the answers to the golden photos are not this machine's, or None."""
        expected = [model["expected"][i] for i in self._golden]
        if not isinstance(answers, list) or len(answers) != len(expected) or not all(isinstance(row, list) and all(_is_number(p) for p in row) for row in answers):
            return "they are not one list of finite numbers for each golden photo"
        problems = compare_answers(answers, expected, names=[self._names[i] for i in self._golden], tolerance=model["tolerance"])
        return problems[0] if problems else None


def _checked(given: Measurement, model: Mapping[str, Any]) -> Measurement:
    """A measurement with our identity of the file and only such values as a page would send."""
    version = given.runtime_version or versions()[RUNTIMES[model["format"]]]
    for name, good, accepted in (
            ("runtime", given.runtime == RUNTIMES[model["format"]], RUNTIMES[model["format"]]), ("target", isinstance(given.target, str) and bool(_TARGET.fullmatch(given.target)), "browser://name"),
            ("measured_on", given.measured_on in ("real", "emulated"), "real, emulated"), ("accelerator", given.accelerator in ACCELERATORS, "null, webgpu"),
            ("threads", type(given.threads) is int and 1 <= given.threads <= MOST_THREADS, f"1 to {MOST_THREADS}"),
            ("runtime_version", isinstance(version, str) and bool(_VERSION.fullmatch(version)), "a version"),
            ("rounds", len(given.rounds) == (given.status == "ok"), "one where the status is ok, otherwise none")):
        if not good:
            raise ArtifactError(f"{SOURCE}: {name} is {_plain(getattr(given, name))!r:.80}; accepted: {accepted}", _AGAIN)
    shapes = tuple(tuple(_number(n, "input_shapes", whole=True) for n in shape) for shape in given.input_shapes[:4])
    host = _mapping(given.host, "host")
    return Measurement(file=model["file"].rpartition("/")[2], sha256=model["sha256"], format=model["format"], size_bytes=model["size_bytes"], gzip_bytes=model["gzip_bytes"], runtime=given.runtime,
                       runtime_version=version, threads=given.threads, target=given.target, measured_on="emulated" if host.get("headless") is True else given.measured_on, accelerator=given.accelerator,
                       status=given.status, reason=_text(given.reason), input_shapes=shapes, settings=_mapping(given.settings, "settings"), host=host,
                       details=_mapping(given.details, "details"), rounds=tuple(_round(one) for one in given.rounds))


def _round(given: Round) -> Round:
    if len(given.latencies_ms) > MOST_RUNS:
        raise ArtifactError(f"{SOURCE} has {len(given.latencies_ms)} latencies; accepted: at most {MOST_RUNS}", _AGAIN)
    return Round(latencies_ms=tuple(round(_number(v, "latencies_ms"), 6) for v in given.latencies_ms), import_ms=_number(given.import_ms, "import_ms"), load_ms=_number(given.load_ms, "load_ms"),
                 first_run_ms=_number(given.first_run_ms, "first_run_ms"), warmup_runs=_number(given.warmup_runs, "warmup_runs", whole=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: Any, name: str, *, whole: bool = False) -> Any:
    if not _is_number(value) or not 0 <= value <= MOST_MS or (whole and value != int(value)):
        raise ArtifactError(f"{SOURCE}: {name} is {_plain(value)!r:.80}; accepted: a {'whole ' if whole else ''}number from 0 to {MOST_MS:g}", _AGAIN)
    return int(value) if whole else value


def _mapping(value: Any, name: str) -> Dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ArtifactError(f"{SOURCE}: {name} is not an object", _AGAIN)
    return _plain(value)


def _plain(value: Any, depth: int = 0) -> Any:
    """A value cut to what a record may hold: short texts without control characters, finite numbers, few entries."""
    if value is None or isinstance(value, bool) or _is_number(value):
        return value
    if isinstance(value, str):
        return _text(value)
    if depth < MOST_DEPTH and isinstance(value, Mapping):
        return {_text(str(key)): _plain(entry, depth + 1) for key, entry in list(value.items())[:MOST_ENTRIES]}
    if depth < MOST_DEPTH and isinstance(value, Sequence):
        return [_plain(entry, depth + 1) for entry in list(value)[:MOST_ENTRIES]]
    return None


def _text(value: Any) -> Optional[str]:
    return None if value is None else _CONTROL.sub(" ", str(value))[:MOST_TEXT]
