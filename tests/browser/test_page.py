"""The page in a real browser: same pixels, same answers, measured, handed back; offline; camera."""
from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import PIL
import pytest
from chromium import Chromium, Page
from pages import make_bundle, make_run
from PIL import Image

from edgepress import measurement, parity_photos
from edgepress.artifact import digest_file
from edgepress.browser.serving import Serving, serving
from edgepress.browser.static import write_web_app
from edgepress.bundle_archive import FOLDER
from edgepress.modelspec import NORMALIZATIONS, ModelSpec
from edgepress.preprocess import load_pixels, to_pixels
from edgepress.recipe import BundleConfig
from edgepress.stages.bundle import bundle

pytestmark = pytest.mark.device
START, SENT = "document.getElementById('start')", "document.getElementById('sent')"
PIXEL_LEVELS = 2  # of 255: Chromium and Pillow share libjpeg-turbo; large photos are reduced otherwise
VERTICAL_FIRST = int(PIL.__version__.split(".")[0]) >= 13


def measure(page: Page, *, short: bool = True) -> None:
    """Press the button and wait for the end. Tests need no good statistics: 0.1 s of runs instead of 2."""
    page.wait(f"!{START}.disabled")
    if short:
        page.run("import('./results.js').then(m => Object.assign(m.SETTINGS, {min_seconds: 0.1, warmup_seconds: 0.02}))")
    page.run(f"{START}.click()")
    page.wait(f"!{START}.disabled")


@pytest.fixture(scope="module")
def served(run: Path, web_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(run, out=tmp_path_factory.mktemp("out")) as page:
        yield page


@pytest.fixture(scope="module")
def measured(served: Serving, chromium: Chromium) -> Iterator[Page]:
    page = chromium.page(served.urls[0])
    measure(page)
    yield page
    page.close()


def test_every_file_answers_as_here_and_comes_back_as_measurements(served: Serving, measured: Page) -> None:
    records = measurement.read_measurements(served.file)
    assert [(r.format, r.threads) for r in records] == [("tflite", 1), ("tflite", 2)] * 2 + [("onnx", 1), ("onnx", 2)] * 2 or measured.run("navigator.hardwareConcurrency") < 2
    for record in records:
        assert (record.status, record.reason) == ("ok", None)
        assert record.runtime == {"tflite": "litert-web", "onnx": "onnxruntime-web"}[record.format] and record.runtime_version
        assert record.target == "browser://chrome" and record.measured_on == "emulated"  # headless
        assert len(record.latencies_ms) >= 50 and record.input_shapes == ((1, 8, 8, 3),) and record.host["isolated"] is True
        assert record.format == "onnx" or record.details["delegate"] == "XNNPACK"  # read back, not assumed
    assert {r.file for r in records} == {"float32.tflite", "static_wi8_ai8.tflite", "float32.onnx", "static_wi8_ai8.onnx"}


def test_the_page_shows_it_and_asks_nobody_else(served: Serving, measured: Page) -> None:
    text = measured.run("document.body.innerText")
    assert text.count("as on the host") >= 4 and "µs" in text and "recorded as emulated" in text and "has 8 records" in text
    assert measured.problems() == []
    assert all(url.startswith((served.urls[0], "blob:", "data:")) for url in measured.requests())


@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_sticks_out(measured: Page, width: int) -> None:
    measured.resize(width, 800)
    assert measured.run("document.documentElement.scrollWidth") <= width
    assert measured.run("Math.min(...[...document.querySelectorAll('main button:not([hidden])')].map(b => b.offsetHeight))") >= 44


def test_resizing_gives_the_bytes_of_pillow(measured: Page) -> None:
    random = np.random.default_rng(0)
    cases: List[Dict[str, Any]] = []
    for number in range(48):
        width, height, wide, high = (int(n) for n in random.integers((1, 1, 1, 1), (260, 260, 80, 80)))
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        resize = ("stretch", "crop", "pad")[number % 3]
        expected = to_pixels(Image.fromarray(image), size=(high, wide), resize=resize)
        cases.append({"width": width, "height": height, "data": base64.b64encode(image.tobytes()).decode(), "expected": base64.b64encode(expected.tobytes()).decode(),
                      "spec": {"input_width": wide, "input_height": high, "resize": resize, "vertical_first": VERTICAL_FIRST}})
    wrong = measured.run("""(async () => {
        const {toPixels} = await import('./pixels.js'), bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
        return CASES.filter(one => {
            const expected = bytes(one.expected), own = toPixels({width: one.width, height: one.height, data: bytes(one.data)}, one.spec);
            return own.length !== expected.length || own.some((value, i) => value !== expected[i]);
        }).map(one => one.spec);
    })()""".replace("CASES", json.dumps(cases)))
    assert wrong == []


def test_photos_are_decoded_nearly_as_here(measured: Page, tmp_path: Path) -> None:
    photos = parity_photos.hard_photos(tmp_path / "hard")
    parity_photos.scene().resize((2560, 1920)).save(tmp_path / "huge.jpg", quality=90)  # read at half its size here, and averaged there
    levels = {photo.name: levels_off(measured, photo) for photo in [*photos, tmp_path / "huge.jpg"]}
    assert {name: level for name, level in levels.items() if level > PIXEL_LEVELS} == {}
    assert levels["grey.png"] == levels["palette.png"] == 0


def levels_off(page: Page, photo: Path) -> int:
    """Largest difference between the page's pixels of a photo and ours, of 255."""
    spec = {"input_width": 96, "input_height": 80, "resize": "crop", "vertical_first": VERTICAL_FIRST}
    given = page.run("""(async () => {
        const {loadPixels} = await import('./pixels.js'), bytes = Uint8Array.from(atob(DATA), c => c.charCodeAt(0));
        return btoa(String.fromCharCode(...await loadPixels(new Blob([bytes]), SPEC)));
    })()""".replace("DATA", json.dumps(base64.b64encode(photo.read_bytes()).decode())).replace("SPEC", json.dumps(spec)))
    expected = load_pixels(photo, ModelSpec(labels=("a",), input_height=80, input_width=96, resize="crop"))
    return int(np.abs(np.frombuffer(base64.b64decode(given), np.uint8).astype(int) - expected.ravel()).max())


def test_the_camera_is_classified_live(measured: Page) -> None:
    measured.run("document.getElementById('camera').click()")
    measured.wait("document.getElementById('top').children.length === 3 && /a second/.test(document.getElementById('live-time').textContent)")
    assert measured.run("document.getElementById('verdict').textContent") == "green"  # Chromium's fake camera shows a green field
    measured.run(f"{START}.click()")  # a measurement ends it: nothing else shall take the processor
    assert measured.run("document.getElementById('camera').textContent") == "Start camera" and measured.run("document.getElementById('camera').disabled")
    measured.wait(f"!{START}.disabled && !document.getElementById('camera').disabled")


def test_a_file_that_answers_otherwise_gets_no_figures(run: Path, web_packages: Path, chromium: Chromium, tmp_path: Path) -> None:
    """Its expected answers are turned by one class: what the browser says is then wrong, and neither side shows a time."""
    folder = make_bundle(run, tmp_path / "bundle", "static_wi8_ai8.tflite")
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    for image in golden["images"]:
        image["probabilities"] = image["probabilities"][1:] + image["probabilities"][:1]
    (folder / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["golden.json"] = {"sha256": digest_file(folder / "golden.json"), "size_bytes": (folder / "golden.json").stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with serving(folder, out=tmp_path / "out") as served:
        page = chromium.page(served.urls[0])
        measure(page)
        assert "the top class is number" in page.run("document.getElementById('results').innerText")
        page.close()
    assert all(record.status == "failed" and not record.rounds and "top class" in str(record.reason) for record in measurement.read_measurements(served.file))


def test_the_command_serves_prints_the_address_and_ends_after_one_result(run: Path, web_packages: Path, chromium: Chromium, tmp_path: Path) -> None:
    packed = make_bundle(run, tmp_path / "bundle", "float32.onnx")
    command = [sys.executable, "-m", "edgepress", "device", "serve", str(packed), "--once", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        page = chromium.page(process.stdout.readline().strip())
        measure(page)
        page.close()
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    records = measurement.load_records(json.loads(out))
    assert {record.file for record in records} == {"model.onnx"} and all(record.status == "ok" for record in records)
    assert "Only this computer can open it" in err and "█" in err or "▄" in err  # the QR code
    assert measurement.read_measurements(packed.with_name("bundle-browser")) == records


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, format: str, *values: Any) -> None:
        """Say nothing."""


def test_the_web_app_works_with_its_server_gone(run: Path, web_packages: Path, chromium: Chromium, tmp_path: Path) -> None:
    made = write_web_app(make_bundle(run, tmp_path / "bundle", "static_wi8_ai8.tflite"), tmp_path / "app")
    assert made["models"] == ["static_wi8_ai8.tflite"] and not (tmp_path / "app" / "packages" / "onnxruntime-web").exists()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(tmp_path / "app")))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    page = chromium.page(f"http://localhost:{server.server_address[1]}/")
    page.wait("document.getElementById('mode').textContent === '· works offline'")
    assert page.run("crossOriginIsolated")  # by the headers that the service worker adds
    manifest = page.call("Page.getAppManifest")
    assert manifest["errors"] == [] and page.call("Page.getInstallabilityErrors")["installabilityErrors"] in ([], [{"errorId": "in-incognito", "errorArguments": []}])
    server.shutdown()
    server.server_close()
    shutil.rmtree(tmp_path / "app")
    page.call("Network.clearBrowserCache")
    page.open(page.run("location.href"))
    measure(page)
    assert "as on the host" in page.run("document.getElementById('results').innerText")
    assert page.run("document.getElementById('sent').hidden") and not page.run("document.getElementById('save').hidden")
    page.close()


@pytest.mark.slow
def test_webgpu_on_a_software_adapter(run: Path, web_packages: Path, program: str, tmp_path: Path) -> None:
    """What ran is read back from the libraries' own logs: all of the float files on WebGPU."""
    bundle(tmp_path, run=run, config=BundleConfig(choose="float32.onnx", also=("float32.tflite",), golden=4))
    browser = Chromium(program, "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--use-vulkan=swiftshader")
    try:
        with serving(tmp_path / FOLDER, out=tmp_path / "out") as served:
            page = browser.page(served.urls[0])
            page.wait(f"!{START}.disabled")
            if page.run("navigator.gpu ? navigator.gpu.requestAdapter().then(one => !one) : true"):
                pytest.skip("this Chromium has no software WebGPU")
            measure(page)
            assert "WebGPU is emulated by the processor" in page.run("document.getElementById('notes').innerText")
    finally:
        browser.close()
    records = {record.format: record for record in measurement.read_measurements(served.file) if record.accelerator == "webgpu"}
    assert {record.status for record in records.values()} == {"ok"}, [record.reason for record in records.values()]
    assert records["tflite"].details["delegate"] == "WebGPU" and list(records["onnx"].details["nodes"]) == ["WebGpuExecutionProvider"]


@pytest.mark.data
@pytest.mark.parametrize(("files", "spec"), [
    ({"float32.tflite": "tflite/mobilenet_v1_0.25_224_float.tflite", "static_wi8_ai8.tflite": "tflite/mobilenet_v1_0.25_224_quant.tflite"},
     ModelSpec(labels=tuple(f"class {i}" for i in range(1001)), input_height=224, input_width=224, scale=(1 / 127.5,) * 3, offset=(-1.0,) * 3, normalization_inside=False)),
    ({"float32.onnx": "onnx/resnet20_cifar10.onnx"},
     ModelSpec(labels=tuple(f"class {i}" for i in range(10)), input_height=32, input_width=32, resize="crop", scale=NORMALIZATIONS["imagenet"][0], offset=NORMALIZATIONS["imagenet"][1],
               normalization_inside=False, input_type="float32", layout="nchw", output="logits"))], ids=["mobilenet", "resnet20"])
def test_models_of_others_answer_as_here(files: Dict[str, str], spec: ModelSpec, shared_data: Any, web_packages: Path, chromium: Chromium, tmp_path: Path) -> None:
    """Float and quantized inputs and outputs, normalised by the caller, channels first, logits: nothing that our own files have."""
    variants = [(variant, {"tflite": "litert", "onnx": "onnxruntime"}[variant.rpartition(".")[2]], shared_data(f"weights/{file}")) for variant, file in files.items()]
    photos = sorted(shared_data("datasets/imagenet_sample/images").iterdir())[:8]
    with serving(make_run(tmp_path, variants, photos, spec), out=tmp_path / "out") as served:
        page = chromium.page(served.urls[0])
        measure(page)
        assert page.problems() == []
        page.close()
    records = measurement.read_measurements(served.file)
    assert {record.file for record in records} == set(files) and [(record.status, record.reason) for record in records] == [("ok", None)] * len(records)
