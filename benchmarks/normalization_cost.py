"""What normalisation inside the graph costs a static int8 file: the same network with the pixels' way in made three ways, timed in turns.

    python benchmarks/normalization_cost.py [FLOAT_FILE …] [--runs 400] [--json FILE]

    bare      int8 (TFLite) or uint8 (ONNX) activations come in as the first convolution wants them: no normalisation at all
    folded    what `edgepress quantize` ships: uint8 pixels, normalisation in the weights of the first convolution
    floats    uint8 pixels, normalised by float operators (CAST, MUL, ADD, QUANTIZE)

Bar: folded costs at most 3 % more than bare (one thread, smallest time of many interleaved runs). Exit code 4 where it is missed. Without a
file, a MobileNetV2 1.0 at 224 × 224 with random weights is made. Activation ranges are measured on noise: only the time matters here.
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np

from edgepress import flatbuffer, profiles
from edgepress.quantizers import Request, input_folding_onnx, static, static_tflite
from edgepress.quantizers import onnx as onnx_quantizer
from edgepress.quantizers import tflite as tflite_quantizer
from edgepress.quantizers.calibration import Feeds
from edgepress.quantizers.samples import Samples

BAR_PERCENT = 3.0


def random_samples(info: Any) -> Samples:
    """Noise in the shape of the input."""
    shape = (4, *(1 if size < 1 else size for size in info.shape[1:]))
    return Samples(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), "tensors", (), None)


def tflite_variants(data: bytes) -> Dict[str, bytes]:
    """bare, folded and floats of a float TFLite file."""
    model = flatbuffer.parse_model(data)
    request = Request("static_wi8_ai8", random_samples)
    made = {}
    for name, fold in (("folded", True), ("floats", False)):
        _, prepared = static_tflite.prepare_file(model, request, fold=fold)
        folded = prepared.folded is not None
        recipe = tflite_quantizer.make_recipe("static_wi8_ai8", keep_float=static_tflite.keep_float(prepared.model), integer_input=folded)
        quantized = tflite_quantizer.apply_recipe(flatbuffer.pack_model(prepared.model), recipe=recipe, ranges=prepared.ranges)
        if folded:
            made["bare"] = flatbuffer.pack_model(quantized)
        made[name], _ = static_tflite.finish(quantized, prepared)
    return made


def onnx_variants(data: bytes) -> Dict[str, bytes]:
    """bare, folded and floats of a float ONNX file; bare takes the transposed pixels."""
    source = onnx_quantizer.load_model(data)
    info = onnx_quantizer.input_info(source)
    target = profiles.find(None, "onnx")
    made = {}
    for name, fold in (("folded", True), ("floats", False)):
        prepared = static.prepare(source, random_samples(info).feeds(info), onnx_quantizer.FORM, method="minmax", fold=fold)
        kept = [node.name for node in onnx_quantizer.final_nodes(prepared.model)] + ([] if prepared.folded else onnx_quantizer.prefix_nodes(prepared.model))
        fused = {name: prepared.ranges[reader] for name, reader in onnx_quantizer.calibration.fused_activations(prepared.model.graph).items()}
        model = onnx_quantizer.quantize_static(prepared.model, ranges={**fused, **prepared.ranges}, keep_float=kept, per_channel=True,
                                               signed_activations=target.signed_activations, reduce_range=target.reduce_range)
        onnx_quantizer.keep_logits_float(model)
        if prepared.folded:
            input_folding_onnx.attach_uint8_input(model, source, prepared.folded)
            made["bare"] = _without_transpose(model)
        made[name] = onnx_quantizer.finish(model, source)
    return made


def _without_transpose(model: Any) -> bytes:
    bare = type(model).FromString(model.SerializeToString())
    node = bare.graph.node[0]
    if node.op_type != "Transpose":
        return bare.SerializeToString()
    dims = [d.dim_value for d in bare.graph.input[0].type.tensor_type.shape.dim]
    order = list(node.attribute[0].ints)
    for dim, axis in zip(bare.graph.input[0].type.tensor_type.shape.dim, order):
        dim.dim_value = dims[axis]
    bare.graph.input[0].name = node.output[0]
    del bare.graph.node[0]
    return bare.SerializeToString()


def runner(data: bytes, form: str) -> Callable[[], None]:
    """A function that runs the file once on one thread with an input that stays in place."""
    if form == "tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        return interpreter.invoke
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options)
    given = session.get_inputs()[0]
    feed = {given.name: np.zeros(given.shape, np.uint8 if "uint8" in given.type else np.float32)}
    return lambda: session.run(None, feed)


def smallest_times(runners: Dict[str, Callable[[], None]], runs: int) -> Dict[str, float]:
    """Milliseconds of the fastest run of each, in turns so that a busy machine hits all alike."""
    best = {name: float("inf") for name in runners}
    for _ in range(runs):
        for name, run in runners.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], 1000 * (time.perf_counter() - started))
    return best


def default_files(folder: Path) -> List[Path]:
    """MobileNetV2 1.0 224 with random weights in both formats."""
    from edgepress.modelspec import NORMALIZATIONS, ModelSpec, to_json
    from edgepress.recipe import ConvertConfig
    from edgepress.stages.convert import convert
    from edgepress.tf import import_tensorflow

    _, keras = import_tensorflow()
    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2((224, 224, 3), include_top=False, pooling="avg", weights=None)
    keras.Model(base.input, keras.layers.Softmax(name="probabilities")(keras.layers.Dense(5, name="logits")(base.output))).save(folder / "model.keras")
    scale, offset = NORMALIZATIONS["-1..1"]
    spec = ModelSpec(labels=tuple("abcde"), input_height=224, input_width=224, scale=scale, offset=offset, backbone="mobilenet_v2_1.0_224")
    (folder / "model.json").write_text(to_json(spec), encoding="utf-8")
    (folder / "out").mkdir()
    convert(folder / "out", model=folder, config=ConvertConfig())
    return [folder / "out" / "model.tflite", folder / "out" / "model.onnx"]


def main() -> int:
    """Print the table; 4 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files or default_files(Path(folder)):
            form = file.suffix[1:]
            variants = {"tflite": tflite_variants, "onnx": onnx_variants}[form](file.read_bytes())
            best = smallest_times({name: runner(data, form) for name, data in variants.items()}, options.runs)
            cost = {name: 100 * (best[name] / best["bare"] - 1) for name in best}
            rows.append({"file": file.name, "smallest_ms": best, "cost_percent": cost, "met": cost["folded"] <= BAR_PERCENT})
    print("| file | bare, ms | folded, ms | floats, ms | folded costs | floats cost | bar 3 % |\n|---|---:|---:|---:|---:|---:|---|")
    for row in rows:
        best, cost = row["smallest_ms"], row["cost_percent"]
        print(f"| {row['file']} | {best['bare']:.3f} | {best['folded']:.3f} | {best['floats']:.3f} | {cost['folded']:+.1f} % | {cost['floats']:+.1f} % | {'met' if row['met'] else 'MISSED'} |")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "bar_percent": BAR_PERCENT}, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row["met"] for row in rows) else 4


if __name__ == "__main__":
    sys.exit(main())
