"""The two runtimes for browsers: which files of theirs a page needs, and getting them through npm with our lock file."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import Dict, Mapping, Sequence

from edgepress.artifact import digest_file, write_json
from edgepress.errors import ArtifactError, JobError, UnsupportedError
from edgepress.progress import report_progress
from edgepress.targets.local import runtime_folder

INSTALL = "edgepress device serve --install"
RECORD = "packages.json"  # written last: without it a folder is unfinished
SECONDS = 600
# Runtime as our records call it → its npm package.
PACKAGES: Mapping[str, str] = {"onnxruntime-web": "onnxruntime-web", "litert-web": "@litertjs/core"}
_ORT, _LITERT = "onnxruntime-web/dist", "@litertjs/core"
# Path below packages/ → path below node_modules. Of 180 MB, what a browser may ask for: SIMD and threads, WebGPU; for LiteRT also processors without relaxed SIMD.
FILES: Mapping[str, str] = {
    **{f"onnxruntime-web/{name}": f"{_ORT}/{name}" for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
                                                                "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")},
    "litert/index.js": f"{_LITERT}/dist/index.js", "litert/wasm_utils.js": "@litertjs/wasm-utils/dist/index.js",
    **{f"litert/wasm/litert_wasm_{kind}internal.{end}": f"{_LITERT}/wasm/litert_wasm_{kind}internal.{end}" for kind in ("", "threaded_", "compat_") for end in ("js", "wasm")},
}
# LiteRT.js imports its helper by package name, which browsers resolve neither in workers nor without a map; the file lies beside it here.
BARE_IMPORT, RELATIVE_IMPORT = b'"@litertjs/wasm-utils"', b'"./wasm_utils.js"'


def versions() -> Dict[str, str]:
    """Runtime → the version that the lock file names."""
    locked = json.loads(_resource("package-lock.json"))["packages"]
    return {runtime: locked[f"node_modules/{package}"]["version"] for runtime, package in PACKAGES.items()}


def packages_folder() -> Path:
    """Where the packages of this lock file lie once they are installed."""
    digest = hashlib.sha256(_resource("package.json").encode() + _resource("package-lock.json").encode()).hexdigest()
    return runtime_folder("web").parents[1] / "web" / digest[:16]


def installed_files(names: Sequence[str] = ("",)) -> Dict[str, Path]:
    """Path below packages/ → file, of the installed packages whose path starts with one of `names`.

    Raises:
        UnsupportedError: not installed; says the command.
        ArtifactError: a file is not the one that was installed.
    """
    folder = packages_folder()
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        listed = " and ".join(f"{name} {version}" for name, version in versions().items())
        raise UnsupportedError(f"the page needs {listed}, which are not installed here ({folder})", f"install them with: {INSTALL}") from error
    for name, digest in record.items():
        if not (folder / name).is_file() or digest_file(folder / name) != digest:
            raise ArtifactError(f"{folder / name} is not the file that was installed", f"install it again: {INSTALL}")
    return {name: folder / name for name in record if name.startswith(tuple(names)) or name == "LICENSES.txt"}


def install_packages() -> Path:
    """Get the packages with `npm ci` and keep what a page needs; every package is checked against the sha512 in our lock file, and no script of theirs is run.

    Raises:
        UnsupportedError: there is no npm, or nowhere to write.
        JobError: npm failed; nothing is left behind.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UnsupportedError("npm is not installed here, and it brings the runtimes for browsers", "install Node.js 18 or newer, which has it (on Debian: sudo apt install npm)")
    folder = packages_folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as part:
            _run_npm(npm, Path(part))
            _keep(Path(part) / "node_modules", Path(part) / "kept")
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(Path(part) / "kept", folder)
    except OSError as error:
        raise UnsupportedError(f"{folder} cannot be made ({error.strerror})", "set EDGEPRESS_HOME to a folder that can be written") from error
    report_progress(f"{folder}: " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    return folder


def _run_npm(npm: str, part: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        (part / name).write_text(_resource(name), encoding="utf-8")
    command = [npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
    report_progress("npm ci (46 MB of packages, checked against the lock file)")
    try:
        done = subprocess.run(command, cwd=part, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise JobError(f"npm did not end within {SECONDS} s and was stopped", command=command, hint="is the registry reachable? (npm ping)") from error
    if done.returncode:
        raise JobError("npm could not install the packages", command=command, exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr, hint="is the registry reachable? (npm ping)")


def _keep(modules: Path, kept: Path) -> None:
    """Copy what a page needs, with its licences, and write the record of its hashes."""
    for name, source in FILES.items():
        data = (modules / source).read_bytes()
        if name == "litert/index.js":
            if BARE_IMPORT not in data:
                raise JobError(f"{source} is not laid out as this version of edgepress expects: it does not import {BARE_IMPORT.decode()}")
            data = data.replace(BARE_IMPORT, RELATIVE_IMPORT)
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (kept / name).write_bytes(data)
    apache = resources.files("edgepress").joinpath("bundle_templates", "LICENSE-Apache-2.0.txt").read_text(encoding="utf-8")
    (kept / "LICENSES.txt").write_text(_resource("LICENSES.txt") + "\n" + apache, encoding="utf-8")
    write_json(kept / RECORD, {path.relative_to(kept).as_posix(): digest_file(path) for path in sorted(kept.rglob("*")) if path.is_file()})


def _resource(name: str) -> str:
    return resources.files("edgepress").joinpath("data", "web_packages", name).read_text(encoding="utf-8")
