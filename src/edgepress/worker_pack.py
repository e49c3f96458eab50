"""Build worker.pyz: the device-safe modules and the worker in one file that any Python ≥ 3.9 runs; same sources, same bytes."""
from __future__ import annotations

import io
import zipfile
from importlib import resources

# Everything the worker may import. Each is standard library, NumPy, Pillow and one runtime, in Python 3.9 syntax.
MODULES = ("__init__", "errors", "artifact", "modelspec", "host", "protobuf", "onnx_bytes", "preprocess", "feeding", "fingerprint", "timing", "timing_device", "power", "op_profile", "interleave", "worker", "bundle_files", "bundle_programs", "bundle_live", "extract", "releases", "verify",
           "runtimes/__init__", "runtimes/accelerators", "runtimes/base", "runtimes/interpreter", "runtimes/litert", "runtimes/litert_gpu", "runtimes/tflite_runtime", "runtimes/onnxruntime")
_MAIN = "import os, sys\nfrom edgepress.worker import main\ncode = main()\nsys.stdout.flush()\nsys.stderr.flush()\nos._exit(code)\n"
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold


def worker_bytes() -> bytes:
    """The bytes of worker.pyz, in the layout of `zipapp`. Stored, not deflated: zlib versions differ, and it starts faster."""
    data = io.BytesIO()
    data.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(data, "a", zipfile.ZIP_STORED) as archive:
        add_entry(archive, "__main__.py", _MAIN.encode())
        for name in MODULES:
            add_entry(archive, f"edgepress/{name}.py", resources.files("edgepress").joinpath(f"{name}.py").read_bytes())
    return data.getvalue()


def add_entry(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """A file in a zip whose bytes depend on nothing but its name and content."""
    entry = zipfile.ZipInfo(name, date_time=_OLDEST)
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    archive.writestr(entry, data)
