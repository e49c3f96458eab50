"""How long help takes, against a bare start of Python: interleaved, the fastest of each.

    python benchmarks/startup.py [--runs 40]
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from edgepress.cli import cli

COMMAND = str(Path(sys.executable).with_name("edgepress"))
BAR = 2.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    runs = parser.parse_args().runs
    cases = {"python -c pass": [sys.executable, "-c", "pass"], "edgepress --help": [COMMAND, "--help"],
             **{f"edgepress {name} -h": [COMMAND, name, "-h"] for name in sorted(cli.commands)}}
    fastest = dict.fromkeys(cases, float("inf"))
    for _ in range(runs):
        for name, command in cases.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            fastest[name] = min(fastest[name], time.perf_counter() - started)
    bare = fastest["python -c pass"]
    rows = [{"command": name, "milliseconds": round(1000 * seconds, 1), "ratio": round(seconds / bare, 2)} for name, seconds in fastest.items()]
    print(json.dumps({"bar": BAR, "worst_ratio": max(r["ratio"] for r in rows), "rows": rows}, indent=1))
    sys.exit(4 if max(r["ratio"] for r in rows) > BAR else 0)


if __name__ == "__main__":
    main()
