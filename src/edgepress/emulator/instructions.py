"""Count the instructions of one inference on the processor of a Raspberry Pi: deterministic, without a Raspberry Pi, and never a time.

A whole machine under `qemu-system-aarch64 -icount shift=0`: its clock advances by one nanosecond per instruction executed, so what its own clock says is a count
(QEMU's documentation, "TCG Instruction Counting"). It knows no caches and no pipelines: it ranks files of one model on one processor and catches regressions.
"""
from __future__ import annotations

import json
import re
import secrets
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Dict, List, Optional, Sequence

from edgepress.artifact import digest_file, model_file
from edgepress.emulator import kernel
from edgepress.emulator.initramfs import Initramfs
from edgepress.emulator.profiles import find_profile
from edgepress.emulator.requirements import QEMU_SYSTEM, require_counting
from edgepress.emulator.root import PYTHON, SITE, build_root, emulator_home
from edgepress.errors import JobError
from edgepress.progress import report_progress
from edgepress.worker_pack import worker_bytes

RUNS, WARMUP_RUNS = 12, 3
BOOT_SECONDS, FILE_SECONDS = 180, 300  # given up after; a boot takes 15 s on a quiet machine
_RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime"}
_LIBRARIES = ("ld-linux", "libc.", "libm.", "libdl.", "libpthread.", "librt.", "libutil.", "libz.", "libexpat.", "libstdc++.", "libgcc_s.", "libgomp.", "libffi.", "libcrypto.", "libbz2.", "liblzma.")
_LEFT_OUT = re.compile(r"/(tests?|testing|idlelib|tkinter|ensurepip|turtledemo|lib2to3|transformers|quantization|tools|config-3[^/]*|pydoc_data)$|WebGpu|/include$")
_PACKAGES = {"litert": ("ai_edge_litert", "backports", "typing_extensions", "flatbuffers", "ml_dtypes", "tqdm"), "onnxruntime": ("onnxruntime", "flatbuffers", "packaging", "google", "protobuf")}
# Nothing random: addresses, the boot's seed, the date.
_KERNEL_OPTIONS = "console=ttyAMA0 rdinit=/init panic=-1 quiet nokaslr norandmaps PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1"


def count_instructions(files: Sequence[Path], *, profile: str, home: Optional[Path] = None) -> List[Dict[str, Any]]:
    """Instructions per inference of model files on one core of a profile's processor: inputs handed over, inference, outputs read.

    Args:
        files: .tflite and .onnx files, or artifacts that hold one.
        profile: rpi3, rpi4 or rpi5.

    Returns:
        One record per file: "model", "sha256", "profile", "cpu", "runtime" {"name", "version"}, "accelerator", "measured_on" (always "emulated"), "status";
        "instructions" (the median run), "instructions_min", "instructions_max", "runs" where the status is "ok", "reason" where it is "unsupported".

    Raises:
        UnsupportedError: no such profile, or this machine cannot emulate one.
        ModelError: not a model file, or several to choose from.
        JobError: the emulated machine ended too early.
    """
    cpu = find_profile(profile).cpu
    models = [model_file(Path(file), formats=tuple(_RUNTIMES)) for file in files]
    runtimes = [_RUNTIMES[model.suffix[1:]] for model in models]
    require_counting()
    home = emulator_home() if home is None else home
    root, image = build_root(home), kernel.fetch_kernel(home)
    nonce = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="edgepress-") as work:
        initramfs = Path(work) / "initramfs"
        _write_initramfs(initramfs, root, models, {"runtimes": runtimes, "runs": RUNS, "warmup_runs": WARMUP_RUNS, "nonce": nonce})
        report_progress(f"counting instructions of {len(files)} file{'s' * (len(files) != 1)} on an emulated {cpu}")
        console = _boot(image, initramfs, cpu=cpu, timeout_seconds=BOOT_SECONDS + FILE_SECONDS * len(files))
    said = [json.loads(line) for line in re.findall(rf"^EDGEPRESS-COUNT {nonce} (.*?)\r?$", console, re.MULTILINE)]
    if not said or not said[-1].get("end"):
        raise JobError("the emulated machine ended before it had counted everything", stdout=console[-4000:], hint="the last lines above say why; with too little memory, give it fewer files")
    return [{"model": str(file), "sha256": digest_file(model), "profile": profile, "cpu": cpu, "threads": 1, "measured_on": "emulated", **_outcome(runtime, answer, str(file))}
            for file, model, runtime, answer in zip(files, models, runtimes, said)]


def format_counts(records: Sequence[Dict[str, Any]]) -> str:
    """Counts as a table for people; each against the first file that ran."""
    first = next((record["instructions"] for record in records if record["status"] == "ok"), None)
    width = max(len(record["model"]) for record in records)
    lines = [f"{'model':{width}}  {'instructions':>14}  ratio  runtime"]
    for record in records:
        if record["status"] == "ok":
            lines.append(f"{record['model']:{width}}  {record['instructions']:>14,}  {record['instructions'] / first:5.2f}  {record['runtime']['name']} {record['runtime']['version']}"
                         + (f" with {record['accelerator']}" if record["accelerator"] else ""))
        else:
            lines.append(f"{record['model']:{width}}  {'–':>14}      –  {record['runtime']['name']}: {record['reason']}")
    return "\n".join([*lines, "", f"Instructions of one inference on one core of a {records[0]['profile']} ({records[0]['cpu']}), counted on an emulated machine: not a time, since memory and caches cost nothing there."])


def _write_initramfs(to: Path, root: Path, files: Sequence[Path], job: Dict[str, Any]) -> None:
    """Python, the runtimes that are needed, the files and the job, in one image."""
    packages = {"numpy", *(name for runtime in job["runtimes"] for name in _PACKAGES[runtime])}
    with to.open("wb") as file:
        image = Initramfs(file)
        image.add_tree(root, lambda name: _wanted(name, packages))
        image.add_folder("edgepress")
        image.add_file("edgepress/worker.pyz", worker_bytes())
        image.add_file("edgepress/job.json", json.dumps(job).encode())
        for number, model in enumerate(files):
            image.add_file(f"edgepress/{number}", model.read_bytes())
        image.add_file("init", f"#!/usr/bin/python{PYTHON}\n".encode() + Path(__file__).with_name("guest.py").read_bytes(), executable=True)
        image.finish()


def _wanted(name: str, packages: set) -> bool:
    if _LEFT_OUT.search(name):
        return False
    if name.startswith(f"{SITE}/"):
        return name[len(SITE) + 1:].split("/")[0].split("-")[0].split(".")[0] in packages
    libraries = "usr/lib/aarch64-linux-gnu"
    if name.startswith(f"{libraries}/"):
        return name[len(libraries) + 1:].startswith(_LIBRARIES)
    parents = ("bin", "lib", "usr", "usr/bin", "usr/lib", libraries, "usr/lib/python3", SITE)
    return name in parents or name == f"usr/bin/python{PYTHON}" or name.startswith((f"usr/lib/python{PYTHON}", "usr/lib/ld-linux"))


def _boot(image: Path, initramfs: Path, *, cpu: str, timeout_seconds: float) -> str:
    """Start the machine; its console's text once it has switched itself off."""
    memory_mb = 1024 + 2 * initramfs.stat().st_size // 2**20
    command = [require_counting(), "-machine", "virt,dtb-randomness=off", "-cpu", cpu, "-smp", "1", "-m", str(memory_mb), "-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01T00:00:00,clock=vm",
               "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(image), "-initrd", str(initramfs), "-append", _KERNEL_OPTIONS]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise JobError(f"the emulated machine did not end within {timeout_seconds:g} s and was stopped", command=command, hint="give it fewer or smaller files") from error
    if done.returncode:
        raise JobError(f"{QEMU_SYSTEM} failed", command=command, exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr)
    return done.stdout


def _outcome(runtime: str, answer: Dict[str, Any], name: str) -> Dict[str, Any]:
    if "reason" in answer:
        return {"status": "unsupported", "runtime": {"name": runtime}, "reason": answer["reason"].replace(f"/edgepress/{answer['file']}", name)}
    counts = answer["instructions"]
    return {"status": "ok", "runtime": {"name": runtime, "version": answer["version"]}, "accelerator": answer["details"].get("delegate"), "runs": len(counts),
            "instructions": int(median(counts)), "instructions_min": min(counts), "instructions_max": max(counts)}
