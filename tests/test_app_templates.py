"""The starter apps: every constant in them is the bundle's, whatever strings its labels are; the preprocessing rule is the one of preprocess.py."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgepress import flatbuffer
from edgepress.app_templates import make_app
from edgepress.artifact import digest_file
from edgepress.errors import ArtifactError, RecipeError, UnsupportedError
from edgepress.modelspec import NORMALIZATIONS
from edgepress.preprocess import to_pixels
from edgepress.recipe import BundleConfig
from edgepress.stages.bundle import bundle
from stages import test_bundle

FACTS = {"android": "app/src/main/kotlin/org/example/classifier/ModelFacts.kt", "ios": "Classifier/ModelFacts.swift"}
MODELS = {"android": "app/src/main/assets/model.tflite", "ios": "Classifier/model.tflite"}
SPECS = {"plain": test_bundle.SPEC,
         "odd": replace(test_bundle.SPEC, labels=('a "quoted" $label', "back\\slash\tand tab", "right-to-left \u202e and \U0001f600"), name="it's <odd> & 'so'", resize="crop", reject_threshold=0.35),
         "outside": replace(test_bundle.SPEC, normalization_inside=False, input_type="float32", channel_order="bgr", resize="pad",
                            scale=NORMALIZATIONS["imagenet"][0], offset=NORMALIZATIONS["imagenet"][1])}


def make_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch, *, spec: str = "plain", choose: str = "static_wi8_ai8.tflite") -> Path:
    monkeypatch.setattr(test_bundle, "SPEC", SPECS[spec])
    (folder / "made").mkdir(parents=True)
    bundle(folder / "made", run=test_bundle.make_run(folder), config=BundleConfig(choose=choose, name=SPECS[spec].name))
    return folder / "made" / "bundle"


# ---- read the constants back, by each language's own rules for literals

def unescape(literal: str) -> str:
    def one(match: "re.Match[str]") -> str:
        return chr(int(match[1] or match[2], 16)) if match[1] or match[2] else match[3]
    text = re.sub(r"\\u(?:\{([0-9a-f]+)\}|([0-9a-f]{4}))|\\(.)", one, literal[1:-1])
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def value(text: str) -> Any:
    if text in ("null", "nil"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        return unescape(text)
    inner = re.fullmatch(r"(?:listOf\(|floatArrayOf\(|\[)(.*)[)\]]", text, re.DOTALL)
    if inner:
        return [value(part) for part in re.findall(r'"(?:[^"\\]|\\.)*"|[^,\s]+', inner[1])]
    return float(text.rstrip("f")) if re.search(r"[.e]", text) else int(text)


def constants(file: Path) -> Dict[str, Any]:
    """Names in snake case."""
    found = re.findall(r"^    (?:const val|val|static let) (\w+)(?:: [\w\[\]]+\??)? = (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {(re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name) if not name.isupper() and "_" not in name else name).lower(): value(text) for name, text in found}


@pytest.mark.slow
@pytest.mark.parametrize("platform", FACTS)
@pytest.mark.parametrize("spec, choose", [("plain", "static_wi8_ai8.tflite"), ("odd", "static_wi8_ai8.tflite"), ("plain", "float32.tflite")])
def test_every_constant_is_the_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, spec: str, choose: str) -> None:
    folder = make_bundle(tmp_path, monkeypatch, spec=spec, choose=choose)
    make_app(folder, platform, tmp_path / "app")
    found = constants(tmp_path / "app" / FACTS[platform])
    manifest, model = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("manifest.json", "model.json"))
    ends = flatbuffer.summarize(flatbuffer.load_model_t(folder / manifest["model"]))
    from_file = {f"{end}_{key}": ends[f"{end}s"][0].get(field) for end in ("input", "output") for key, field in (("type", "dtype"), ("scale", "scale"), ("zero_point", "zero_point"))}
    expected = {**{key: model[key] for key in ("name", "input_height", "input_width", "channels", "resize", "channel_order", "normalization_inside", "scale", "offset", "output", "reject_threshold", "labels")},
                **from_file, "model_file": manifest["model"], "variant": manifest["variant"], "model_sha256": manifest["files"][manifest["model"]]["sha256"]}
    assert found == expected
    assert digest_file(tmp_path / "app" / MODELS[platform]) == found["model_sha256"]


@pytest.mark.parametrize("platform", FACTS)
def test_normalization_outside_the_graph_is_carried_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """No such file is at hand, but the constants of one are written as they are: numbers survive to the last bit."""
    from edgepress.app_templates import PLATFORMS

    spec = SPECS["outside"]
    lines = "\n".join(PLATFORMS[platform].line(key, getattr(spec, key)if not isinstance(getattr(spec, key), tuple) else list(getattr(spec, key))) for key in ("scale", "offset", "normalization_inside"))
    (tmp_path / "facts").write_text(lines + "\n")
    assert constants(tmp_path / "facts") == {"scale": list(spec.scale), "offset": list(spec.offset), "normalization_inside": False}


@pytest.mark.parametrize("platform", FACTS)
def test_the_sources_use_the_constants_and_nothing_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    make_app(make_bundle(tmp_path, monkeypatch), platform, tmp_path / "app")
    known = {name for name in re.findall(r"(?:val|let) (\w+)", (tmp_path / "app" / FACTS[platform]).read_text(encoding="utf-8"))}
    sources = [p for p in (tmp_path / "app").rglob("*") if p.suffix in (".kt", ".swift") and "ModelFacts" not in p.name]
    used = {name for path in sources for name in re.findall(r"ModelFacts\.(\w+)", path.read_text(encoding="utf-8"))} - {"swift", "kt"}
    unused = {"NAME", "VARIANT", "name", "variant"}  # for people
    assert used == known - unused
    for path in sources:
        assert not re.search(r"\b(224|127\.5|0\.485|123\.68)\b", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("platform", FACTS)
def test_the_preprocessing_rule_is_stated_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    import edgepress.preprocess as preprocess

    make_app(make_bundle(tmp_path, monkeypatch, spec="odd"), platform, tmp_path / "app")
    source = next(p for p in (tmp_path / "app").rglob("Preprocess.*")).read_text(encoding="utf-8")
    assert set(re.findall(r'^\s*(?:case )?"(stretch|crop|pad)"', source, re.MULTILINE)) == set(preprocess.RESIZES)
    gap = re.search(r"(?:REDUCING_GAP|reducingGap) = ([\d.]+)", source)
    assert gap and float(gap[1]) == preprocess._REDUCING_GAP
    assert [float(n) for n in re.findall(r"0\.\d{3}", source)] == pytest.approx([0.299, 0.587, 0.114])  # feeding._LUMA
    readme = (tmp_path / "app" / "README.md").read_text(encoding="utf-8")
    assert "cut in the middle and resized to 8 x 8" in readme and "not built here" in readme and "{{" not in readme


def test_an_android_project_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {str(p.relative_to(tmp_path / "app")) for p in make_app(make_bundle(tmp_path, monkeypatch, spec="odd"), "android", tmp_path / "app")}
    assert {"settings.gradle.kts", "build.gradle.kts", "gradle/libs.versions.toml", "app/build.gradle.kts", "app/src/main/AndroidManifest.xml", "app/src/androidTest/assets/golden.json"} <= files
    catalog = tomllib.loads((tmp_path / "app/gradle/libs.versions.toml").read_text())
    for entry in (*catalog["libraries"].values(), *catalog["plugins"].values()):
        assert entry["version"]["ref"] in catalog["versions"]
    script = (tmp_path / "app/app/build.gradle.kts").read_text()
    names = {name.replace("-", ".") for name in catalog["libraries"]} | {f"plugins.{name.replace('-', '.')}" for name in catalog["plugins"]}
    assert set(re.findall(r"libs\.([\w.]+)\)", script)) <= names
    strings = ElementTree.parse(tmp_path / "app/app/src/main/res/values/strings.xml").getroot()
    assert strings[0].text == "it\\'s <odd> & \\'so\\'"
    ElementTree.parse(tmp_path / "app/app/src/main/AndroidManifest.xml")
    golden = json.loads((tmp_path / "app/app/src/androidTest/assets/golden.json").read_text())
    assert all(f"app/src/androidTest/assets/{image['file']}" in files for image in golden["images"])


def test_wrong_input_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundle(tmp_path / "a", monkeypatch)
    with pytest.raises(RecipeError, match="did you mean 'android'"):
        make_app(folder, "androit", tmp_path / "app")
    onnx = make_bundle(tmp_path / "b", monkeypatch, choose="float32.onnx")
    with pytest.raises(UnsupportedError, match="accepted: .tflite"):
        make_app(onnx, "ios", tmp_path / "app")
    (folder / "labels.txt").write_text("changed\n")
    with pytest.raises(ArtifactError, match="labels.txt is damaged"):
        make_app(folder, "ios", tmp_path / "app")
    with pytest.raises(ArtifactError, match="no bundle"):
        make_app(tmp_path, "ios", tmp_path / "app")
    assert not (tmp_path / "app").exists()
    (tmp_path / "app").mkdir()
    with pytest.raises(RecipeError, match="exists already"):
        make_app(folder, "ios", tmp_path / "app")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".app")]


def test_a_zip_gives_the_same_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepress.bundle_archive import write_zip

    folder = make_bundle(tmp_path, monkeypatch)
    write_zip(folder, tmp_path / "bundle.zip")
    ours, theirs = make_app(folder, "ios", tmp_path / "a"), make_app(tmp_path / "bundle.zip", "ios", tmp_path / "b")
    assert [(p.relative_to(tmp_path / "a"), p.read_bytes()) for p in ours] == [(p.relative_to(tmp_path / "b"), p.read_bytes()) for p in theirs]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepress.cli import cli

    folder = make_bundle(tmp_path, monkeypatch)
    done = CliRunner().invoke(cli, ["device", "app", "ios", str(folder), "-o", str(tmp_path / "app")])
    assert done.exit_code == 0 and str(tmp_path / "app") in done.output and (tmp_path / "app" / "Podfile").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("kotlinc"), reason="no Kotlin compiler on the PATH")
def test_preprocess_kt_resizes_as_pillow_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_app(make_bundle(tmp_path, monkeypatch), "android", tmp_path / "app")
    sources = (tmp_path / "app" / FACTS["android"]).parent
    main = tmp_path / "Main.kt"
    main.write_text("package org.example.classifier\nimport java.io.File\nfun main(args: Array<String>) { for (line in File(args[0]).readLines()) { val p = line.split(' ')\n"
                    "File(p[6]).writeBytes(Preprocess.fit(RgbImage(p[1].toInt(), p[2].toInt(), File(p[0]).readBytes()), p[3].toInt(), p[4].toInt(), p[5]).bytes) } }\n")
    subprocess.run(["kotlinc", "-include-runtime", "-d", str(tmp_path / "all.jar"), str(sources / "ModelFacts.kt"), str(sources / "Preprocess.kt"), str(main)], check=True)
    random, jobs, expected = np.random.default_rng(0), [], []  # type: Any, List[str], List[np.ndarray]
    for number, (wide, high, to_wide, to_high) in enumerate([(40, 20, 8, 8), (641, 480, 96, 96), (2000, 1501, 64, 48), (10, 10, 32, 32)]):
        photo = random.integers(0, 256, (high, wide, 3), dtype=np.uint8)
        photo.tofile(tmp_path / f"{number}.raw")
        for rule in ("stretch", "crop", "pad"):
            jobs.append(f"{tmp_path}/{number}.raw {wide} {high} {to_wide} {to_high} {rule} {tmp_path}/{number}{rule}.raw")
            expected.append(to_pixels(Image.fromarray(photo), size=(to_high, to_wide), resize=rule))
    (tmp_path / "list").write_text("\n".join(jobs))
    subprocess.run(["java", "-cp", str(tmp_path / "all.jar"), "org.example.classifier.MainKt", str(tmp_path / "list")], check=True)
    for job, pixels in zip(jobs, expected):
        ours = np.fromfile(job.split()[-1], np.uint8).reshape(pixels.shape).astype(int)
        assert np.abs(ours - pixels).max() <= 1, job  # Pillow divides blocks of pixels by a rounded reciprocal
