"""What `device probe` and `device check` print for people."""
from __future__ import annotations

import textwrap
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from edgepress.device_findings import OK, PROBLEM, WARNING, Facts, Finding
from edgepress.device_install import install_commands, installable

WIDTH = 110
MARKS = {OK: "ok", WARNING: "note", PROBLEM: "PROBLEM"}


def probe_text(facts: Facts, *, target: str) -> str:
    """The facts of a device, one line each; what is unknown is left out."""
    rows = [(name, text) for name, text in _probe_rows(facts) if text]
    return "\n".join([f"{target}: {title(facts)}", *(f"  {name:14}{text}" for name, text in rows)])


def title(facts: Facts) -> str:
    """The device in a few words."""
    android = facts["android"] or {}
    name = facts["board"] or " ".join(filter(None, (android.get("manufacturer"), android.get("model")))) or facts["cpu"] or facts["machine"] or "unknown device"
    return name + (f" (an emulated {facts['emulated']})" if facts["emulated"] and "emulated" not in name else "")


def _probe_rows(facts: Facts) -> Iterator[Tuple[str, Optional[str]]]:
    clock, throttled = facts["clock_mhz"], facts["throttled"]
    yield "system", ", ".join(filter(None, (facts["os_title"], facts["bits"] and f"{facts['bits']}-bit", facts["release"] and f"kernel {facts['release']} ({facts['machine']})")))
    yield "processor", ", ".join(filter(None, (facts["cpu"], facts["cpus"] and f"{facts['cpus']} cores", _features(facts["cpu_flags"]))))
    yield "memory", _gigabytes(facts["memory_bytes"]) + (f", {_gigabytes(facts['memory_free_bytes'])} free" if facts["memory_free_bytes"] else "") if facts["memory_bytes"] else None
    yield "disk", f"{_gigabytes(facts['free_bytes'])} free for {facts['place']['path']}" if facts["free_bytes"] is not None else None
    yield "C library", f"glibc {facts['glibc']}" if facts["glibc"] else None
    yield "pages", f"{facts['page_size'] >> 10} KiB" if facts["page_size"] else None
    for python in facts["python"]:
        packages = ", ".join(f"{name} {version}" for name, version in python["packages"].items() if name != "pip")
        yield "python", f"{python['version']} {python['path']}" + (" (virtual environment)" if python["venv"] else "") + (f": {packages}" if packages else "")
    if not facts["python"]:
        yield "python", "none"
    yield "clock", ", ".join(filter(None, (clock["now"] and f"{clock['now']:.0f} MHz", clock["max"] and f"at most {clock['max']:.0f} MHz", facts["governor"] and f"governor {facts['governor']}")))
    yield "temperature", f"{facts['temperature_c']:.0f} °C" if facts["temperature_c"] is not None else None
    yield "throttled", f"now: {', '.join(throttled['now']) or 'no'}; since it was started: {', '.join(throttled['since_start']) or 'no'}" if throttled else facts["vcgencmd_error"]
    yield "power meter", {True: "its PMIC can be read", False: None, None: None}[facts["pmic"]]
    if facts["android"]:
        yield "android", _android(facts["android"])


def _android(android: Mapping[str, Any]) -> str:
    battery = android["battery"] or {}
    parts = (f"API level {android['sdk']}", android["abi"], android["soc"], f"battery {battery['level_percent']} %" if battery.get("level_percent") is not None else None,
             f"thermal status {android['thermal_status']}" if android["thermal_status"] is not None else None)
    return ", ".join(filter(None, parts))


def _features(flags: Sequence[str]) -> Optional[str]:
    telling = [name for flag, name in (("asimddp", "dot product"), ("asimdhp", "half precision"), ("i8mm", "int8 matrix"), ("avx512_vnni", "AVX512-VNNI"), ("avx2", "AVX2")) if flag in flags]
    if flags and not telling:
        return "no dot product instructions" if {"asimd", "neon"} & set(flags) else None
    return ", ".join(telling) or None


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def check_text(facts: Facts, findings: Sequence[Finding], *, target: str, option: str, address: Optional[str]) -> str:
    """Findings by subject, what can be installed and how, and one sentence at the end.

    Args:
        target: the device or the profile, for the first line.
        option: how `device wheels` is told of it.
        address: of the device, None for a profile.
    """
    subjects = list(dict.fromkeys(finding.subject for finding in findings))
    blocks = [f"{target}: {title(facts)}", *("\n".join([subject, *(line for f in findings if f.subject == subject for line in _lines(f))]) for subject in subjects)]
    runtimes = installable(facts, findings)
    if runtimes and install_commands(facts, runtimes[0], target=option, address=address):
        blocks.append(_plan(facts, runtimes, option=option, address=address))
    return "\n\n".join([*blocks, verdict(findings)])


def _lines(finding: Finding) -> List[str]:
    first = textwrap.wrap(finding.message, WIDTH - 11) or [""]
    lines = [f"  {MARKS[finding.level]:9}{first[0]}", *(f"{'':11}{line}" for line in first[1:])]
    if finding.fix and finding.level != OK:
        lines.append(f"{'':11}→ {finding.fix}")
    if finding.sources and finding.level == PROBLEM:
        lines.append(f"{'':11}others met it in {', '.join(finding.sources)}")
    return lines


def _plan(facts: Facts, runtimes: Sequence[str], *, option: str, address: Optional[str]) -> str:
    lines = [f"install {runtimes[0]} there, without a network and without touching the system's Python"
             + (f" ({', '.join(runtimes[1:])}: the same with its name)" if runtimes[1:] else "")]
    places: Dict[str, str] = {"here": "on this computer", "there": "on the device" if address != "local" else "on this computer"}
    last = None
    for where, command in install_commands(facts, runtimes[0], target=option, address=address):
        if places[where] != last:
            last = places[where]
            lines.append(f"  {last}:")
        lines.append(f"    {command}")
    return "\n".join(lines)


def verdict(findings: Sequence[Finding]) -> str:
    """The last line."""
    problems = [finding for finding in findings if finding.level == PROBLEM]
    if problems:
        return f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the way"
    notes = sum(finding.level == WARNING for finding in findings)
    return "nothing stands in the way" + (f"; {notes} note{'s' if notes > 1 else ''} above" if notes else "")
