"""What works on this machine, and the exact command that mends what does not."""
from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional

from edgepress.artifact import installed_version
from edgepress.errors import EdgepressError

# What an extra brings and what each distribution is for.
NEEDS = (
    ("base", "click", "the command line"), ("base", "numpy", "everything"), ("base", "pillow", "reading photos"),
    ("train", "tensorflow", "fine-tuning and conversion"), ("train", "tf_keras", "fine-tuning and conversion"),
    ("train", "tensorflow-model-optimization", "pruning"), ("train", "scikit-learn", "the digits example"), ("train", "scipy", "fitting heads"),
    ("litert", "ai-edge-litert", "running .tflite files"), ("litert", "ai-edge-quantizer", "quantizing .tflite files"),
    ("onnx", "onnx", "writing .onnx files"), ("onnx", "onnxruntime", "running and quantizing .onnx files"), ("onnx", "tf2onnx", "converting to .onnx"),
)
LOW_DISK_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: `remedy` is the exact command, or None where nothing needs mending."""

    subject: str
    ok: bool
    text: str
    remedy: Optional[str] = None


def examine() -> List[Finding]:
    """Everything the doctor looks at, in the order it is shown."""
    return [*_python(), *_distributions(), *_runtimes(), *_devices(), *_machine()]


def _python() -> Iterator[Finding]:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", ok, f"{platform.python_version()} (3.11 to 3.13 work)", None if ok else "python3.11 -m venv .venv && .venv/bin/pip install 'edgepress[all]'")


def _distributions() -> Iterator[Finding]:
    for extra, distribution, purpose in NEEDS:
        version = installed_version(distribution)
        wanted = "edgepress" if extra == "base" else f"'edgepress[{extra}]'"
        yield Finding(distribution, version is not None, f"{version or 'not installed'} – {purpose}", None if version else f"{sys.executable} -m pip install {wanted}")


def _runtimes() -> Iterator[Finding]:
    from edgepress.runtime_install import runtime_rows

    for row in runtime_rows():
        remedy = row.get("remedy")
        yield Finding(f"runtime {row['name']}", row["reason"] is None, row["version"] + " opens and runs a model" if row["reason"] is None else row["reason"], remedy)


# Programs that reach devices: name, purpose, Debian's package.
TOOLS = (("ssh", "devices over ssh", "openssh-client"), ("adb", "phones over adb", "adb"), ("openssl", "signing bundles", "openssl"))


def _devices() -> Iterator[Finding]:
    from edgepress.browser.packages import installed_files
    from edgepress.emulator.requirements import require

    for name, purpose, package in TOOLS:
        there = shutil.which(name) is not None
        yield Finding(name, there, purpose if there else f"not installed – {purpose}", None if there else f"sudo apt install {package}")
    for name, purpose, look in (("emulated device", "plays a Raspberry Pi: edgepress device emulate rpi4", require), ("browser page", "edgepress device serve", installed_files)):
        try:
            look()
        except EdgepressError as error:
            yield Finding(name, False, error.message, (error.hint or "").replace("install them with: ", "") or None)
        else:
            yield Finding(name, True, purpose)


def _machine() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding("disk", free > LOW_DISK_BYTES, f"{free / 2**30:.1f} GiB free here", None if free > LOW_DISK_BYTES else "free some space, or work in another folder")
    weights = os.environ.get("EDGEPRESS_WEIGHTS")
    if weights is None:
        yield Finding("weights", True, "$EDGEPRESS_WEIGHTS is not set: --weights imagenet downloads them through Keras, once")
    else:
        found = sorted(p.name for p in Path(weights).glob("*.h5")) if Path(weights).is_dir() else []
        yield Finding("weights", bool(found), f"$EDGEPRESS_WEIGHTS={weights} holds {len(found)} weight files", None if found else "export EDGEPRESS_WEIGHTS=/folder/with/keras/weights")


def format_findings(findings: List[Finding]) -> str:
    """The findings as lines for people."""
    width = max(len(f.subject) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{'ok ' if f.ok else '-- '} {f.subject:{width}}  {f.text}")
        if f.remedy:
            lines.append(f"    {'':{width}}  mend it with: {f.remedy}")
    missing = sum(not f.ok for f in findings)
    return "\n".join(lines + ["", "everything works here" if not missing else f"{missing} of {len(findings)} could be mended; what is not needed can stay as it is"])
