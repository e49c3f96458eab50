"""What will go wrong on a device, before anything is sent there: its facts against what is known of runtimes, wheels and CPUs."""
from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from edgepress import profiles
from edgepress.device_findings import (OK, PROBLEM, WARNING, Facts, Finding, field_sources, minor_version, place_findings, python_findings, state_findings, system_findings, usable_pythons,
                                       wheel_machine)
from edgepress.device_install import choose_lock, locked_numpy
from edgepress.device_probe import probe
from edgepress.device_profiles import device_data, fits, known_failures, profile_facts, profile_names
from edgepress.device_use import hold
from edgepress.errors import RecipeError, UnsupportedError, nearest
from edgepress.locks import DISTRIBUTIONS, PYTHONS, wheel_matrix

MODEL = "model"
LOW_MEMORY_BYTES = 256 << 20


@dataclass(frozen=True)
class ModelFacts:
    """What a check needs to know of the model file. `known` are the facts that profiles.check reads, `runtimes` those a bundle was made for (None: no bundle)."""

    name: str
    form: str
    size_bytes: int
    channel_order: Optional[str]
    known: Mapping[str, Any]
    runtimes: Optional[Sequence[str]] = None


def read_model(path: Path) -> ModelFacts:
    """The facts of a .tflite or .onnx file, the only one in a folder, or the main one of a bundle (folder or zip).

    Raises:
        EdgepressError: not there, not such a file, or damaged.
    """
    from edgepress.artifact import model_file
    from edgepress.bundle_archive import opened_bundle
    from edgepress.bundle_files import MANIFEST, read_manifest

    if path.suffix.lower() == ".zip" or (path / MANIFEST).is_file():
        with opened_bundle(path) as folder:
            manifest = read_manifest(folder)
            facts = _file_facts(folder / manifest["model"])
            return replace(facts, size_bytes=sum(entry["size_bytes"] for entry in manifest["files"].values()), runtimes=manifest["runtimes"])
    return _file_facts(model_file(path, formats=("tflite", "onnx")))


def _file_facts(file: Path) -> ModelFacts:
    from edgepress.metadata import find_spec

    spec = find_spec(file)
    return ModelFacts(file.name, file.suffix[1:].lower(), file.stat().st_size, spec.channel_order if spec else None, profiles.file_facts(file))


@dataclass(frozen=True)
class Meant:
    """A device that is asked about. `option` says which to `device wheels`; `address` is None for one that is not at hand."""

    name: str
    facts: Facts
    option: str
    address: Optional[str]


def look_at(target: Optional[str], *, profile: Optional[str], python: Optional[str] = None, bits: Optional[int] = None, numpy: Optional[str] = None) -> Meant:
    """A device probed, or the facts of a kind of device.

    Raises:
        RecipeError: neither or both are named, or options that only go with a profile.
        DeviceError: the device cannot be reached, or answers nonsense.
    """
    if (target is None) == (profile is None):
        raise RecipeError("give either a device (a name or an address) or --profile", f"profiles: {', '.join(profile_names())}; devices: edgepress device list")
    if profile is not None:
        given = {"--python": python, "--bits": bits}
        option = " ".join([f"--profile {profile}", *(f"{name} {value}" for name, value in given.items() if value)])
        return Meant(f"profile {profile}", profile_facts(profile, python=python, bits=bits, numpy=numpy), option, None)
    if python or bits:
        raise RecipeError(f"--{'python' if python else 'bits'} is for a --profile; a device says itself what it has", "leave it out")
    with hold(str(target)) as connection:
        return Meant(str(target), probe(connection), shlex.quote(str(target)), connection.address)


def check(facts: Facts, *, runtime: Optional[str] = None, version: Optional[str] = None, model: Optional[ModelFacts] = None, numpy: Optional[str] = None) -> List[Finding]:
    """Everything that is looked at, in the order it is shown; fine where no finding is a problem.

    Args:
        facts: of device_probe.probe or device_profiles.profile_facts.
        runtime: the one that is to be used; None: each that opens the model, of which one must work.
        version: of that runtime; None: the one that is installed there, or the locked one.
        model: the file that is to run there.
        numpy: the version that the runtime will meet there; None: the locked one, or what is installed beside it.

    Raises:
        UnsupportedError: there is no such runtime.
        RecipeError: a version without its runtime.
    """
    if version is not None and runtime is None:
        raise RecipeError(f"version {version} is of no runtime; accepted: one together with --runtime", f"add --runtime {' or '.join(_opening(model))}")
    if runtime is not None and runtime not in DISTRIBUTIONS:
        raise UnsupportedError(f"runtime {runtime!r} does not run on devices; {nearest(runtime, DISTRIBUTIONS)}")
    found = [*system_findings(facts), *python_findings(facts), *place_findings(facts)]
    if facts["python"] or not facts["android"]:
        found += _runtimes(facts, runtime, version, model, numpy)
    if model is not None:
        found += _model(facts, model, [runtime] if runtime else _opening(model))
    return [*found, *state_findings(facts)]


def _opening(model: Optional[ModelFacts]) -> List[str]:
    """Runtimes that open a model, and for which a bundle was made."""
    if model is None:
        return list(DISTRIBUTIONS)
    return [runtime for runtime in DISTRIBUTIONS if model.form in device_data()["runtimes"][runtime]["formats"] and (model.runtimes is None or runtime in model.runtimes)]


def _runtimes(facts: Facts, runtime: Optional[str], version: Optional[str], model: Optional[ModelFacts], numpy: Optional[str]) -> List[Finding]:
    """Findings of the runtime that is asked for, or of all that could be used: then those that cannot work are problems only where none works."""
    if runtime is not None:
        return list(_runtime(facts, runtime, version, model, numpy))
    each = {name: list(_runtime(facts, name, None, model, numpy)) for name in _opening(model)}
    works = any(all(finding.level != PROBLEM for finding in found) for found in each.values())
    broken = {name for name in each if name in facts["runtimes"]}  # what is installed and broken stays a problem
    return [replace(finding, level=WARNING) if works and finding.level == PROBLEM and name not in broken else finding for name, found in each.items() for finding in found]


def _runtime(facts: Facts, runtime: str, version: Optional[str], model: Optional[ModelFacts], numpy: Optional[str]) -> Iterator[Finding]:
    if model is not None and runtime not in _opening(model):
        opens = model.form in device_data()["runtimes"][runtime]["formats"]
        why = "the bundle was not made for it: it would answer wrongly" if opens else f"it does not open .{model.form} files"
        yield Finding("format", PROBLEM, f"{runtime} cannot be used: {why}", f"use {' or '.join(_opening(model))}", subject=runtime)
        return
    home = _home(facts, runtime)
    if home is not None and version in (None, home["packages"][DISTRIBUTIONS[runtime]]):
        yield from _installed(facts, runtime, home, numpy)
    else:
        yield from _to_install(facts, runtime, version, numpy)
    yield from _room(facts, runtime, model, installed=home is not None)


def _home(facts: Facts, runtime: str) -> Optional[Mapping[str, Any]]:
    """The Python that would run it there: its own environment, else the first that has it (as Connection.interpreter chooses)."""
    own = f"{facts['place']['path']}/runtimes/{runtime}"
    having = [python for python in facts["python"] if DISTRIBUTIONS[runtime] in python["packages"]]
    return min(having, key=lambda python: python["prefix"] != own, default=None)


def _installed(facts: Facts, runtime: str, python: Mapping[str, Any], numpy: Optional[str]) -> Iterator[Finding]:
    version = python["packages"][DISTRIBUTIONS[runtime]]
    failures = list(_failures(facts, runtime, version, numpy or python["packages"].get("numpy")))
    yield from failures
    if not failures:
        yield Finding("installed", OK, f"{version} is installed in {python['path']}", subject=runtime)
    missing = [name for name in ("numpy", "pillow") if name not in python["packages"]]
    if missing:
        yield Finding("installed", PROBLEM, f"{python['path']} has {runtime} but not {' and '.join(missing)}, which every job needs", "install it as below, with the locked requirements", subject=runtime)


def _to_install(facts: Facts, runtime: str, version: Optional[str], numpy: Optional[str]) -> Iterator[Finding]:
    if not usable_pythons(facts):
        return  # said already
    python, lock = choose_lock(facts, runtime)
    wanted = version or (lock.version if lock else _newest(facts, runtime))
    wheel = list(_wheel(facts, runtime, wanted, python or usable_pythons(facts)[0]))
    yield from wheel
    if any(finding.level == PROBLEM for finding in wheel):
        return
    failures = list(_failures(facts, runtime, wanted, numpy or (locked_numpy(facts, lock) if lock else None)))
    yield from failures
    if version and lock and version != lock.version and not failures:
        yield Finding("version", WARNING, f"{version} is not the locked version ({lock.version}): the commands below install {lock.version}, and answers may differ between versions",
                      f"leave --runtime-version out to take {lock.version}", subject=runtime)


def _wheel(facts: Facts, runtime: str, version: str, python: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the package index has a wheel of this version for this Python, machine and C library."""
    releases = wheel_matrix()[runtime]
    machine, minor, name = wheel_machine(facts), minor_version(python), DISTRIBUTIONS[runtime]
    if version not in releases:
        yield Finding("wheel", PROBLEM, f"{name} {version} has no wheel for Linux; {nearest(version, list(releases)[-12:])}", subject=runtime)
        return
    tags = releases[version].get(machine, {})
    oldest = tags.get("cp" + minor.replace(".", ""))
    sources = field_sources("bits" if machine == "armv7l" else "wheel")
    if not tags:
        others = " and ".join(sorted(releases[version]))
        yield Finding("wheel", PROBLEM, f"{name} {version} has no wheels for {machine}, only for {others}", _instead(facts, runtime), subject=runtime, sources=sources)
    elif oldest is None:
        pythons = [tag[2] + "." + tag[3:] for tag in tags]
        yield Finding("wheel", PROBLEM, f"{name} {version} has no wheel for Python {minor} on {machine}, only for {pythons[0]} to {pythons[-1]}", _instead(facts, runtime), subject=runtime, sources=sources)
    elif facts["glibc"] is not None and not fits(facts["glibc"], f">={oldest}"):
        yield Finding("glibc", PROBLEM, f"{name} {version} needs glibc {oldest} or newer, and this system has {facts['glibc']}", _instead(facts, runtime) or "install a newer Raspberry Pi OS", subject=runtime)
    else:
        newest = list(releases)[-1]
        older = f" (newer Pythons can have {newest}; answers may differ between versions)" if "cp" + minor.replace(".", "") not in releases[newest].get(machine, {}) else ""
        yield Finding("wheel", OK, f"{version} has a wheel for Python {minor} on {machine}{older}", subject=runtime)


def _instead(facts: Facts, runtime: str) -> Optional[str]:
    """What works on this device instead."""
    formats = device_data()["runtimes"][runtime]["formats"]
    others = [other for other in DISTRIBUTIONS if other != runtime and choose_lock(facts, other)[1] is not None]
    same = [other for other in others if device_data()["runtimes"][other]["formats"] == formats]
    if same:
        return f"use {same[0]}, which runs the same files and has wheels for it"
    if others:
        return f"use {others[0]} with a .{device_data()['runtimes'][others[0]]['formats'][0]} file" + ("; or install a 64-bit system" if facts["bits"] == 32 else "")
    return "install Raspberry Pi OS (64-bit)" if facts["bits"] == 32 else f"install a Python from {PYTHONS[0]} to {PYTHONS[-1]}"


def _failures(facts: Facts, runtime: str, version: str, numpy: Optional[str]) -> Iterator[Finding]:
    for failure in known_failures(runtime, version, facts=facts, machine=wheel_machine(facts), numpy=numpy):
        yield Finding(failure.code, PROBLEM, f"{runtime} {version} {failure.message}", failure.fix, subject=runtime, sources=failure.sources)


def _room(facts: Facts, runtime: str, model: Optional[ModelFacts], *, installed: bool) -> Iterator[Finding]:
    known = device_data()["runtimes"][runtime]
    size = model.size_bytes if model else 0
    disk = (0 if installed else known["free_mb"] << 20) + 3 * size
    if facts["free_bytes"] is not None and facts["free_bytes"] < disk:
        yield Finding("space", PROBLEM, f"{facts['free_bytes'] >> 20} MiB are free and {disk >> 20} MiB are needed", "free some space there: sudo apt clean; df -h", subject=runtime)
    free = facts["memory_free_bytes"] or facts["memory_bytes"]
    need = (known["memory_mb"] << 20) + 2 * size
    if free is not None and free < need:
        yield Finding("memory", PROBLEM, f"{free >> 20} MiB of memory are free and about {need >> 20} MiB are needed", "end other programs there, or take a smaller model", subject=runtime)
    elif facts["memory_bytes"] is not None and facts["memory_bytes"] < LOW_MEMORY_BYTES:
        yield Finding("memory", WARNING, f"only {facts['memory_bytes'] >> 20} MiB of memory", "end other programs before measuring", subject=runtime)


def _newest(facts: Facts, runtime: str) -> str:
    """The newest release with a wheel for the machine, or at all."""
    releases = wheel_matrix()[runtime]
    fitting = [version for version, machines in releases.items() if wheel_machine(facts) in machines]
    return (fitting or list(releases))[-1]


# --- the model

def _model(facts: Facts, model: ModelFacts, runtimes: Sequence[str]) -> Iterator[Finding]:
    for runtime in runtimes:
        profile = _profile(facts, runtime)
        for found in profiles.check(profile, {**model.known, "machine": wheel_machine(facts)}):
            level = PROBLEM if found["status"] == "refused" and len(runtimes) == 1 else WARNING
            yield Finding("file", level, f"in {runtime}: {found['reason']}", found["remedy"], subject=MODEL)
    if model.channel_order is None:
        yield Finding("channel-order", WARNING, f"{model.name} does not say whether it wants RGB or BGR: a wrong guess swaps red and blue and still answers", f"edgepress describe {model.name} says it once and for all", subject=MODEL,
                      sources=field_sources("channel-order"))
    else:
        yield Finding("channel-order", OK, f"{model.name} says how it wants its pictures; with picamera2 ask for format \"BGR888\", which gives R,G,B (\"RGB888\" gives B,G,R)", subject=MODEL)


def _profile(facts: Facts, runtime: str) -> str:
    """The name under which profiles.py knows the runtime on this device."""
    if runtime == "tflite_runtime":
        return "tflite_runtime_2.14"
    if wheel_machine(facts) == "x86_64":
        return {"litert": "litert", "onnxruntime": "onnxruntime_x86_vnni" if {"avx512_vnni", "avx_vnni"} & set(facts["cpu_flags"]) else "onnxruntime_x86"}[runtime]
    return {"litert": "litert_arm", "onnxruntime": "onnxruntime_arm"}[runtime]


def as_json(findings: Sequence[Finding]) -> List[Dict[str, Any]]:
    """The findings for machines."""
    return [{"subject": f.subject, "code": f.code, "level": f.level, "message": f.message, "fix": f.fix, "sources": list(f.sources)} for f in findings]
