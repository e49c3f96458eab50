"""Measuring by turns: blocks of all cases in changing order, one dying or hanging child spoils nothing, no process is left behind."""
from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edgepress import interleave, sitting
from edgepress.artifact import digest_file
from edgepress.device_use import LOCAL
from edgepress.errors import JobError
from edgepress.interleave import run_interleaved
from edgepress.recipe import BenchmarkConfig
from edgepress.sitting import Case, measure_cases, settings_of
from edgepress.targets import connect
from edgepress.targets.local import LocalConnection
from edgepress.turns import groups

DATA = Path(__file__).parent / "data"

# A child that speaks the protocol and writes down when it had its turn. argv: name, log, where it misbehaves.
CHILD = """
import json, os, sys, time
name, log, trouble = sys.argv[1:4]
def say(**words):
    print(json.dumps(words), flush=True)
say(state="imported")
for line in sys.stdin:
    order = line.split()
    with open(log, "a") as file:
        file.write(f"{name} {order[0]}\\n")
    if order[0] == trouble:
        os.abort() if name == "dies" else time.sleep(60)
    say(**({"state": "result", "result": {"status": "ok", "name": name}} if order[0] == "end" else {"state": order[0]}))
"""


def fake_job(folder: Path, *cases: tuple, blocks: int = 4, **rest: Any) -> Dict[str, Any]:
    child = folder / "child.py"
    child.write_text(CHILD)
    made = [{"command": [sys.executable, str(child), name, str(folder / "log"), trouble], "job": {}, "environment": {}} for name, trouble in cases]
    return {"cases": made, "blocks": blocks, "block_seconds": 0.01, "block_runs": 1, "case_seconds": 10.0, "seed": 0, **rest}


def lines(folder: Path) -> List[str]:
    return (folder / "log").read_text().splitlines()


def test_every_round_has_every_case_once_in_changing_order(tmp_path: Path) -> None:
    results = run_interleaved(fake_job(tmp_path, ("a", ""), ("b", ""), ("c", ""), blocks=12), tmp_path)["results"]
    assert [r["name"] for r in results] == ["a", "b", "c"]
    turns_taken = [line.split()[0] for line in lines(tmp_path) if line.endswith("block")]
    rounds = ["".join(turns_taken[i:i + 3]) for i in range(0, len(turns_taken), 3)]
    assert len(rounds) == 12 and all(sorted(r) == ["a", "b", "c"] for r in rounds) and len(set(rounds)) > 2
    assert [line for line in lines(tmp_path) if line.endswith("open")][:3] == lines(tmp_path)[:3]  # nobody measures while another opens its file


def test_a_child_that_dies_is_a_failure_of_its_own(tmp_path: Path) -> None:
    bad, good = run_interleaved(fake_job(tmp_path, ("dies", "block"), ("b", "")), tmp_path)["results"]
    assert bad["status"] == "failed" and "SIGABRT" in bad["reason"] and good["status"] == "ok"


@pytest.mark.slow
def test_a_child_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleave, "OPEN_SECONDS", 2.0)
    started = time.monotonic()
    bad, good = run_interleaved(fake_job(tmp_path, ("hangs", "open"), ("b", "")), tmp_path)["results"]
    assert "did not answer within 2 s" in bad["reason"] and good["status"] == "ok" and time.monotonic() - started < 30


def test_slow_files_have_fewer_blocks(tmp_path: Path) -> None:
    run_interleaved(fake_job(tmp_path, ("a", ""), blocks=5, case_seconds=0.0), tmp_path)
    assert sum(line.endswith("block") for line in lines(tmp_path)) == 1


def test_a_child_whose_parent_is_gone_ends(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text('{"schema": 1, "job": "benchmark", "runtime": "litert", "model": "%s", "sha256": "%s", "threads": 1}' % (DATA / "tiny_int8.tflite", digest_file(DATA / "tiny_int8.tflite")))
    import subprocess

    done = subprocess.run([sys.executable, "-m", "edgepress.worker", "--serve", str(job)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 1 and b"imported" in done.stdout and b"result" not in done.stdout


def a_case(**facts: Any) -> Case:
    return Case(**{"file": DATA / "tiny_int8.tflite", "sha256": digest_file(DATA / "tiny_int8.tflite"), "size_bytes": 1, "gzip_bytes": 1, "runtime": "litert", "threads": 1, **facts})


def test_groups_fit_into_memory() -> None:
    assert [len(g) for g in groups(10, 24 << 30)] == [10] and [len(g) for g in groups(5, 1 << 30)] == [2, 2, 1] and list(groups(0, None)) == []
    assert sum(len(g) for g in groups(33, 4 << 30)) == 33


def test_efforts() -> None:
    quick, normal, long = (settings_of(BenchmarkConfig(effort=e)) for e in ("quick", "normal", "long"))  # type: ignore[arg-type]
    assert long["min_runs"] >= 1024 and long["min_seconds"] >= 60 and quick["min_seconds"] < normal["min_seconds"] < long["min_seconds"] and quick["rounds"] < normal["rounds"]
    assert settings_of(BenchmarkConfig(min_runs=7))["min_runs"] == 7


@pytest.mark.parametrize(("spread", "rounds"), [(0.0, 4), (0.5, 14)])
def test_it_ends_when_the_ratio_is_known_or_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float, rounds: int) -> None:
    """A clock that says one second a round: steady files are known to 1 % after the fewest rounds, wild ones take all the time there is."""
    clock, made = [0.0], [0]

    def by_turns(jobs: Any, *args: Any, **rest: Any) -> List[Dict[str, Any]]:
        clock[0] += 1.0
        made[0] += 1
        state = {"load_average": None, "temperature_c": None, "clock_mhz": None}
        return [{"status": "ok", "latencies_ms": [1.0 + spread * (made[0] % 2) * number] * 8, "block_runs": [1] * 8, "import_ms": 1.0, "load_ms": 1.0, "first_run_ms": 1.0, "warmup_runs": 1, "state": state,
                 "state_after": state, "details": {}, "input_shapes": [[1, 2]], "host": {}} for number, _ in enumerate(jobs)]
    monkeypatch.setattr(sitting, "measure_by_turns", by_turns)
    monkeypatch.setattr(sitting.time, "monotonic", lambda: clock[0])
    one, other = measure_cases([a_case(role="a"), a_case(role="b")], BenchmarkConfig(max_seconds=7.0), connection=connect(LOCAL), work=tmp_path)
    assert len(one.rounds) == len(other.rounds) == rounds


@pytest.mark.slow
def test_a_round_that_is_lost_is_tried_case_by_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sitting.measure_by_turns

    def by_turns(jobs: Any, *args: Any, **rest: Any) -> List[Dict[str, Any]]:
        if any(job["threads"] == 2 for job in jobs):
            raise JobError("the board went away")
        return real(jobs, *args, **rest)
    monkeypatch.setattr(sitting, "measure_by_turns", by_turns)
    config = BenchmarkConfig(effort="quick", min_runs=8, min_seconds=0.0, max_seconds=0.1, warmup_seconds=0.0)
    good, bad = measure_cases([a_case(), a_case(threads=2)], config, connection=connect(LOCAL), work=tmp_path)
    assert good.status == "ok" and bad.status == "failed" and bad.reason == "the board went away" and not list(tmp_path.iterdir())


class Elsewhere(LocalConnection):
    """A place whose files lie elsewhere, as on a device."""

    address = "elsewhere"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = 0

    def push(self, path: Path) -> str:
        to = self.root / "store" / digest_file(path)[:12] / Path(path).name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        return str(to)

    def make_folder(self, folder: Path) -> str:
        self.folders += 1
        (self.root / f"job-{self.folders}").mkdir(parents=True)
        return str(self.root / f"job-{self.folders}")


@pytest.mark.slow
def test_it_works_where_files_lie_elsewhere(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    config = BenchmarkConfig(effort="quick", min_runs=8, min_seconds=0.0, max_seconds=0.1, warmup_seconds=0.0)
    one, other = measure_cases([a_case(role="a"), a_case(role="b")], config, connection=Elsewhere(there), work=here)
    assert one.status == other.status == "ok" and not list(here.iterdir()) and [p.name for p in there.iterdir()] == ["store"]


def test_no_process_is_left(tmp_path: Path) -> None:
    before = {int(p) for p in os.listdir("/proc") if p.isdigit()} if Path("/proc").is_dir() else set()
    run_interleaved(fake_job(tmp_path, ("a", ""), ("b", "")), tmp_path)
    left = {pid for pid in ({int(p) for p in os.listdir("/proc") if p.isdigit()} - before if before else set()) if str(tmp_path).encode() in _command(pid)}
    assert not left


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
