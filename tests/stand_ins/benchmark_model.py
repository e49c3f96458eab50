"""STAND-IN for Google's benchmark_model, for tests only: the same flags and the same output, but Python and LiteRT inside.

It really runs the file it is given. `STYLE` (last line of the copy that a test makes) is classic or block; block has no --output_filepath, as the newer tool.
"""
import struct
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def flags(arguments):
    found = {"num_threads": "1", "num_runs": "50", "min_secs": "1", "max_secs": "150", "warmup_runs": "1"}
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        found[name] = value
    return found


def field(number, value):
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    return bytes([number << 3 | 5]) + struct.pack("<f", value) if isinstance(value, float) else bytes([number << 3]) + varint(value)


def varint(value):
    data = b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])


def time_runs(interpreter, runs, seconds):
    latencies, begin = [], time.perf_counter()
    while len(latencies) < runs or time.perf_counter() - begin < seconds:
        start = time.perf_counter_ns()
        for _ in range(100):  # the tests' files take microseconds, which the newer tool prints as 0.00 ms
            interpreter.invoke()
        latencies.append((time.perf_counter_ns() - start) // 1000 or 1)
    return latencies


def main(style, broken):
    given = flags(sys.argv[1:])
    start = time.perf_counter()
    interpreter = Interpreter(model_path=given["graph"], num_threads=int(given["num_threads"]))
    interpreter.allocate_tensors()
    init = (time.perf_counter() - start) * 1e6
    info, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    data = np.random.default_rng(0).integers(0, 255, info["shape"]).astype(info["dtype"])
    if "input_layer_value_files" in given and style == "classic":
        path = given["input_layer_value_files"].partition(":")[2].replace("::", ":")
        data = np.fromfile(path, info["dtype"]).reshape(info["shape"])
    interpreter.set_tensor(info["index"], data)
    warm = time_runs(interpreter, max(int(given["warmup_runs"]), 1), 0)
    runs = time_runs(interpreter, int(given["num_runs"]), float(given["min_secs"]))
    ms = [value / 1e3 for value in sorted(runs)]
    middle, average = ms[len(ms) // 2], sum(ms) / len(ms)
    if style == "classic":
        print("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.", file=sys.stderr)
        if given.get("use_gpu") == "true" and "no_gpu" not in broken:
            print("Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.", file=sys.stderr)
        print(f"count=1 curr={warm[0]}", file=sys.stderr)
        print(f"count={len(runs)} first={runs[0]} curr={runs[-1]} min={min(runs)} max={max(runs)} avg={average * 1e3:.6g} std=7 p5={ms[0] * 1e3:.0f} median={middle * 1e3:.0f} p95={ms[-1] * 1e3:.0f}", file=sys.stderr)
        print(f"Inference timings in us: Init: {init:.0f}, First inference: {warm[0]}, Warmup (avg): {warm[0]}, Inference (avg): {average * 1e3:.6g}", file=sys.stderr)
    else:
        print(f"\n========== BENCHMARK RESULTS ==========\nModel initialization: {init / 1e3:.2f} ms\nWarmup (first):       {warm[0] / 1e3:.2f} ms\nWarmup (avg):         {warm[0] / 1e3:.2f} ms (1 runs)\n"
              f"Inference (avg):      {average:.2f} ms ({len(runs)} runs)\nInference (min):      {ms[0]:.2f} ms\nInference (max):      {ms[-1]:.2f} ms\nInference (std):      0.01\n"
              "Throughput:           1.00 MB/s\n======================================\n", file=sys.stderr)
    if "result_file_path" in given and "no_file" not in broken:
        said = average * (3 if "stale" in broken else 1)
        latency = b"".join(field(n, float(v)) for n, v in enumerate((said, ms[0], max(ms[-1], said), 0.01, middle, ms[0], ms[-1], init / 1e3, warm[0] / 1e3, warm[0] / 1e3), start=1))
        with open(given["result_file_path"], "wb") as file:
            file.write(field(1, latency) + field(3, field(1, 0.1) + field(2, len(runs)) + field(3, 1)))
    if "output_filepath" in given and style == "classic":
        answer = interpreter.get_tensor(target["index"])
        with open(given["output_filepath"], "wb") as file:
            file.write((answer[..., ::-1] if "wrong" in broken else answer).tobytes())
    return 7 if "dies" in broken else 0
