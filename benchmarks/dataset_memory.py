"""Does the dataset stage's memory grow with the number of photos? Makes small JPEGs, runs the stage on them in a fresh process, prints peak RSS and time.

    python benchmarks/dataset_memory.py --images 20000        # text; --json for one JSON document
"""
from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict

CLASSES = 10
BAR_BYTES = 1_000_000_000
BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024


def make_photos(folder: Path, count: int, size: int) -> None:
    """`count` different JPEG files of `size` x `size` pixels in class folders."""
    import numpy as np
    from PIL import Image

    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        file = folder / f"class {i % CLASSES}" / f"{i:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(file, quality=90)


def run_stage_here(photos: Path, out: Path) -> Dict[str, Any]:
    """The stage in this process, timed; peak RSS of the whole process."""
    from edgepress.recipe import DatasetConfig
    from edgepress.stages.dataset import dataset

    started = time.perf_counter()
    dataset(out, images=photos, config=DatasetConfig())
    seconds = time.perf_counter() - started
    facts = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    return {"images": facts["images"], "splits": facts["splits"], "near_duplicates": facts["near_duplicates"], "seconds": round(seconds, 2),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_MAXRSS}


def measure(count: int, size: int, work: Path) -> Dict[str, Any]:
    """One count: photos made here, the stage run in a fresh process."""
    photos, out = work / f"photos-{count}", work / f"out-{count}"
    make_photos(photos, count, size)
    out.mkdir()
    answer = subprocess.run([sys.executable, __file__, "--stage", str(photos), str(out)], check=True, stdout=subprocess.PIPE)
    return json.loads(answer.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=64, help="side of a photo in pixels")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stage", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        print(json.dumps(run_stage_here(*arguments.stage)))
        return 0
    with tempfile.TemporaryDirectory(prefix="dataset-memory-") as work:
        few, many = (measure(count, arguments.size, Path(work)) for count in (arguments.images // 10, arguments.images))
    more = (many["peak_rss_bytes"] - few["peak_rss_bytes"]) / (many["images"] - few["images"])
    result = {"few": few, "many": many, "bytes_per_photo": round(more), "bar_bytes": BAR_BYTES, "pass": many["peak_rss_bytes"] < BAR_BYTES}
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        for row in (few, many):
            print(f"{row['images']:6} photos: peak RSS {row['peak_rss_bytes'] / 1e6:5.0f} MB, {row['seconds']:6.1f} s ({row['images'] / row['seconds']:.0f} photos/s)")
        print(f"each further photo costs {more / 1000:.1f} kB; bar {BAR_BYTES / 1e6:.0f} MB: {'met' if result['pass'] else 'MISSED'}")
    return 0 if result["pass"] else 1


if __name__ == "__main__":
    sys.exit(main())
