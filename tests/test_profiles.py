"""Target profiles: facts of real files, and what each rule says about them."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "quantizers"))
import tiny_files as tiny  # noqa: E402

from edgepress import profiles  # noqa: E402
from edgepress.errors import ModelError, RecipeError  # noqa: E402

BASE: Dict[str, Any] = {"operators": {}, "scheme": "float32", "hybrid_dense_per_channel": False, "hybrid_depthwise": False, "activations": None, "weight_bits": 8, "sparse": False}


def facts(form: str, **changes: Any) -> Dict[str, Any]:
    return {**BASE, "format": form, **changes}


def statuses(profile: str, given: Dict[str, Any]) -> list:
    return [finding["status"] for finding in profiles.check(profile, given)]


def test_float_files_are_fine_everywhere() -> None:
    for profile in profiles.PROFILES.values():
        assert profiles.check(profile.name, facts(profile.format)) == []


@pytest.mark.parametrize("profile, given, expected", [
    ("tflite_runtime_2.14", facts("tflite", hybrid_dense_per_channel=True, scheme="dynamic_wi8_afp32"), ["refused"]),
    ("litert", facts("tflite", hybrid_dense_per_channel=True, scheme="dynamic_wi8_afp32"), []),
    ("tflite_runtime_2.14", facts("tflite", operators={"FULLY_CONNECTED": {"count": 1, "version": 12}}), ["refused"]),
    ("tflite_runtime_2.14", facts("tflite", operators={"FULLY_CONNECTED": {"count": 1, "version": 9}}), []),
    ("litert", facts("tflite", operators={"HARD_SWISH": {"count": 3, "version": 1}}, scheme="static_wi8_ai8"), ["slow"]),
    ("litert", facts("tflite", operators={"HARD_SWISH": {"count": 3, "version": 1}}, scheme="float16"), []),
    ("litert", facts("tflite", scheme="static_wi8_ai16"), ["slow"]),
    ("litert_arm", facts("tflite", scheme="static_wi8_ai16"), ["slow"]),
    ("litert_arm", facts("tflite", scheme="dynamic_wi8_afp32", hybrid_depthwise=True), []),
    ("litert", facts("tflite", sparse=True, scheme="static_wi8_ai8"), ["refused"]),
    ("litert", facts("tflite", sparse=True), []),
    ("android", facts("tflite", operators={"CUSTOM:FlexErf": {"count": 1, "version": 1}}), ["refused"]),
    ("onnxruntime_x86_vnni", facts("onnx", operators={"ConvInteger": {"count": 1, "version": 15}}, scheme="dynamic_wi8_afp32"), ["slow"]),
    ("onnxruntime_x86_vnni", facts("onnx", activations="int8", scheme="static_wi8_ai8"), ["slow"]),
    ("onnxruntime_arm", facts("onnx", activations="int8", scheme="static_wi8_ai8"), []),
    ("onnxruntime_x86", facts("onnx", activations="uint8", scheme="static_wi8_ai8"), ["slow"]),
    ("onnxruntime_x86", facts("onnx", activations="uint8", weight_bits=7, scheme="static_wi8_ai8"), []),
])
def test_rules(profile: str, given: Dict[str, Any], expected: list) -> None:
    assert statuses(profile, given) == expected


def test_every_rule_can_fire_and_has_a_remedy() -> None:
    for rule in profiles.RULES:
        assert rule.profiles and set(rule.profiles) <= set(profiles.PROFILES) and rule.status in ("refused", "slow")
        assert rule.reason and rule.remedy


def test_refusals_come_first() -> None:
    given = facts("tflite", scheme="static_wi8_ai8", sparse=True, operators={"HARD_SWISH": {"count": 1, "version": 1}})
    assert statuses("litert", given) == ["refused", "slow"]


def test_verdict_of_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_is_x86", lambda: True)
    assert profiles.verdict("litert", facts("tflite")) == ("ok", None)
    assert profiles.verdict("keras", facts("tflite")) == ("ok", None)
    status, reason = profiles.verdict("tflite_runtime", facts("tflite", hybrid_dense_per_channel=True))
    assert status == "refused" and "2.14" in reason
    assert profiles.verdict("litert", facts("tflite", scheme="static_wi8_ai16"))[0] == "marked"
    assert profiles.verdict("onnxruntime", facts("tflite", scheme="static_wi8_ai16")) == ("ok", None)  # not its format


@pytest.mark.parametrize("text, machine, expected", [
    ("flags\t\t: fpu avx2 avx512_vnni\n", True, "onnxruntime_x86_vnni"), ("flags\t\t: fpu avx2 avx_vnni\n", True, "onnxruntime_x86_vnni"),
    ("flags\t\t: fpu avx2 avx512f\n", True, "onnxruntime_x86"), ("Features\t: fp asimd\n", False, "onnxruntime_arm"), ("", True, "onnxruntime_x86")])
def test_this_machine(text: str, machine: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    flags = profiles.cpu_flags(tmp_path / "cpuinfo")
    monkeypatch.setattr(profiles, "cpu_flags", lambda: flags)
    monkeypatch.setattr(profiles, "_is_x86", lambda: machine)
    assert profiles.this_machine("onnx") == expected
    assert profiles.this_machine("tflite") == ("litert" if machine else "litert_arm")


def test_find() -> None:
    assert profiles.find("android", "tflite").name == "android"
    assert profiles.find(None, "onnx").format == "onnx"
    with pytest.raises(RecipeError, match="did you mean 'litert'"):
        profiles.find("litrt", "tflite")
    with pytest.raises(RecipeError, match="is for tflite files"):
        profiles.find("litert", "onnx")


@pytest.mark.parametrize("form, data", [("tflite", tiny.tflite(1 / 255, 0.0)), ("onnx", tiny.onnx_file(1 / 255, 0.0))])
def test_facts_of_float_files(form: str, data: bytes, tmp_path: Path) -> None:
    found = profiles.file_facts(tiny.write(tmp_path / f"model.{form}", data))
    assert found["scheme"] == "float32" and found["integer_count"] == found["hybrid_count"] == 0 and not found["sparse"]
    assert found["inputs"] == [{"name": "image", "shape": [1, tiny.SIZE, tiny.SIZE, 3], "dtype": "uint8"}]
    assert found["operators"]["CONV_2D" if form == "tflite" else "Conv"]["count"] == 1


def test_facts_of_a_reference_int8_file(shared_data: Any) -> None:
    found = profiles.file_facts(shared_data("weights/mlperf_tiny/vww_96_int8.tflite"))
    assert found["scheme"] == "static_wi8_ai8" and found["float_operators"] == [] and found["activations"] == "int8"
    assert profiles.verdict("litert", found) == ("ok", None)


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    for form in ("tflite", "onnx"):
        with pytest.raises(ModelError):
            profiles.file_facts(tiny.write(tmp_path / f"broken.{form}", b"nothing of the kind"))
        with pytest.raises(ModelError):
            profiles.file_facts(tmp_path / f"missing.{form}")


def test_no_cpuinfo_means_no_flags(tmp_path: Path) -> None:
    assert profiles.cpu_flags(tmp_path / "missing") == frozenset()
