"""Accelerators: refused with a reason where they are not, and never reported where the CPU did the work."""
from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

from edgepress.errors import UnsupportedError
from edgepress.jobs import run_job
from edgepress.runtimes import litert, litert_gpu, onnxruntime
from edgepress.runtimes.accelerators import PROVIDERS, Accelerator, device_of, find_provider, parse_accelerator

TINY = Path(__file__).resolve().parent / "data"
LOG = "I0000 00:00:1.946375   20274 environment.cc:532] Selected adapter: {name}, arch=x, vendor=y, backend=Vulkan, adapterType={kind}\n"
Node = namedtuple("Node", "name op_type")


class Part(namedtuple("Part", "ep_name nodes")):
    def get_nodes(self) -> List[Node]:
        return [Node(kind.lower(), kind) for kind in self.nodes]


class Assigned:
    """A session of which only the assignment of nodes counts."""

    def __init__(self, *parts: Part) -> None:
        self.parts = parts

    def get_provider_graph_assignment_info(self) -> Any:
        return self.parts


def test_names_and_options() -> None:
    assert parse_accelerator("cuda") == Accelerator("cuda") and parse_accelerator("cuda").copies
    assert parse_accelerator("openvino:device_type=GPU.1,copies=out") == Accelerator("openvino", {"device_type": "GPU.1"}, copies=False)
    assert parse_accelerator("openvino:device_type=GPU.1;copies=out") == parse_accelerator("openvino:device_type=GPU.1,copies=out")
    for text, message in (("cuda:0", "accepted: key=value"), ("cuda:copies=no", "copies is 'no'"), ("cuda:=1", "key=value")):
        with pytest.raises(UnsupportedError, match=message):
            parse_accelerator(text)
    assert find_provider("CUDA").name == "CUDAExecutionProvider" and find_provider("MyOwnExecutionProvider").name == "MyOwnExecutionProvider"
    with pytest.raises(UnsupportedError, match="did you mean 'openvino'"):
        find_provider("openvin")


@pytest.mark.parametrize("name, options, device", [("cuda", {}, "GPU"), ("openvino", {}, "CPU"), ("openvino", {"device_type": "GPU.1"}, "GPU"), ("openvino", {"device_type": "GPU_FP16"}, "GPU"),
                                                   ("openvino", {"device_type": "AUTO:GPU,CPU"}, "unknown"), ("xnnpack", {}, "CPU"), ("qnn", {"backend_path": "libQnnHtp.so"}, "NPU"), ("coreml", {}, "unknown")])
def test_the_device_is_what_the_options_say(name: str, options: Dict[str, str], device: str) -> None:
    assert device_of(PROVIDERS[name], options) == device


def test_every_provider_that_is_not_here_is_refused_with_what_brings_it() -> None:
    import onnxruntime as library

    absent = [name for name, provider in PROVIDERS.items() if provider.name not in library.get_available_providers()]
    assert "cuda" in absent or "CUDAExecutionProvider" in library.get_available_providers()
    for name in absent:
        with pytest.raises(UnsupportedError, match=f"no {PROVIDERS[name].name}; here: .*install {PROVIDERS[name].distribution.split()[0]}"):
            onnxruntime.open_model(str(TINY / "tiny_float.onnx"), threads=1, accelerator=name)


def test_a_provider_that_fell_back_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnxruntime does where the library is there and the device is not: it prints an error and opens the file on the CPU."""
    import onnxruntime as library

    monkeypatch.setattr(library, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    real = library.InferenceSession
    monkeypatch.setattr(library, "InferenceSession", lambda path, options, **rest: real(path, options, providers=["CPUExecutionProvider"]))
    with pytest.raises(UnsupportedError, match="did not start.*fell back to the CPU"):
        onnxruntime.open_model(str(TINY / "tiny_float.onnx"), threads=1, accelerator="cuda")


def test_what_a_provider_took_is_read_back() -> None:
    cuda, wanted = PROVIDERS["cuda"], Accelerator("cuda", {"device_id": "0"})
    facts = onnxruntime._taken(Assigned(Part(cuda.name, ["Conv", "Conv", "Gemm"]), Part("CPUExecutionProvider", ["Shape"]), Part("CPUExecutionProvider", ["Shape", "Gather"])), cuda, wanted)
    assert facts == {"provider": cuda.name, "device": "GPU", "options": {"device_id": "0"}, "copies_timed": True, "nodes": 6, "nodes_taken": 3, "left_to_the_cpu": {"Gather": 1, "Shape": 2}}
    with pytest.raises(UnsupportedError, match="took none of the 2 nodes"):
        onnxruntime._taken(Assigned(Part("CPUExecutionProvider", ["Conv", "Gemm"])), cuda, wanted)
    with pytest.raises(UnsupportedError, match="cannot say which nodes"):
        onnxruntime._taken(object(), cuda, wanted)


def test_inputs_and_outputs_that_stay_on_the_device_give_the_same_answers() -> None:
    path, random = str(TINY / "tiny_float.onnx"), np.random.default_rng(0)
    session = onnxruntime._session(path, onnxruntime._options(1), [(onnxruntime.CPU, {})])
    bound = onnxruntime.BoundSession(session, path=path, accelerator={"device": "CPU"}, device=("cpu", 0))
    plain = onnxruntime.open_model(path, threads=1)
    for _ in range(onnxruntime._KEPT + 3):  # more inputs than are kept
        array = random.integers(0, 256, [max(n, 1) for n in plain.inputs[0].shape]).astype(plain.inputs[0].dtype)
        assert np.array_equal(bound.run([array])[0].numpy(), plain.run([array])[0])
    assert bound.details["accelerator"] == {"device": "CPU"} and len(bound._there) <= onnxruntime._KEPT


def test_the_adapter_is_read_from_the_log() -> None:
    assert litert_gpu.adapter([LOG.format(name="SwiftShader Device (Subzero)", kind="CPU / Software")]) == ("SwiftShader Device (Subzero)", "CPU / Software")
    assert litert_gpu.adapter([LOG.format(name="Mali-G78", kind="Integrated GPU")]) == ("Mali-G78", "Integrated GPU")
    assert litert_gpu.adapter(["nothing\n"]) == ("unknown", "unknown")


@pytest.mark.parametrize("kind, accepted", [("CPU / Software", False), ("Discrete GPU", True), ("unknown", False)])
def test_a_gpu_in_software_is_no_gpu(monkeypatch: pytest.MonkeyPatch, kind: str, accepted: bool) -> None:
    """CompiledModel calls a SwiftShader Vulkan fully accelerated; its log tells the truth. Here the file runs on the CPU and the log is written by hand."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    real = CompiledModel.from_file

    def pretend(path: str, hardware_accel: Any) -> Any:
        import os

        assert hardware_accel == HardwareAccelerator.GPU
        os.write(2, LOG.format(name="An Adapter", kind=kind).encode())
        model = real(path, hardware_accel=HardwareAccelerator.CPU)
        model.is_fully_accelerated = lambda: True
        return model
    monkeypatch.setattr(CompiledModel, "from_file", pretend)
    path = str(TINY / "tiny_int8.tflite")
    if not accepted:
        with pytest.raises(UnsupportedError, match=f"An Adapter, of type {kind}: the CPU would do the work" if kind != "unknown" else "of type unknown|An Adapter"):
            litert.open_model(path, threads=1, accelerator="gpu")
    session = litert.open_model(path, threads=1, accelerator="gpu" if accepted else "gpu:software=yes")
    assert session.details["accelerator"]["device"] == {"CPU / Software": "CPU", "Discrete GPU": "GPU", "unknown": "unknown"}[kind]
    plain, random = litert.open_model(path, threads=1), np.random.default_rng(0)
    for _ in range(3):
        array = random.integers(0, 256, plain.inputs[0].shape).astype(np.uint8)
        assert np.array_equal(session.run([array])[0], plain.run([array])[0])


@pytest.mark.slow
@pytest.mark.parametrize("runtime, model, accelerator, reason", [("litert", "tiny_float.tflite", "gpu", "GPU accelerator"), ("litert", "tiny_float.tflite", "npu", "accepted: gpu"),
                                                                 ("litert", "tiny_float.tflite", "gpu:copies=out", "always part of the timing"), ("onnxruntime", "tiny_float.onnx", "tensorrt", "TensorrtExecutionProvider"),
                                                                 ("tflite_runtime", "tiny_float.tflite", "gpu", "tflite_runtime")])
def test_a_job_never_reports_an_accelerator_that_did_not_work(tmp_path: Path, runtime: str, model: str, accelerator: str, reason: str) -> None:
    try:
        result = run_job({"job": "benchmark", "runtime": runtime, "model": str(TINY / model), "accelerator": accelerator, "min_runs": 2, "min_seconds": 0.0}, work=tmp_path)
    except UnsupportedError as error:  # tflite_runtime may not be installed
        assert "not installed" in str(error)
        return
    if result["status"] == "ok":  # a machine that has one
        assert result["details"]["accelerator"]["device"] == "GPU"
    else:
        assert result["status"] == "unsupported" and reason in result["reason"] and "latencies_ms" not in result


@pytest.mark.tensorflow
def test_keras_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    result = run_job({"job": "benchmark", "runtime": "keras", "model": str(TINY / "tiny_float.keras"), "accelerator": "gpu", "min_runs": 2, "min_seconds": 0.0}, work=tmp_path)
    assert (result["status"], "TensorFlow finds no GPU" in str(result["reason"])) == ("unsupported", True) or result["details"]["accelerator"]["device"] == "GPU"


def test_batches_of_a_benchmark_job(tmp_path: Path) -> None:
    """benchmarks/gpu.py sweeps them: the batch that a job asks for is the one that is measured, or the job says why not."""
    import onnx
    from onnx import TensorProto, helper

    shape = ["N", 4]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), str(tmp_path / "open.onnx"))
    job = {"job": "benchmark", "runtime": "onnxruntime", "min_runs": 2, "min_seconds": 0.0, "batch": 8}
    assert run_job({**job, "model": "open.onnx"}, work=tmp_path)["input_shapes"] == [[8, 4]]
    fixed = run_job({**job, "model": str(TINY / "tiny_float.onnx")}, work=tmp_path)
    assert fixed["status"] == "unsupported" and "fixed shape" in fixed["reason"]
