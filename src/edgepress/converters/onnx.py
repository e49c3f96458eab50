"""Float TFLite file → float ONNX file: batch norm is already folded there, so the graph has no stray Pad or Mul."""
from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any, Iterator

from edgepress import flatbuffer
from edgepress.converters.onnx_names import canonical
from edgepress.converters.onnx_preparation import prepare, transposes_pass_hard_swish
from edgepress.converters.quiet import captured_output
from edgepress.errors import MissingDependencyError, ModelError
from edgepress.onnx_summary import STANDARD_DOMAINS
from edgepress.tf import import_tensorflow

_HINT = "convert with `--formats tflite`, or with another --opset"
MAX_IR = 8  # on-device builds of onnxruntime refuse newer ones (onnxruntime#20559, #23602)


def convert(tflite: Path, *, opset: int = 15, layout: str = "nhwc", name: str = "model") -> bytes:
    """The bytes of the ONNX file that computes what the float `.tflite` file computes, with its input and output names.

    Args:
        layout: axis order of a rank-4 input, `nhwc` as in the TFLite file or `nchw`.
        name: name of the graph in the file.

    Raises:
        ModelError: tf2onnx cannot convert it, or the result is not valid or not of the standard domain.
        MissingDependencyError: tf2onnx or onnx is not installed.
    """
    import_tensorflow()  # tf2onnx imports TensorFlow by itself; legacy Keras must be chosen before
    try:
        import onnx
        import tf2onnx
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "tf2onnx", extra="onnx", why="writing ONNX files") from error
    graph = prepare(flatbuffer.load_model_t(tflite))
    source = graph.subgraphs[0].tensors[graph.subgraphs[0].inputs[0]].name.decode()
    with tempfile.TemporaryDirectory() as folder, transposes_pass_hard_swish(), captured_output("tf2onnx", hint=_HINT):
        prepared = Path(folder) / "model.tflite"
        prepared.write_bytes(flatbuffer.pack_model(graph))
        with _no_copies():
            model, _ = tf2onnx.convert.from_tflite(str(prepared), opset=opset, inputs_as_nchw=[source] if layout == "nchw" else None)
        model = canonical(_finished(onnx, model, name=name))
        onnx.checker.check_model(model, full_check=True)
    _check_domains(model)
    return model.SerializeToString(deterministic=True)


@contextlib.contextmanager
def _no_copies() -> Iterator[None]:
    """Keep tf2onnx from copying the whole graph before each of its 24 passes, a third of its time: a pass that fails is then an error, as it should be."""
    name = "TF2ONNX_CATCH_ERRORS"  # tf2onnx reads it as false whatever it says
    before = os.environ.get(name)
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _finished(onnx: Any, model: Any, *, name: str) -> Any:
    """The model with a stable name, an IR version that old runtimes accept, a dynamic batch called `batch`, and no domain it does not use."""
    finished = onnx.ModelProto()
    finished.CopyFrom(model)
    finished.graph.name, finished.doc_string, finished.graph.doc_string = name, "", ""
    finished.ir_version = min(finished.ir_version, MAX_IR)
    for value in (*finished.graph.input, *finished.graph.output):
        first = value.type.tensor_type.shape.dim[:1]
        if first and first[0].dim_param:
            first[0].dim_param = "batch"
    used = {node.domain for node in finished.graph.node}
    kept = [entry for entry in finished.opset_import if entry.domain in used or entry.domain in STANDARD_DOMAINS]
    del finished.opset_import[:]
    finished.opset_import.extend(kept)
    del finished.graph.value_info[:]  # carries tf2onnx's own counters as dimension names
    return finished


def _check_domains(model: Any) -> None:
    foreign = sorted({f"{node.domain}:{node.op_type}" for node in model.graph.node if node.domain not in STANDARD_DOMAINS})
    if foreign:
        raise ModelError(f"the ONNX graph needs operators outside the standard domain: {', '.join(foreign)}", "convert with `--formats tflite`")
