"""Make src/edgepress/data/locks/*.txt (hash-locked requirements) and data/wheels.json (which wheels of a runtime exist) from the package index.

    python benchmarks/make_locks.py [--only litert] [--prove]

Both are made by pip itself: `pip install --dry-run --report` resolves each runtime for each Python and machine, `pip -vv index versions` lists every
wheel with its hash. Each Python 3.9 to 3.13 must be on the search path, because pip evaluates "python_version" markers for the Python it runs in.
Run it when a runtime brings a new version, look at the differences, commit them. --prove makes nothing: it installs each lock of this machine in a fresh
virtual environment, offline and with hashes, and lets our worker open a model there.
"""
from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from edgepress.locks import DISTRIBUTIONS, LOCKS, MACHINES, PYTHONS, WHEELS, locked, manylinux_tags, write_wheelhouse
from edgepress.worker_pack import worker_bytes

# The versions everything here is measured with, or the newest older one that a Python has wheels of. NumPy: see devices.toml, numpy-abi.
WANTED = {"litert": ("ai-edge-litert<=2.3.0", "numpy", "pillow"), "onnxruntime": ("onnxruntime<1.32", "numpy", "pillow"), "tflite_runtime": ("tflite-runtime<=2.14.0", "numpy<2", "pillow")}
FROM_SYSTEM = {"armv7l": ("numpy", "pillow")}  # no wheels of them on the index: apt's python3-numpy and python3-pil
GLIBC = {"3.9": (2, 31), "3.10": (2, 35), "3.11": (2, 36), "3.12": (2, 39), "3.13": (2, 41)}  # of the systems that ship this Python: bullseye, jammy, bookworm, noble, trixie
OLDEST_GLIBC = (2, 5)


def main() -> None:
    """Resolve, look up, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(WANTED), help="locks of this runtime alone")
    parser.add_argument("--prove", action="store_true", help="install the committed locks of this machine and run the worker in them")
    given = parser.parse_args()
    only = given.only
    if given.prove:
        sys.exit(4 if any([not prove(*lock) for lock in locked() if lock[2] == platform.machine() and only in (None, lock[0])]) else 0)
    for runtime, python, machine in [(r, p, m) for r in WANTED for p in PYTHONS for m in MACHINES if only in (None, r)]:
        path = LOCKS / f"{runtime}-py{python}-{machine}.txt"
        pins = resolve(runtime, python, machine)
        if pins:
            path.write_text(lock(runtime, python, machine, pins), encoding="utf-8", newline="\n")
        elif path.exists():
            path.unlink()
        print(f"{path.name:40} {', '.join(f'{name} {version}' for name, version in pins) or 'no wheels'}", file=sys.stderr)
    WHEELS.write_text(matrix_text({runtime: matrix(name) for runtime, name in DISTRIBUTIONS.items()}), encoding="utf-8", newline="\n")


def prove(runtime: str, python: str, machine: str) -> bool:
    """Install a lock offline and run the worker's health job with it."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_wheelhouse(runtime, python, machine, work / "wheels")
        (work / "worker.pyz").write_bytes(worker_bytes())
        (work / "job.json").write_text(json.dumps({"schema": 1, "job": "health", "runtime": runtime}))
        offline = {**environment(), "PIP_NO_INDEX": "1"}
        steps = ([f"python{python}", "-m", "venv", "env"], ["env/bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--find-links", "wheels", "--require-hashes", "-r", "wheels/requirements.txt"],
                 ["env/bin/python", "-m", "pip", "check"], ["env/bin/python", "worker.pyz", "job.json", "result.json"])
        done = [subprocess.run(step, cwd=work, env=offline, capture_output=True, text=True, check=False) for step in steps]
        result = json.loads((work / "result.json").read_text()) if (work / "result.json").exists() else {"status": "no result", "runtime": None}
    good = result["status"] == "ok" and not any(step.returncode for step in done)
    print(f"{runtime} py{python} {machine}: {result['status']} {result['runtime']}" + ("" if good else "\n" + "\n".join(step.stdout + step.stderr for step in done if step.returncode)), file=sys.stderr)
    return good


def resolve(runtime: str, python: str, machine: str) -> List[Tuple[str, str]]:
    """(name, version) of everything that pip would install, the runtime first; empty where it finds no wheels.

    Where NumPy and Pillow come from the system, the runtime alone is looked up.
    """
    system = FROM_SYSTEM.get(machine, ())
    wanted = [need for need in WANTED[runtime] if re.split("[<=]", need)[0] not in system]
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.json"
        done = subprocess.run([f"python{python}", "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--target", work, "--report", str(report),
                               *(["--no-deps"] if system else []), *platform_options(python, machine), *wanted],
                              env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            if not re.search("No matching distribution|ResolutionImpossible", done.stderr):
                raise SystemExit(done.stderr)
            return []
        items = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    for item in items:
        _refuse_machine_markers(item)
    return sorted(((canonicalize_name(item["name"]), item["version"]) for item in items), key=lambda pin: (pin[0] != DISTRIBUTIONS[runtime], pin))


def _refuse_machine_markers(item: Mapping[str, object]) -> None:
    """pip evaluates markers for the machine it runs on; one that asks for the machine would be answered wrongly."""
    for need in item.get("requires_dist") or ():  # type: ignore[attr-defined]
        marker = str(need).partition(";")[2]
        if re.search("platform_machine|platform_release", marker) and "extra ==" not in marker:
            raise SystemExit(f"{item['name']} has a requirement that depends on the machine: {need}; resolve it there")


def platform_options(python: str, machine: str) -> List[str]:
    """What makes pip resolve for another Python and machine."""
    tag = "cp" + python.replace(".", "")
    platforms = [option for platform in manylinux_tags(machine, GLIBC[python]) for option in ("--platform", platform)]
    return ["--only-binary=:all:", *platforms, "--python-version", python, "--implementation", "cp", "--abi", tag, "--abi", "abi3", "--abi", "none"]


def lock(runtime: str, python: str, machine: str, pins: Sequence[Tuple[str, str]]) -> str:
    """The text of one lock file."""
    found = {name: list(fitting(name, version, python, machine)) for name, version in pins}
    glibc = max(min(level for _, _, level in wheels) for wheels in found.values())
    lines = [f"# {runtime} {dict(pins)[DISTRIBUTIONS[runtime]]} for CPython {python} on {machine}. Made by benchmarks/make_locks.py.", f"# glibc: {glibc[0]}.{glibc[1]}"]
    if machine in FROM_SYSTEM:
        lines.append("# system: python3-numpy python3-pil")
    for name, version in pins:
        hashes = sorted({digest for _, digest, _ in found[name]})
        lines += [f"{name}=={version} \\", *(f"    --hash=sha256:{digest} \\" for digest in hashes[:-1]), f"    --hash=sha256:{hashes[-1]}"]
    return "\n".join(lines) + "\n"


def fitting(name: str, version: str, python: str, machine: str) -> Iterator[Tuple[str, str, Tuple[int, int]]]:
    """(file name, sha256, oldest glibc) of the wheels of one version that this Python on this machine can install."""
    number = tuple(int(part) for part in python.split("."))
    platforms = manylinux_tags(machine, GLIBC[python])
    tags = {*cpython_tags(number, platforms=platforms), *compatible_tags(number, f"cp{number[0]}{number[1]}", platforms)}
    for file, digest in wheels(name):
        if parse_wheel_filename(file)[1] == Version(version) and parse_wheel_filename(file)[3] & tags:
            yield file, digest, oldest_glibc(file, machine) or OLDEST_GLIBC


def oldest_glibc(file: str, machine: str) -> Optional[Tuple[int, int]]:
    """The oldest glibc that a wheel runs with on a machine; (2, 5) for a wheel of pure Python; None where it is for something else."""
    platforms = [tag.platform for tag in parse_wheel_filename(file)[3]]
    if "any" in platforms:
        return OLDEST_GLIBC
    legacy = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
    levels = [legacy[p[:-len(machine) - 1]] for p in platforms if p.endswith(f"_{machine}") and p[:-len(machine) - 1] in legacy]
    levels += [(int(m[1]), int(m[2])) for m in (re.fullmatch(rf"manylinux_(\d+)_(\d+)_{machine}", p) for p in platforms) if m]
    return min(levels, default=None)


def matrix(name: str) -> Dict[str, Dict[str, Dict[str, str]]]:
    """{version: {machine: {Python tag: oldest glibc}}} of every released wheel for Linux."""
    table: Dict[str, Dict[str, Dict[str, str]]] = {}
    for file, _ in wheels(name):
        _, version, _, tags = parse_wheel_filename(file)
        for machine in MACHINES:
            level = oldest_glibc(file, machine)
            for tag in tags if level and not version.is_prerelease else ():
                if not tag.abi.endswith("t"):  # free-threaded builds
                    table.setdefault(str(version), {}).setdefault(machine, {})[tag.interpreter] = f"{level[0]}.{level[1]}"  # type: ignore[index]
    by_tag = {version: {machine: dict(sorted(tags.items(), key=lambda pair: int(pair[0][3:] or 0))) for machine, tags in sorted(machines.items())} for version, machines in table.items()}
    return dict(sorted(by_tag.items(), key=lambda pair: Version(pair[0])))


def matrix_text(table: Mapping[str, Mapping[str, object]]) -> str:
    """JSON with one line for each version, so that differences can be read."""
    runtimes = [f' "{runtime}": {{\n' + ",\n".join(f"  {json.dumps(version)}: {json.dumps(machines)}" for version, machines in versions.items()) + "\n }" for runtime, versions in table.items()]
    return "{\n" + ",\n".join(runtimes) + "\n}\n"


@functools.lru_cache(maxsize=None)
def wheels(name: str) -> Tuple[Tuple[str, str], ...]:
    """(file name, sha256) of every wheel of a distribution on the index, as pip lists them."""
    done = subprocess.run([sys.executable, "-m", "pip", "-vv", "index", "versions", name], env=environment(), capture_output=True, text=True, check=True)
    found = re.findall(r"https?://\S+/([^/\s#]+\.whl)#sha256=([0-9a-f]{64})", done.stdout + done.stderr)
    if not found:
        raise SystemExit(f"pip lists no wheels of {name} with their hashes")
    return tuple(sorted(set(found)))


def environment() -> Dict[str, str]:
    """The user's index and certificates, but no folders of other wheels: a lock holds what everybody can get."""
    return {**{key: value for key, value in os.environ.items() if key not in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")}, "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


if __name__ == "__main__":
    main()
