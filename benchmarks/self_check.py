"""How often does a file seem faster or slower than itself? A/A self-checks, with a machine at rest or with one core kept busy.

    python benchmarks/self_check.py [FILE] [--times 100] [--busy-cores 0] [--json FILE]

Bar: at most 5 % false verdicts, idle and with --busy-cores 1. Exit code 4 where it is missed. About 4 s each on two cores. Without a file, a small one
of the tests is measured.
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import List

from edgepress.comparing import self_check
from edgepress.recipe import BenchmarkConfig

BAR = 0.05
CONFIG = BenchmarkConfig(effort="quick", threads=(1,), min_seconds=0.9, max_seconds=1.0, warmup_seconds=0.05)


def busy(cores: int) -> List[subprocess.Popen]:
    """Processes that keep a core busy each, until they are killed."""
    return [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]


def main() -> int:
    """Print one line per check and the share of false verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--busy-cores", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    file = given.file or default_file()
    load, started, rows = busy(given.busy_cores), time.monotonic(), []
    try:
        for number in range(given.times):
            one, _, ratio = self_check(file, CONFIG)
            rows.append({"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "verdict": ratio.verdict, "others_share": max(r.others_share or 0.0 for r in one.rounds)})
            print(f"{number + 1:3} {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}] {ratio.verdict}", flush=True)
    finally:
        for process in load:
            process.kill()
            process.wait()
    return report(file, rows, given, seconds=time.monotonic() - started)


def report(file: Path, rows: list, given: argparse.Namespace, *, seconds: float) -> int:
    """Print the figures; the exit code."""
    false = sum(row["verdict"] != "can't tell" for row in rows)
    result = {"file": file.name, "times": len(rows), "busy_cores": given.busy_cores, "false": false, "share": false / len(rows), "bar": BAR, "seconds": round(seconds, 1),
              "spread_of_ratios": statistics.stdev(r["ratio"] for r in rows) if len(rows) > 1 else None, "median_half_width": statistics.median((r["high"] / r["low"]) ** 0.5 - 1 for r in rows),
              "others_share": statistics.median(r["others_share"] for r in rows)}
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0 if result["share"] <= BAR else 4


def default_file() -> Path:
    """A file of the tests: every checkout has it."""
    return Path(__file__).resolve().parents[1] / "tests" / "data" / "tiny_float.tflite"


if __name__ == "__main__":
    sys.exit(main())
