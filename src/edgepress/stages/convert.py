"""Write the float TFLite and ONNX files of a Keras model, and prove that they answer what it answers."""
from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from edgepress import flatbuffer, onnx_summary
from edgepress.artifact import digest_file, model_file, write_atomic, write_json
from edgepress.converters import onnx, parity, tflite
from edgepress.converters.contract import Plan, make_plan, unsaid
from edgepress.errors import ModelError, RecipeError
from edgepress.keras_files import load_network, peek
from edgepress.metadata import embed_spec
from edgepress.modelspec import SPEC_FILE, ModelSpec, read_spec, to_json
from edgepress.own_spec import read_labels
from edgepress.progress import report_progress
from edgepress.recipe import ConvertConfig
from edgepress.tf import import_tensorflow

SCHEMA = 1
TFLITE_FILE, ONNX_FILE, RECORD_FILE = "model.tflite", "model.onnx", "conversion.json"
_KEPT = ("operators", "custom_operators", "flex_operators", "opset", "ir_version", "inputs", "outputs", "signatures", "parameters")


def convert(out: Path, *, model: Path, config: ConvertConfig) -> None:
    """Write model.tflite and model.onnx (as `config.formats` says), model.json and conversion.json into `out`.

    `model` is a finetune or prune artifact, or the user's own `.keras`, `.h5` or SavedModel folder. Every file is run on the same 16
    inputs as the Keras network: probabilities that differ by more than 1e-4 are a warning in the record, by more than `parity.FAULT` an error.

    Raises:
        UnsafeModelError: the model file would run code (see keras_safety).
        ModelError: it cannot be read or converted, or a converted file answers something else.
        RecipeError: options that do not fit the model.
    """
    if not config.formats:
        raise RecipeError("[convert] formats is empty; accepted: tflite, onnx", 'leave it out for both')
    file, given = find_source(model)
    seconds: Dict[str, float] = {}
    report_progress("importing TensorFlow")
    with _timed(seconds, "import_tensorflow"):
        import_tensorflow()
    report_progress("reading the model")
    with _timed(seconds, "load"):
        plan = make_plan(load_network(file, allow_unsafe=config.allow_unsafe), config, given=given, name=given.name if given else file.stem)
    if config.layout == "nchw" and "onnx" in config.formats and len(plan.graph.shape) != 3:
        raise RecipeError(f"layout nchw is for pictures, {file} takes {plan.graph.shape}", "leave out --layout")
    files = _write_files(out, plan, config, seconds)
    with _timed(seconds, "parity"):
        _check_parity(out, plan, files)
    if plan.spec:
        write_atomic(out / SPEC_FILE, to_json(_spec_of(plan.spec, config, "tflite" if "tflite" in config.formats else "onnx")).encode())
    write_json(out / RECORD_FILE, _record(file, plan, config, files, seconds))
    for entry in files:
        if entry["parity"]["passed"] is None:
            report_progress(f"{entry['file']} was not compared with Keras: {entry['parity']['reason']}")
    failed = [f"{f['file']}: {f['parity']['max_abs_difference']:.2g}" for f in files if f["parity"].get("fault")]
    if failed:
        raise ModelError(f"converted files answer something else than {file} (largest difference {', '.join(failed)}; accepted: {parity.FAULT:g})",
                         "try --formats tflite or another --opset, and report the model")


def prepare(cache: Path, *, model: Path, config: ConvertConfig) -> None:
    """Whatever is wrong and can be told without TensorFlow: a damaged or unsafe file, labels that cannot be read, a normalisation that nobody said."""
    file, given = find_source(model)
    shape = peek(file, allow_unsafe=config.allow_unsafe)
    if given is None and config.labels:
        read_labels(Path(config.labels))
    if given is None and config.normalization is None and config.input_type == "uint8" and shape is not None and len(shape) == 4 and shape[-1] in (1, 3):
        raise unsaid(str(file))


def find_source(model: Path) -> Tuple[Path, Optional[ModelSpec]]:
    """(Keras file or SavedModel folder, the model.json that belongs to it or None)."""
    if (model / "saved_model.pb").is_file():
        return model, read_spec(model) if (model / SPEC_FILE).is_file() else None
    file = model if model.is_file() else model_file(model, formats=("keras",))
    beside = file.parent / SPEC_FILE
    return file, read_spec(beside) if beside.is_file() else None


@contextlib.contextmanager
def _timed(seconds: Dict[str, float], step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - started, 3)


def _write_files(out: Path, plan: Plan, config: ConvertConfig, seconds: Dict[str, float]) -> List[Dict[str, Any]]:
    """Write the wanted files; ONNX is made from the TFLite file, which then may be a temporary one."""
    files = []
    with tempfile.TemporaryDirectory(dir=out, prefix=".tflite-") as folder:
        float_file = Path(folder) / TFLITE_FILE
        report_progress("converting to TFLite")
        with _timed(seconds, "tflite"):
            float_file.write_bytes(tflite.convert(plan.network.call, plan.graph))
        if "onnx" in config.formats:
            report_progress("converting to ONNX")
            with _timed(seconds, "onnx"):
                data = onnx.convert(float_file, opset=config.opset, layout=config.layout, name=plan.spec.name if plan.spec else "model")
                _publish(out / ONNX_FILE, data, plan.spec, config)
            files.append(_facts(out / ONNX_FILE, layout=config.layout))
        if "tflite" in config.formats:
            _publish(out / TFLITE_FILE, float_file.read_bytes(), plan.spec, config)
            files.insert(0, _facts(out / TFLITE_FILE, layout="nhwc"))
    return files


def _publish(file: Path, data: bytes, spec: Optional[ModelSpec], config: ConvertConfig) -> None:
    write_atomic(file, data)
    if spec:
        embed_spec(file, _spec_of(spec, config, file.suffix[1:]))


def _spec_of(spec: ModelSpec, config: ConvertConfig, model_format: str) -> ModelSpec:
    return replace(spec, layout=config.layout) if model_format == "onnx" else spec


def _facts(file: Path, *, layout: str) -> Dict[str, Any]:
    """What conversion.json says of a file."""
    summary = flatbuffer.summarize(flatbuffer.load_model_t(file)) if file.suffix == ".tflite" else onnx_summary.summarize(file)
    return {"file": file.name, "format": file.suffix[1:], "size_bytes": file.stat().st_size, "layout": layout, **{key: summary[key] for key in _KEPT if key in summary}}


def _check_parity(out: Path, plan: Plan, files: List[Dict[str, Any]]) -> None:
    report_progress("comparing the files with Keras")
    inputs = parity.make_inputs(plan.graph)
    expected = parity.reference(plan.answer, plan.graph, inputs)
    for entry in files:
        if entry.get("flex_operators"):
            entry["parity"] = {"passed": None, "reason": "no runtime here has the Flex delegate"}
            continue
        entry["parity"] = parity.compare(out / entry["file"], inputs, expected, layout=entry["layout"])


def _record(file: Path, plan: Plan, config: ConvertConfig, files: List[Dict[str, Any]], seconds: Dict[str, float]) -> Dict[str, Any]:
    source = {"file": file.name, "kind": "saved_model" if file.is_dir() else file.suffix[1:]}
    if file.is_file():
        source["sha256"] = digest_file(file)
    inputs = "seeded synthetic pictures" if plan.graph.shape[2:] == (3,) else "seeded normal noise"
    return {"schema": SCHEMA, "source": source, "contract": plan.spec is not None and plan.spec.normalization_inside, "model_spec": SPEC_FILE if plan.spec else None,
            "input_type": plan.graph.input_type, "batch": config.batch, "output": plan.graph.output_name, "notes": list(plan.notes),
            "parity_inputs": inputs, "files": files, "warnings": [_doubt(entry) for entry in files if entry["parity"]["passed"] is False], "seconds": seconds}


def _doubt(entry: Dict[str, Any]) -> str:
    return (f"{entry['file']} differs from Keras by up to {entry['parity']['max_abs_difference']:.1e} on synthetic inputs, more than {parity.TOLERANCE:g}: rounding that "
            "a head with large weights makes visible; the certificate says what it means on photos")
