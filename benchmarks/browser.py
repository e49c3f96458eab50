"""Does the page's measuring loop cost anything? Its median against that of onnxruntime-web's plain loop, by turns in one page of headless Chromium.

    python benchmarks/browser.py runs/flowers [--variants float32.onnx,static_wi8_ai8.onnx] [--blocks 60] [--runs 5] [--threads 1]

Ours: what the page's worker times (a tensor made of bytes, `session.run`, the output's data). Plain: `performance.now()` around `session.run(feeds)` with feeds made
beforehand, in a session of its own. Each block times one after the other, in alternating order, so that whatever disturbs the machine disturbs both.
"""
from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))

from chromium import Chromium, Page  # noqa: E402

from edgepress.browser.serving import serving  # noqa: E402
from edgepress.statistics import median_interval  # noqa: E402

BAR = 0.10
LOOP = """(async () => {
    const {measure} = await import('./measure.js'), {feedPixels} = await import('./feeding.js'), library = await import('./onnxruntime.js');
    const app = await (await fetch('app.json')).json(), model = app.models.find(one => one.variant === VARIANT), spec = model.spec;
    const bytes = new Uint8Array(await (await fetch(model.file)).arrayBuffer());
    const ours = await (await library.load({threads: THREADS, accelerator: null})).open(bytes);
    const ort = await import('./packages/onnxruntime-web/ort.wasm.min.mjs'), plain = await ort.InferenceSession.create(bytes, {executionProviders: ['wasm'], graphOptimizationLevel: 'all'});
    const shape = spec.layout === 'nchw' ? [1, spec.channels, spec.input_height, spec.input_width] : [1, spec.input_height, spec.input_width, spec.channels];
    const pool = Array.from({length: 16}, (_, seed) => feedPixels(Uint8Array.from({length: spec.input_height * spec.input_width * 3}, (_, i) => (i * 2654435761 + seed * 97) >>> 24), ours.input, spec));
    const feeds = pool.map(array => ({[plain.inputNames[0]]: new ort.Tensor(ours.input.dtype, array, shape)}));
    const settings = {min_runs: RUNS, min_seconds: 0, max_seconds: 60, warmup_seconds: 0};
    const turns = {
        ours: async () => (await measure(number => ours.run(pool[number % 16], shape), settings)).latencies_ms,
        plain: async () => {
            const latencies = [];
            for (let i = 0; i < 2; i++) await plain.run(feeds[i]);
            for (let number = 0; number < RUNS; number++) {
                const start = performance.now();
                await plain.run(feeds[number % 16]);
                latencies.push(performance.now() - start);
            }
            return latencies;
        },
    };
    const blocks = [];
    for (let block = 0; block < BLOCKS; block++) {
        const found = {};
        for (const name of block % 2 ? ['plain', 'ours'] : ['ours', 'plain']) found[name] = await turns[name]();
        blocks.push(found);
    }
    return blocks;
})()"""


def compare(page: Page, variant: str, arguments: argparse.Namespace) -> Dict[str, Any]:
    """Medians of both loops and of the ratios of blocks."""
    code = LOOP.replace("VARIANT", json.dumps(variant)).replace("THREADS", str(arguments.threads)).replace("BLOCKS", str(arguments.blocks)).replace("RUNS", str(arguments.runs))
    blocks: List[Dict[str, List[float]]] = page.run(code, seconds=600)
    ratios = sorted(statistics.median(block["ours"]) / statistics.median(block["plain"]) for block in blocks)
    pooled = {name: statistics.median(value for block in blocks for value in block[name]) for name in ("ours", "plain")}
    low, high = median_interval(ratios) or (ratios[0], ratios[-1])
    return {"variant": variant, "threads": arguments.threads, "ours_ms": round(pooled["ours"], 4), "plain_ms": round(pooled["plain"], 4), "blocks": len(blocks),
            "median_ratio": round(statistics.median(ratios), 4), "interval_95": [round(low, 4), round(high, 4)], "within_bar": abs(statistics.median(ratios) - 1) <= BAR}


def main() -> None:
    """Print one JSON document per variant, and fail where the bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--variants", default="float32.onnx,static_wi8_ai8.onnx")
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--runs", type=int, default=5, help="of one turn: short, so that a busy machine disturbs both alike")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    chromium, results = Chromium(), []
    try:
        with tempfile.TemporaryDirectory() as out, serving(arguments.source, out=Path(out)) as served:
            for variant in arguments.variants.split(","):
                page = chromium.page(served.urls[0])
                page.wait("!document.getElementById('start').disabled")
                results.append(compare(page, variant, arguments))
                page.close()
                print(json.dumps(results[-1]), flush=True)
    finally:
        chromium.close()
    sys.exit(not all(result["within_bar"] for result in results))


if __name__ == "__main__":
    main()
