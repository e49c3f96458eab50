"""The quantize stage on tiny files: every scheme answers like its float file, says what it did, and refuses what it cannot do."""
from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quantizers"))
import tiny_files as tiny  # noqa: E402

from edgepress import metadata, profiles  # noqa: E402
from edgepress.errors import DatasetError, ModelError, RecipeError, UnsupportedError  # noqa: E402
from edgepress.modelspec import NORMALIZATIONS, ModelSpec, to_json  # noqa: E402
from edgepress.recipe import QuantizeConfig  # noqa: E402
from edgepress.stages.quantize import quantize  # noqa: E402

SPEC = ModelSpec(labels=("a", "b", "c", "d"), input_height=tiny.SIZE, input_width=tiny.SIZE)
TEST = tiny.pixels(40, seed=7)
# Largest change of a probability on these images; the schemes differ by what they round (16-bit activations: the same weights as int8).
TOLERANCE = {"float32": 0.0, "float16": 0.003, "dynamic_wi8_afp32": 0.03, "weight_only_wi8_afp32": 0.02, "static_wi8_ai8": 0.05, "static_wi8_ai16": 0.03}
CASES = [(scheme, form) for scheme in TOLERANCE for form in ("tflite", "onnx") if (scheme, form) != ("static_wi8_ai16", "onnx")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(tiny.pixels(24)):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Path]:
    folder = tmp_path_factory.mktemp("float")
    scale, offset = NORMALIZATIONS["-1..1"]
    files = {"tflite": tiny.write(folder / "model.tflite", tiny.tflite(scale, offset, dead=False)), "onnx": tiny.write(folder / "model.onnx", tiny.onnx_file(scale, offset))}
    for file in files.values():
        metadata.embed_spec(file, SPEC)
    return files


def run_stage(out: Path, model: Path, dataset: Path | None, **config: Any) -> Dict[str, Any]:
    out.mkdir(parents=True)
    quantize(out, model=model, dataset=dataset, config=QuantizeConfig(**config))
    return json.loads((out / "quantization.json").read_text())


@pytest.mark.parametrize("scheme, form", CASES)
def test_every_scheme_answers_like_the_float_file(scheme: str, form: str, sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    report = run_stage(tmp_path / "out", sources[form], photos if scheme.startswith("static") else None, scheme=scheme)
    file = tmp_path / "out" / f"model.{form}"
    expected, found = (tiny.run(path.read_bytes(), TEST) for path in (sources[form], file))
    assert np.abs(found - expected).max() <= TOLERANCE[scheme]
    assert (found == expected).all() == (scheme == "float32")  # the others did change the numbers
    assert metadata.extract_spec(file) == SPEC
    assert report["scheme"] == scheme == profiles.file_facts(file)["scheme"]
    assert report["inputs"][0]["name"] == "image" and report["inputs"][0]["dtype"] == "uint8" and report["outputs"][0]["dtype"] == "float32"
    assert report["size_bytes"] == file.stat().st_size and sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"model.{form}", "quantization.json"]


def test_dynamic_computes_depthwise_convolutions_in_float(tmp_path: Path) -> None:
    """Their hybrid kernel is delegated nowhere: MobileNetV2 was 2.6 times slower than float with it, and is 1.4 times faster without."""
    source = tiny.write(tmp_path / "float.tflite", tiny.tflite(*NORMALIZATIONS["-1..1"], pair=True))
    run_stage(tmp_path / "out", source, None, scheme="dynamic_wi8_afp32")
    facts = profiles.file_facts(tmp_path / "out" / "model.tflite")
    assert facts["scheme"] == "dynamic_wi8_afp32" and not facts["hybrid_depthwise"]
    assert {"DEPTHWISE_CONV_2D", "DEQUANTIZE"} <= set(facts["operators"])


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_static_says_how_it_was_made(form: str, sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    report = run_stage(tmp_path / "out", sources[form], photos, samples=10)
    assert report["calibration"]["count"] == len(report["calibration"]["sha256"]) == 10
    folding = report["input_folding"]
    assert folding["folded"] and folding["zero_point"] == 128 and 0 < folding["largest_output_difference"] < folding["tolerance"]
    assert [entry["operator"].lower() for entry in report["float_operators"]] == ["softmax"]
    assert report["integer_operators_percent"] > 70 and report["bias_corrected_layers"] == 2
    assert report["recipe"] and report["versions"] and report["seconds"] > 0
    if form == "onnx":
        assert report["activations"] in ("uint8", "int8") and report["activations_why"]


@pytest.mark.parametrize("scheme, form", [case for case in CASES if case[0] != "float32"])
def test_same_seed_same_bytes(scheme: str, form: str, sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_stage(tmp_path / name, sources[form], photos, scheme=scheme, samples=12)
    assert (tmp_path / "one" / f"model.{form}").read_bytes() == (tmp_path / "two" / f"model.{form}").read_bytes()


@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize("method", ["moving_average", "percentile", "entropy"])
def test_other_calibration_methods(method: str, form: str, sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    run_stage(tmp_path / "out", sources[form], photos, calibration_method=method)
    found = tiny.run((tmp_path / "out" / f"model.{form}").read_bytes(), TEST)
    assert (found.argmax(1) == tiny.run(sources[form].read_bytes(), TEST).argmax(1)).mean() >= 0.9


def test_a_dead_channel_keeps_its_bias(photos: Path, tmp_path: Path) -> None:
    """ai-edge-quantizer 0.10 turns the bias of a channel without weights into the most negative number."""
    source = tiny.write(tmp_path / "dead.tflite", tiny.tflite(*NORMALIZATIONS["-1..1"], dead=True))
    report = run_stage(tmp_path / "out", source, photos)
    assert report["widened_channels"] == [{"tensor": "kernel_folded_bias", "channels": 1}]
    assert np.abs(tiny.run((tmp_path / "out" / "model.tflite").read_bytes(), TEST) - tiny.run(source.read_bytes(), TEST)).max() < 0.05


def test_a_normalisation_that_does_not_fold_well_stays_float(photos: Path, tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "imagenet.tflite", tiny.tflite(*NORMALIZATIONS["imagenet"], padding="SAME"))
    report = run_stage(tmp_path / "out", source, photos)
    assert not report["input_folding"]["folded"] and "float operators stay" in report["input_folding"]["reason"]
    assert {"MUL", "ADD"} <= {entry["operator"] for entry in report["float_operators"]}
    assert np.abs(tiny.run((tmp_path / "out" / "model.tflite").read_bytes(), TEST) - tiny.run(source.read_bytes(), TEST)).max() < 0.06


def test_tensors_calibrate_a_model_that_sees_no_photos(tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "model.tflite", tiny.tflite(1 / 255, 0.0))
    np.save(tmp_path / "inputs.npy", tiny.pixels(16))
    assert run_stage(tmp_path / "out", source, tmp_path / "inputs.npy")["calibration"]["kind"] == "tensors"


def test_static_without_images_says_what_to_add(sources: Dict[str, Path], tmp_path: Path) -> None:
    for form in sources:
        with pytest.raises(RecipeError, match="--calibration DIR"):
            run_stage(tmp_path / form, sources[form], None)
        assert not list((tmp_path / form).iterdir())


@pytest.mark.parametrize("config, problem", [
    ({"backend": "onnxruntime"}, "cannot read tflite files"), ({"backend": "tflite_converter", "scheme": "float16"}, "from the Keras model"),
    ({"profile": "onnxruntime_arm"}, "is for onnx files"), ({"profile": "litter"}, "did you mean 'litert'")])
def test_what_cannot_be_is_said(config: Dict[str, Any], problem: str, sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    with pytest.raises((UnsupportedError, RecipeError), match=problem):
        run_stage(tmp_path / "out", sources["tflite"], photos, **config)


def test_sixteen_bits_are_refused_for_onnx_with_the_reason(sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="opset 21"):
        run_stage(tmp_path / "out", sources["onnx"], photos, scheme="static_wi8_ai16")


def test_a_quantized_file_is_refused(sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    for form in sources:
        run_stage(tmp_path / form, sources[form], photos)
        with pytest.raises(ModelError, match="quantized already"):
            run_stage(tmp_path / f"{form}-again", tmp_path / form, photos)


@pytest.mark.parametrize("damage", [b"", b"not a model at all", None])
def test_damaged_files(damage: bytes | None, sources: Dict[str, Path], tmp_path: Path) -> None:
    for form, source in sources.items():
        broken = tiny.write(tmp_path / f"broken.{form}", source.read_bytes()[:400] if damage is None else damage)
        with pytest.raises(ModelError):
            run_stage(tmp_path / form, broken, None, scheme="float16")


def test_bad_calibration_sources(sources: Dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npy").write_bytes(b"no array")
    for name in ("empty", "bad.npy", "missing"):
        with pytest.raises(DatasetError):
            run_stage(tmp_path / f"out-{name}", sources["tflite"], tmp_path / name)


def test_profiles_choose_signs_and_scales(sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    facts = {}
    for name in ("onnxruntime_x86_vnni", "onnxruntime_x86", "onnxruntime_arm"):
        run_stage(tmp_path / name, sources["onnx"], photos, profile=name)
        facts[name] = profiles.file_facts(tmp_path / name / "model.onnx")
        assert np.abs(tiny.run((tmp_path / name / "model.onnx").read_bytes(), TEST) - tiny.run(sources["onnx"].read_bytes(), TEST)).max() < 0.08
    assert [facts[name]["activations"] for name in facts] == ["uint8", "uint8", "int8"]
    assert [facts[name]["weight_bits"] for name in facts] == [8, 7, 8]
    for name, expected in (("litert", True), ("tflite_runtime_2.14", False)):
        run_stage(tmp_path / name, sources["tflite"], None, profile=name, scheme="dynamic_wi8_afp32")
        assert profiles.file_facts(tmp_path / name / "model.tflite")["hybrid_dense_per_channel"] == expected


def test_per_tensor_weights(sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    for form in sources:
        assert run_stage(tmp_path / form, sources[form], photos, per_channel=False)["per_channel"] is False
        assert np.abs(tiny.run((tmp_path / form / f"model.{form}").read_bytes(), TEST) - tiny.run(sources[form].read_bytes(), TEST)).max() < 0.1


@pytest.mark.tensorflow
def test_the_converter_agrees_with_ai_edge_quantizer(sources: Dict[str, Path], photos: Path, tmp_path: Path) -> None:
    found = {}
    for backend in ("ai_edge_quantizer", "tflite_converter"):
        report = run_stage(tmp_path / backend, sources["tflite"], photos, backend=backend)
        assert report["backend"] == backend and report["bias_corrected_layers"] == 2
        found[backend] = tiny.run((tmp_path / backend / "model.tflite").read_bytes(), TEST)
    assert np.abs(found["ai_edge_quantizer"] - found["tflite_converter"]).max() < 0.02


def test_a_float_input_needs_a_spec_or_tensors(photos: Path, tmp_path: Path) -> None:
    from edgepress import flatbuffer
    from edgepress.quantizers import input_folding

    model = input_folding.fold(flatbuffer.parse_model(tiny.tflite(1 / 255, 0.0))).model
    source = tiny.write(tmp_path / "float_input.tflite", flatbuffer.pack_model(model))
    with pytest.raises(ModelError, match="normalised"):
        run_stage(tmp_path / "one", source, photos)
    metadata.embed_spec(source, replace(SPEC, normalization_inside=False, input_type="float32"))
    report = run_stage(tmp_path / "two", source, photos)
    assert report["inputs"][0]["dtype"] == "float32" and report["outputs"][0]["dtype"] == "float32"


def test_a_spec_beside_the_file_counts_as_it_does_when_scoring(tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "net.onnx", tiny.onnx_file(*NORMALIZATIONS["-1..1"]))
    for name, spec in (("model.json", replace(SPEC, name="folder")), ("net.onnx.model.json", replace(SPEC, name="own"))):
        (tmp_path / name).write_text(to_json(spec))
        run_stage(tmp_path / f"out-{name}", source, None, scheme="float16")
        assert metadata.extract_spec(tmp_path / f"out-{name}" / "model.onnx") == spec
