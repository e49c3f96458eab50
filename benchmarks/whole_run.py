"""Seconds of a whole `edgepress run` on photos, and of the same command again.

    python benchmarks/whole_run.py --photos PHOTOS --weights WEIGHTS.h5 [--work DIR]
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("edgepress"))
BARS = {"first": 240, "second": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="run folder that must not exist yet [default: a temporary one]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.work or Path(temporary) / "run"
        words = [COMMAND, "run", str(options.photos), "-o", str(out), "--strategy", "head", "--weights", str(options.weights), "--max-drop", "3"]
        result = {}
        for name in BARS:
            started = time.monotonic()
            subprocess.run(words, check=True, stdout=sys.stderr)
            result[name] = round(time.monotonic() - started, 1)
        steps = json.loads((out / "run.json").read_text())["steps"]
        report = json.loads((out / "report" / "report.json").read_text())
        result["files"] = len(report["rows"])
        result["seconds_of_steps_the_second_time"] = round(sum(step["seconds"] for step in steps), 1)
    print(json.dumps({"bars": BARS, **result}, indent=1))
    sys.exit(4 if any(result[name] > bar for name, bar in BARS.items()) or result["files"] < 10 else 0)


if __name__ == "__main__":
    main()
