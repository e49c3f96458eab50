"""Kinds of devices and what is known to go wrong on them: data/devices.toml, and facts of a device nobody has at hand."""
from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from edgepress.errors import RecipeError, nearest
from edgepress.locks import PYTHONS

DATA = Path(__file__).resolve().parent / "data" / "devices.toml"
PAGE_SIZE = 4096
ARMV7 = ["edsp", "evtstrm", "fastmult", "half", "idiva", "idivt", "lpae", "neon", "thumb", "tls", "vfp", "vfpv3", "vfpv4"]  # what a 32-bit kernel shows of any of these CPUs
COMPARISONS = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, "==": lambda a, b: a == b, ">=": lambda a, b: a >= b, ">": lambda a, b: a > b}


@dataclass(frozen=True)
class Failure:
    """One failure of the field that is known to follow from a combination."""

    code: str
    message: str
    fix: str
    sources: Tuple[str, ...]
    evidence: str


@functools.lru_cache(maxsize=1)
def device_data() -> Mapping[str, Any]:
    """The parsed devices.toml."""
    return tomllib.loads(DATA.read_text(encoding="utf-8"))


def profile_names() -> List[str]:
    """Names of the profiles."""
    return list(device_data()["profiles"])


def profile_facts(name: str, *, python: Optional[str] = None, bits: Optional[int] = None, numpy: Optional[str] = None) -> Dict[str, Any]:
    """Facts in the shape of device_probe.probe for a kind of device, fresh from its installation.

    Args:
        python: version of its Python; the system that ships this one is taken, or the profile's with this Python added.
        bits: 32 or 64 of its system (the kernel stays a 64-bit one); default 64.
        numpy: version in its system Python; default: none installed.

    Raises:
        RecipeError: no such profile, or a Python or number of bits that cannot be.
    """
    profiles = device_data()["profiles"]
    if name not in profiles:
        raise RecipeError(f"device profile is {name!r}; {nearest(name, profiles)}", "or name a registered device: edgepress device list")
    if bits not in (None, 32, 64):
        raise RecipeError(f"bits is {bits}; accepted: 32 or 64")
    if python is not None and not re.fullmatch(r"3\.\d{1,2}(\.\d{1,3})?", python):
        raise RecipeError(f"python is {python!r}; accepted: a version such as {PYTHONS[-1]}")
    profile = profiles[name]
    return _android(profile) if "android_sdk" in profile else _pi(profile, python=python, bits=bits or 64, numpy=numpy)


def _pi(profile: Mapping[str, Any], *, python: Optional[str], bits: int, numpy: Optional[str]) -> Dict[str, Any]:
    systems = device_data()["systems"]
    minor = ".".join(python.split(".")[:2]) if python else None
    fitting = [system for system in systems.values() if system["python"] == minor]
    system = fitting[0] if fitting else systems[profile["system"]]
    pythons = [_python(system["python"], bits, system, numpy, managed=system["externally_managed"])]
    if minor and not fitting:
        pythons = [_python(minor, bits, system, numpy, managed=False), *pythons]
    return {**_unknown(), "machine": "aarch64", "system": "Linux", "bits": bits, "os_id": "debian" if bits == 64 else "raspbian", "os_version": system["os_version"], "os_title": system["title"],
            "board": profile["title"], "python": pythons, "glibc": system["glibc"], "numpy": numpy, "page_size": profile.get("page_size", PAGE_SIZE) if bits == 64 else PAGE_SIZE,
            "cpu": profile["cpu"], "cpu_part": profile["cpu_part"], "cpu_flags": profile["cpu_flags"] if bits == 64 else ARMV7, "memory_bytes": profile["memory_mb"] << 20}


def _android(profile: Mapping[str, Any]) -> Dict[str, Any]:
    android = {"sdk": profile["android_sdk"], "abi": "arm64-v8a", "release": None, "manufacturer": None, "model": None, "soc": None, "fingerprint": None, "thermal_status": None, "battery": None}
    return {**_unknown(), "machine": "aarch64", "system": "Linux", "bits": 64, "board": profile["title"], "page_size": PAGE_SIZE, "cpu": profile["cpu"], "cpu_part": profile["cpu_part"],
            "cpu_flags": profile["cpu_flags"], "memory_bytes": profile["memory_mb"] << 20, "android": android}


def _python(minor: str, bits: int, system: Mapping[str, Any], numpy: Optional[str], *, managed: bool) -> Dict[str, Any]:
    return {"path": f"/usr/bin/python{minor}" if minor != system["python"] else "/usr/bin/python3", "prefix": "/usr", "version": minor, "implementation": "CPython", "bits": bits, "venv": False,
            "free_threaded": False, "ensurepip": True, "glibc": f"glibc {system['glibc']}", "externally_managed": managed, "packages": {"numpy": numpy} if numpy else {}}


def _unknown() -> Dict[str, Any]:
    """Every key of the facts of a probe, with nothing known."""
    from edgepress.device_probe import to_facts

    return to_facts({})


def known_failures(runtime: str, version: str, *, facts: Mapping[str, Any], machine: str, numpy: Optional[str]) -> Iterator[Failure]:
    """Those that a version of a runtime meets on a device, with a NumPy version if it is known."""
    for rule in device_data()["failure"]:
        lacks = set(rule.get("cpu_lacks", ())) - set(facts["cpu_flags"])
        holds = (rule["runtime"] == runtime and fits(version, rule["versions"]) and machine in rule.get("machine", [machine])
                 and ("cpu_lacks" not in rule or (lacks and facts["cpu_flags"])) and ("numpy" not in rule or (numpy is not None and fits(numpy, rule["numpy"]))))
        if holds:
            text = rule["message"].format(cpu=facts["cpu"] or facts["cpu_part"] or "of this device", numpy=numpy)
            yield Failure(rule["code"], text, rule["fix"], tuple(rule["sources"]), rule["evidence"])


def fits(version: str, rule: str) -> bool:
    """Whether a version satisfies each part of ">=1.17,<1.19"."""
    parts = (re.fullmatch(r"\s*(<=|>=|==|<|>)\s*([\d.]+)\s*", part) for part in rule.split(","))
    return all(COMPARISONS[part[1]](*_padded(version, part[2])) for part in parts if part)


def _padded(first: str, second: str) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    """Both versions as numbers of equal count; what follows the numbers of a version (rc1, +local) does not count."""
    numbers = [tuple(int(n) for n in re.match(r"\d+(\.\d+)*", text)[0].split(".")) if re.match(r"\d", text) else () for text in (first, second)]  # type: ignore[index]
    length = max(map(len, numbers))
    return numbers[0] + (0,) * (length - len(numbers[0])), numbers[1] + (0,) * (length - len(numbers[1]))
