"""Find out what a device is: one shell script there that also asks each Python there. What comes back is not trusted."""
from __future__ import annotations

import json
import re
import secrets
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from edgepress.errors import DeviceError
from edgepress.locks import DISTRIBUTIONS
from edgepress.power import SINCE_BOOT, throttle_words
from edgepress.targets.base import Connection

DATA = Path(__file__).resolve().parent / "data"
TIMEOUT_SECONDS = 300
MAX_CHARACTERS = 200_000
MAX_PYTHONS = 16
CPU_PARTS = {  # Arm names no core in /proc/cpuinfo, only its number; where there are several kinds, sort -u leaves the largest last
    "0xb76": "ARM1176", "0xc07": "Cortex-A7", "0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
    "0xd0d": "Cortex-A77", "0xd41": "Cortex-A78", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd4d": "Cortex-A715", "0xd80": "Cortex-A520", "0xd81": "Cortex-A720"}
PYTHON_KEYS = {"path": str, "prefix": str, "version": str, "implementation": str, "bits": int, "venv": bool, "free_threaded": bool, "ensurepip": bool, "glibc": str,
               "externally_managed": bool, "packages": dict}

Lines = Mapping[str, List[str]]


def probe(connection: Connection) -> Dict[str, Any]:
    """Facts about a device, in the shape of docs/devices.md; what cannot be found out is None.

    Raises:
        DeviceError: unreachable, or what came back is not the answer to our question.
        JobError: no answer in five minutes.
    """
    nonce = secrets.token_hex(8)
    command = ["sh", "-c", (DATA / "probe.sh").read_text(encoding="utf-8"), "edgepress-probe", nonce, (DATA / "probe.py").read_text(encoding="utf-8"), *_where(connection)]
    done = connection.run(command, environment={}, timeout_seconds=TIMEOUT_SECONDS)
    lines = read_lines(done.stdout, nonce)
    if lines is None:
        raise DeviceError(f"{connection.address} did not answer the probe as expected (exit code {done.exit_code}): {(done.stderr or done.stdout).strip()[-400:] or 'no output'}",
                          "the device needs a POSIX shell; try a command there by hand")
    return to_facts(lines)


def _where(connection: Connection) -> Tuple[str, str]:
    """The folder that edgepress uses there, and a Python to ask first; "" for the usual ones."""
    return getattr(connection, "home", ""), sys.executable if connection.address == "local" else ""


def read_lines(output: str, nonce: str) -> Optional[Lines]:
    """key → values of the lines between the marks; None where the marks are not there. Anything around them (a talkative .bashrc) is left out."""
    if len(output) > MAX_CHARACTERS:
        return None
    begin, end = f"EDGEPRESS-PROBE-BEGIN {nonce}\n", f"EDGEPRESS-PROBE-END {nonce}"
    output = output.replace("\r\n", "\n")
    head, found, rest = output.partition(begin)
    body, closed, _ = rest.partition(end)
    if not found or not closed:
        return None
    lines: Dict[str, List[str]] = {}
    for line in body.splitlines():
        key, equals, value = line.partition("=")
        if equals and re.fullmatch(r"[a-z0-9_.]{1,40}", key):
            lines.setdefault(key, []).append("".join(c for c in value if c.isprintable()))
    return lines


def to_facts(lines: Lines) -> Dict[str, Any]:
    """Facts of the lines, each checked for its type and range; None where it is missing or makes no sense."""
    found = [python for python in map(_python, lines.get("python", [])[:MAX_PYTHONS]) if python]
    pythons = list({python["prefix"]: python for python in reversed(found)}.values())[::-1]  # python3 and python3.13 are one, under the first name
    first = next(iter(pythons), None)
    return {
        "machine": _text(lines, "machine"), "system": _text(lines, "system"), "release": _text(lines, "release"), "bits": _bits(lines, first),
        "os_id": _text(lines, "os_id"), "os_version": _text(lines, "os_version"), "os_title": _text(lines, "os_title"), "board": _text(lines, "board"),
        "python": pythons, "python_broken": [text[:200] for text in lines.get("python_broken", [])[:MAX_PYTHONS]],
        "glibc": _glibc(lines, first), "numpy": first["packages"].get("numpy") if first else None, "page_size": _number(lines, "page_size", 1 << 10, 1 << 20),
        "cpu": CPU_PARTS.get((_text(lines, "cpu_part") or "").split(" ")[-1]) or _text(lines, "cpu"), "cpu_part": _text(lines, "cpu_part"), "cpu_flags": _flags(lines), "cpus": _number(lines, "cpus", 1, 4096),
        "memory_bytes": _bytes(lines, "memory_kb"), "memory_free_bytes": _bytes(lines, "memory_free_kb"), "free_bytes": _bytes(lines, "free_kb"),
        "place": {"path": _text(lines, "place"), "writable": _yes(lines, "writable"), "noexec": _yes(lines, "noexec")},
        "load_average": _load(lines), "governor": _text(lines, "governor"),
        "clock_mhz": {name: _mhz(lines, key) for name, key in (("now", "clock_khz"), ("limit", "clock_limit_khz"), ("max", "clock_max_khz"))},
        "throttled": _throttled(lines), "vcgencmd_error": _text(lines, "vcgencmd_error"), "pmic": _yes(lines, "pmic"), "temperature_c": _temperature(lines),
        "openssl": bool(_yes(lines, "openssl")), "runtimes": _runtimes(pythons), "emulated": _text(lines, "emulated"), "android": _android(lines)}


def decode_throttled(raw: int) -> Dict[str, Any]:
    """What the number of `vcgencmd get_throttled` says: {"raw", "now": [...], "since_start": [...]}."""
    return {"raw": raw, "now": throttle_words(raw), "since_start": throttle_words(raw >> SINCE_BOOT)}


def _text(lines: Lines, key: str) -> Optional[str]:
    value = lines.get(key, [""])[0].strip()[:200]
    return value or None


def _number(lines: Lines, key: str, low: int, high: int) -> Optional[int]:
    text = _text(lines, key) or ""
    return int(text) if re.fullmatch(r"\d{1,15}", text) and low <= int(text) <= high else None


def _bytes(lines: Lines, key: str) -> Optional[int]:
    kilobytes = _number(lines, key, 0, 1 << 42)
    return None if kilobytes is None else kilobytes * 1024


def _mhz(lines: Lines, key: str) -> Optional[float]:
    khz = _number(lines, key, 1000, 20_000_000)
    return None if khz is None else khz / 1000


def _yes(lines: Lines, key: str) -> Optional[bool]:
    return {"yes": True, "no": False}.get(_text(lines, key) or "")


def _load(lines: Lines) -> Optional[float]:
    found = re.match(r"\d{1,5}\.\d\d(?= )", _text(lines, "load_average") or "")
    return float(found.group()) if found else None


def _flags(lines: Lines) -> List[str]:
    return sorted({flag for flag in lines.get("cpu_flags", [""])[0].split() if re.fullmatch(r"[a-z0-9_]{1,24}", flag)})


def _glibc(lines: Lines, python: Optional[Mapping[str, Any]]) -> Optional[str]:
    found = re.fullmatch(r"glibc (\d\.\d{1,3})(\.\d+)?", _text(lines, "glibc") or (python or {}).get("glibc", ""))
    return found[1] if found else None


def _bits(lines: Lines, python: Optional[Mapping[str, Any]]) -> Optional[int]:
    """Of the programs, not of the kernel: a 32-bit system may well run under a 64-bit kernel. Its Python knows best."""
    bits = python["bits"] if python else _number(lines, "long_bit", 32, 64)
    return bits if bits in (32, 64) else None


def _temperature(lines: Lines) -> Optional[float]:
    """The hottest zone in °C; zones that are off report 0 or nonsense."""
    degrees = [int(text) / 1000 for text in lines.get("temperature", []) if re.fullmatch(r"-?\d{1,6}", text)]
    return max((d for d in degrees if 0 < d < 150), default=None)


def _throttled(lines: Lines) -> Optional[Dict[str, Any]]:
    text = _text(lines, "throttled") or ""
    return decode_throttled(int(text, 16)) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else None


def _python(text: str) -> Optional[Dict[str, Any]]:
    """One Python's facts; None where they are not of the expected form."""
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    if not isinstance(facts, dict) or any(type(facts.get(key)) is not kind for key, kind in PYTHON_KEYS.items()):
        return None
    versions = facts["packages"]
    if not re.fullmatch(r"\d+\.\d+\.\d+\S{0,12}", facts["version"]) or not facts["path"].startswith("/") or not all(_is_version(v) for pair in versions.items() for v in pair):
        return None
    return {key: facts[key][:400] if kind is str else facts[key] for key, kind in PYTHON_KEYS.items()}


def _is_version(value: object) -> bool:
    """A version, or the name of a distribution."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,60}", value) is not None


def _runtimes(pythons: List[Dict[str, Any]]) -> Dict[str, str]:
    """Runtime → version in the first Python that has it."""
    found: Dict[str, str] = {}
    for python in reversed(pythons):
        found.update({runtime: python["packages"][name] for runtime, name in DISTRIBUTIONS.items() if name in python["packages"]})
    return found


def _android(lines: Lines) -> Optional[Dict[str, Any]]:
    if "prop.ro.build.version.sdk" not in lines:
        return None
    battery = lines.get("battery", [""])[0]
    names: Tuple[Tuple[str, str], ...] = (("abi", "ro.product.cpu.abi"), ("release", "ro.build.version.release"), ("manufacturer", "ro.product.manufacturer"),
                                          ("model", "ro.product.model"), ("soc", "ro.soc.model"), ("fingerprint", "ro.build.fingerprint"))
    return {"sdk": _number(lines, "prop.ro.build.version.sdk", 1, 999), **{name: _text(lines, f"prop.{key}") for name, key in names},
            "thermal_status": _number(lines, "thermal_status", 0, 6), "battery": _battery(battery) if battery else None}


def _battery(text: str) -> Dict[str, Any]:
    """`dumpsys battery`: level in percent, temperature in tenths of °C, whether a charger feeds it."""
    def first(pattern: str, make: Callable[[str], Any]) -> Any:
        found = re.search(pattern, text)
        return make(found[1]) if found else None

    return {"level_percent": first(r"\blevel: (\d{1,3})\b", int), "temperature_c": first(r"\btemperature: (-?\d{1,4})\b", lambda t: int(t) / 10),
            "powered": first(r"(?:AC|USB|Wireless|Dock) powered: (true)", lambda t: True) or False}
