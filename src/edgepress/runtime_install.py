"""Which runtimes work on this machine, and how to get the one that needs a virtual environment of its own."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from edgepress.errors import EdgepressError, JobError, UnsupportedError, nearest
from edgepress.jobs import available_runtimes as available_runtimes  # the table's other half; see there
from edgepress.jobs import run_job
from edgepress.profiles import runtime_profile
from edgepress.progress import report_progress
from edgepress.runtimes import RUNTIMES, load_runtime
from edgepress.targets.local import interpreter, runtime_folder

# Runtime → what goes into its environment. NumPy 2 lets tflite-runtime be imported and then breaks its first Interpreter.
REQUIREMENTS = {"tflite_runtime": ("tflite-runtime==2.14.0", "numpy<2", "pillow")}
PYTHONS = ("3.11", "3.10", "3.9")  # for which tflite-runtime 2.14 has wheels


def runtime_rows() -> List[Dict[str, Any]]:
    """One row per runtime: {"name", "works", "version", "formats", "profile", "reason", "remedy"}; each opens and runs a small model in its own process."""
    with ThreadPoolExecutor(max_workers=len(RUNTIMES)) as pool:
        return list(pool.map(_row, RUNTIMES))


def _row(name: str) -> Dict[str, Any]:
    module = load_runtime(name)
    version, reason, remedy = check_runtime(name)
    return {"name": name, "works": "yes" if reason is None else "no", "version": version, "formats": list(module.FORMATS),
            "profile": runtime_profile(name), "reason": reason, "remedy": remedy}


def check_runtime(name: str) -> Tuple[Optional[str], Optional[str], Optional[str]]:
    """(version, None, None) of a runtime that works here, or (None, the reason why not, the command that mends it)."""
    remedy = _remedy(name)
    try:
        interpreter(name)
    except EdgepressError:
        return None, "not installed", remedy
    try:
        with tempfile.TemporaryDirectory(prefix="edgepress-") as work:
            result = run_job({"job": "health", "runtime": name}, work=Path(work), timeout_seconds=120)
    except JobError as error:
        return None, error.reason, remedy
    return (result["runtime"]["version"], None, None) if result["status"] == "ok" else (None, result["reason"], remedy)


def _remedy(name: str) -> str:
    if name in REQUIREMENTS:
        return f"edgepress runtimes --install {name}"
    return f"{sys.executable} -m pip install 'edgepress[{load_runtime(name).EXTRA}]'"


def install_runtime(name: str) -> Path:
    """Make the virtual environment of a runtime, from the package index that pip is set up with; replaces an older one when the new one works.

    Raises:
        UnsupportedError: the runtime needs no environment of its own, or no Python here has a wheel of it.
        JobError: venv or pip failed, or the runtime does not work; nothing is left behind.
    """
    if name not in REQUIREMENTS:
        load_runtime(name)
        raise UnsupportedError(f"runtime {name} needs no environment of its own; {nearest(name, REQUIREMENTS)}", f"install it with: {_remedy(name)}")
    python, folder = find_python(), runtime_folder(name)
    part = folder.with_name(f".{name}.part-{os.getpid()}")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        report_progress(f"making {folder} with {python}")
        _run([python, "-m", "venv", str(part)])
        report_progress(f"installing {', '.join(REQUIREMENTS[name])}")
        _run([str(part / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *REQUIREMENTS[name]])
        _run([str(part / "bin" / "python"), "-c", "from tflite_runtime.interpreter import Interpreter; import numpy, PIL"])
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(part, folder)
    except OSError as error:
        raise UnsupportedError(f"{folder} cannot be made ({error.strerror})", "set EDGEPRESS_HOME to a folder that can be written") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    version, reason, _ = check_runtime(name)
    if reason:
        shutil.rmtree(folder, ignore_errors=True)
        raise JobError(f"runtime {name} was installed but does not work: {reason}", hint="see its messages above; nothing was kept")
    report_progress(f"runtime {name} {version} works")
    return folder


def find_python() -> str:
    """A Python that tflite-runtime 2.14 has wheels for: this one, or one on the search path.

    Raises:
        UnsupportedError: there is none.
    """
    for candidate in (sys.executable, *(shutil.which(f"python{v}") for v in PYTHONS)):
        if candidate and _version(candidate) in PYTHONS:
            return candidate
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    raise UnsupportedError(f"tflite-runtime 2.14 has no wheel for Python {here}; accepted: {', '.join(PYTHONS)}",
                           "install one of these so that, for example, `python3.11` is found; litert runs the same files without it")


def _version(python: str) -> Optional[str]:
    try:
        done = subprocess.run([python, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"\d+\.\d+", done.stdout)
    return found.group() if found and done.returncode == 0 else None


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise JobError("a command of the installation failed", command=command, exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr,
                       hint="mend that (is the package index reachable?) and run it again")
