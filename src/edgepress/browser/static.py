"""The page as a folder to drop on any web server: installable, and usable offline."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict

from edgepress.artifact import digest_file
from edgepress.browser import packages
from edgepress.browser.content import write_content
from edgepress.errors import ArtifactError

WORKER = "service_worker.js"
# Of onnxruntime-web, offline folders leave WebGPU out: 26 MB more that most phones would not use. LiteRT.js has it in the same file.
USED = {"onnx": ("onnxruntime-web/ort.wasm.", "onnxruntime-web/ort-wasm-simd-threaded.mjs", "onnxruntime-web/ort-wasm-simd-threaded.wasm"), "tflite": ("litert/",)}


def write_web_app(bundle: Path, to: Path) -> Dict[str, Any]:
    """Write the static web app of a bundle (or run) into the new folder `to`; nothing is left there where it fails.

    Returns:
        {"files", "size_bytes", "models"}.

    Raises:
        ArtifactError: `to` holds something already, or the bundle is none or damaged.
        UnsupportedError: the browsers' runtimes are not installed; says the command.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ArtifactError(f"{to} is there already", "give another folder, or remove this one")
    packages.installed_files()
    to.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{to.name}.part-", dir=to.parent))
    try:
        app = write_content(bundle, part, served=False)
        _copy_packages(part, {model["format"] for model in app["models"]})
        hashes = _fill_worker(part)
        part.chmod(0o755)
        if to.exists():
            to.rmdir()
        os.rename(part, to)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"files": len(hashes) + 1, "size_bytes": sum(path.stat().st_size for path in to.rglob("*") if path.is_file()), "models": [model["variant"] for model in app["models"]]}


def _copy_packages(part: Path, formats: set[str]) -> None:
    for name, source in packages.installed_files([prefix for one in sorted(formats) for prefix in USED[one]]).items():
        (part / "packages" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, part / "packages" / name)


def _fill_worker(part: Path) -> Dict[str, str]:
    """Tell the service worker every file's hash; its cache is named by them all, so any change of the app is a new cache."""
    hashes = {path.relative_to(part).as_posix(): digest_file(path) for path in sorted(part.rglob("*")) if path.is_file() and path.name != WORKER}
    text = (part / WORKER).read_text(encoding="utf-8")
    listed = json.dumps(hashes, indent=1)
    for mark, value in (("{/* path: sha256 */}", listed), ("VERSION", hashlib.sha256(listed.encode()).hexdigest()[:16])):
        assert text.count(mark) == 1, mark
        text = text.replace(mark, value)
    (part / WORKER).write_text(text, encoding="utf-8", newline="\n")
    return hashes
