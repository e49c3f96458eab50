"""Power cuts, full disks and broken disks at the writes, fsyncs and renames of a stage: nothing half-written is ever taken for finished."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import fault_injection
import numpy as np
import pytest

from edgepress.artifact import RECORD, digest_file, read_record
from edgepress.errors import ArtifactError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(fault_injection.unavailable() is not None, reason=str(fault_injection.unavailable()))]

# A stage that writes in the ways stages do: a plain file, one in a folder, one atomic; the real run_stage publishes it.
STAND_IN = """
import sys
from pathlib import Path
from edgepress.artifact import run_stage, write_atomic, write_json
from edgepress.errors import EdgepressError
from edgepress.recipe import ReportConfig
from edgepress.stages import Input, Stage

def write(stage, out, inputs, config):
    (out / "deep").mkdir()
    (out / "deep" / "data.bin").write_bytes(bytes(range(256)) * 40)
    with open(out / "lines.txt", "w") as file:
        for number in range(3000):
            file.write(f"{config.title} {number}\\n")
    write_json(out / "facts.json", {"title": config.title})
    write_atomic(out / "atomic.bin", b"x" * 100)

stage = Stage("stand_in", "A stage for tests.", ReportConfig, (Input("source", "a file"),))
try:
    print(run_stage(stage, inputs={"source": Path(sys.argv[1])}, config=ReportConfig(title=sys.argv[3]), out=Path(sys.argv[2]), call=write))
except EdgepressError as error:
    sys.exit(f"Error: {error}")
"""
# What run_stage must not be: files written one after the other under their final names. The tests below must catch it.
NAIVE = """
import sys
from pathlib import Path
import json
out = Path(sys.argv[2])
out.mkdir(exist_ok=True)
(out / "artifact.json").write_text(json.dumps({"schema": 1, "stage": "stand_in", "key": "0", "files": {
    "a.bin": {"sha256": "", "size_bytes": 20000}, "b.bin": {"sha256": "", "size_bytes": 20000}}}))
for name in ("a.bin", "b.bin"):
    (out / name).write_bytes(b"x" * 20000)
"""
REPLACE_FILE = """
import sys
from pathlib import Path
from edgepress.artifact import write_json
write_json(Path(sys.argv[2]), {"steps": [sys.argv[3]] * 5000})
"""
WORDS = {"full disk": ("disk is full", "No space left on device"), "broken disk": ("input/output error", "Input/output error")}
# The dataset stage on real (tiny) photos, as the command line runs it.
DATASET = """
import sys
from pathlib import Path
from edgepress.artifact import run_stage
from edgepress.errors import EdgepressError
from edgepress.pipeline import digest_input
from edgepress.recipe import DatasetConfig
from edgepress.stages import STAGES

photos, out = Path(sys.argv[1]).parent / "photos", Path(sys.argv[2])
try:
    print(run_stage(STAGES["dataset"], inputs={"images": photos}, config=DatasetConfig(), out=out, digest=lambda path: digest_input(path, cache=out.parent / ".cache")))
except EdgepressError as error:
    sys.exit(f"Error: {error}")
"""
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


class Bench:
    """One stage in one folder: run it, break it, look at what is left."""

    def __init__(self, folder: Path, script: str = STAND_IN) -> None:
        self.work, self.source, self.out = folder / "work", folder / "source.txt", folder / "work" / "artifact"
        self.source.write_text("source")
        self.script = folder / "stage.py"
        self.script.write_text(script)

    def command(self, title: str = "new") -> List[str]:
        return [sys.executable, str(self.script), str(self.source), str(self.out), title]

    def run(self, title: str = "new") -> subprocess.CompletedProcess:
        return subprocess.run(self.command(title), capture_output=True, text=True, env=ENVIRONMENT)

    def reset(self, *, older: bool) -> None:
        """An empty work folder, or one that holds the artifact of an older config."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        if older:
            assert self.run("old").returncode == 0

    def contents(self) -> Dict[str, str]:
        """Digest of each file of the artifact except its record, which holds times."""
        return {path.relative_to(self.out).as_posix(): digest_file(path) for path in sorted(self.out.rglob("*")) if path.is_file() and path.name != RECORD}

    def check_nothing_half_written(self) -> None:
        """Under the final name is a whole artifact or nothing."""
        if self.out.exists():
            files = read_record(self.out)["files"]
            assert {name: facts["sha256"] for name, facts in files.items()} == self.contents()

    def check_rerun(self, expected: Dict[str, str]) -> None:
        """The same command again gives the same result and leaves no traces of the accident."""
        done = self.run()
        assert done.returncode == 0, done.stderr
        assert self.contents() == expected
        assert [path.name for path in self.work.iterdir() if path.name != ".cache"] == [self.out.name]


@pytest.fixture(scope="module", params=[False, True], ids=["fresh", "replacing"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(bench, whether an older artifact is there, its writing calls, the contents of an undisturbed run)."""
    bench = Bench(tmp_path_factory.mktemp("faults"))
    bench.reset(older=request.param)
    calls = fault_injection.record(bench.command(), inside=bench.work, environment=ENVIRONMENT)
    kinds = {call.name for call in calls}
    assert {"write", "fsync", "openat"} <= kinds and any(kind.startswith("rename") for kind in kinds)  # the method sees what it should
    return bench, request.param, calls, bench.contents()


@pytest.mark.parametrize("fault", fault_injection.FAULTS)
def test_no_fault_leaves_anything_half_written(scene, fault: str) -> None:
    bench, older, calls, expected = scene
    for call in fault_injection.sample(calls, 14):
        bench.reset(older=older)
        assert strike(bench, call, fault), f"the fault did not strike: {call}"
        bench.check_rerun(expected)


def strike(bench: Bench, call: fault_injection.Call, fault: str) -> bool:
    """Run into one fault, check what is left and what was said; whether it struck."""
    done = fault_injection.inject(bench.command(), call, fault, environment=ENVIRONMENT)
    where = f"{fault} at {call.name} {call.index}: {call.text}\n{done.stderr}"
    bench.check_nothing_half_written()
    if fault == "kill":
        assert done.returncode in (0, -9, 137), where
    elif done.returncode:
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("Error: ") and "Traceback" not in done.stderr, where
        assert any(words in done.stderr for words in WORDS[fault]), where
    return done.returncode != 0


def test_the_dataset_stage_survives_every_fault(tmp_path: Path) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    for label in ("day", "night"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(tmp_path / "photos" / label / f"{number}.png")
    bench = Bench(tmp_path, DATASET)
    bench.reset(older=False)
    calls = fault_injection.record(bench.command(), inside=bench.work, environment=ENVIRONMENT)
    expected, struck = bench.contents(), []
    for number, call in enumerate(fault_injection.sample(calls, 12)):
        bench.reset(older=False)
        struck.append(strike(bench, call, list(fault_injection.FAULTS)[number % 3]))
        bench.check_rerun(expected)
    assert sum(struck) > len(struck) / 2  # a few land in a thread that did not get that far this time


def test_the_method_catches_a_stage_that_writes_in_place(tmp_path: Path) -> None:
    bench = Bench(tmp_path, NAIVE)
    bench.reset(older=False)
    calls = fault_injection.record(bench.command(), inside=bench.work, environment=ENVIRONMENT)
    second_file = next(call for call in calls if call.name == "openat" and "b.bin" in call.text)
    bench.reset(older=False)
    fault_injection.inject(bench.command(), second_file, "kill", environment=ENVIRONMENT)
    with pytest.raises(ArtifactError, match="b.bin is missing"):
        bench.check_nothing_half_written()


@pytest.mark.parametrize("fault", fault_injection.FAULTS)
def test_a_file_that_is_replaced_is_always_the_old_or_the_new_one(tmp_path: Path, fault: str) -> None:
    bench = Bench(tmp_path, REPLACE_FILE)
    bench.reset(older=True)
    old = bench.out.read_bytes()
    calls = fault_injection.record(bench.command(), inside=bench.work, environment=ENVIRONMENT)
    new = bench.out.read_bytes()
    outcomes = set()
    for call in calls:
        bench.reset(older=True)
        fault_injection.inject(bench.command(), call, fault, environment=ENVIRONMENT)
        assert bench.out.read_bytes() in (old, new), call
        outcomes.add(bench.out.read_bytes())
        if fault != "kill":
            assert [path.name for path in bench.work.iterdir()] == [bench.out.name], call  # a failure cleans up after itself
    assert outcomes == {old, new}  # before the rename the old one, after it the new one
