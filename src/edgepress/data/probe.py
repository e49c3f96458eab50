"""Run in each Python of a device by probe.sh: prints one line about it. Imports nothing heavy; works from Python 3.5."""
import json
import os
import platform
import struct
import sys
import sysconfig

NAMES = ("numpy", "pillow", "ai-edge-litert", "onnxruntime", "tflite-runtime", "picamera2", "pip")
MODULES = {"ai-edge-litert": "ai_edge_litert", "onnxruntime": "onnxruntime", "tflite-runtime": "tflite_runtime", "numpy": "numpy", "pillow": "PIL"}


def version(name):
    """Version of a distribution, "unknown" where only its module is found, None where neither is."""
    try:
        from importlib.metadata import version as installed

        return installed(name)
    except (ImportError, LookupError, ValueError, OSError):
        pass
    try:
        from importlib.util import find_spec

        return "unknown" if name in MODULES and find_spec(MODULES[name]) else None
    except (ImportError, ValueError):
        return None


def glibc():
    """"glibc 2.41", or "" where the C library is another one."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return ""


def has(module):
    """Whether a module of the standard library is there (Debian splits some off)."""
    try:
        __import__(module)
        return True
    except ImportError:
        return False


venv = sys.prefix != getattr(sys, "base_prefix", sys.prefix)
print("python=" + json.dumps({
    "path": sys.executable, "prefix": sys.prefix, "version": platform.python_version(), "implementation": platform.python_implementation(), "bits": struct.calcsize("P") * 8, "venv": venv,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")), "ensurepip": has("ensurepip"), "glibc": glibc(),
    "externally_managed": not venv and os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")),
    "packages": {name: version(name) for name in NAMES if version(name)}}))
