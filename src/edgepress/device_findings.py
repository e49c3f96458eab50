"""What a device's own facts say: its system, its Pythons, its room, and the state it is in at this moment."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Iterator, List, Mapping, Optional, Tuple

from edgepress.device_profiles import device_data
from edgepress.locks import PYTHONS, locked

OK, WARNING, PROBLEM = "ok", "warning", "problem"
CODES = ("system", "bits", "glibc", "page-size", "python", "managed", "permission", "space", "memory", "throttled", "temperature", "governor", "clock", "load", "battery",
         "android", "emulated", "installed", "wheel", "version", "cpu", "numpy-abi", "format", "file", "channel-order")
GENERIC, STATE = "device", "right now"
HOT_C = 70.0  # the Pi's firmware begins to slow down at 80 °C (Raspberry Pi documentation, "Frequency management and thermal control"); a run heats it by some degrees
BUSY = 0.5  # of the cores
LOW_BATTERY_PERCENT = 20

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `subject`: device, right now, model, or a runtime; `fix`: a command or a sentence; `sources`: issues where others met it."""

    code: str
    level: str
    message: str
    fix: Optional[str] = None
    subject: str = GENERIC
    sources: Tuple[str, ...] = ()


def system_findings(facts: Facts) -> Iterator[Finding]:
    """Board, system, bits, C library, pages."""
    if facts["emulated"]:
        yield Finding("emulated", WARNING, f"this is an emulated {facts['emulated']}: it proves what loads and answers there, and says nothing of speed")
    if facts["android"]:
        yield from _android(facts["android"])
        return
    if facts["system"] != "Linux":
        yield Finding("system", PROBLEM, f"the system is {facts['system'] or 'unknown'}; accepted: Linux", "put Raspberry Pi OS (64-bit) on it")
    machine = wheel_machine(facts)
    yield from _bits(facts, machine)
    if facts["glibc"] is None:
        yield Finding("glibc", WARNING, "its C library is not glibc, or does not say: the wheels need glibc", "use Raspberry Pi OS or another Debian, not Alpine")
    yield from _pages(facts)


def _bits(facts: Facts, machine: str) -> Iterator[Finding]:
    known = {m for _, _, m in locked()}
    if machine not in known:
        yield Finding("system", PROBLEM, f"no runtime has wheels for {machine}; accepted: {', '.join(sorted(known))}", "use a Raspberry Pi 3, Zero 2 W or newer with a 64-bit system")
    elif machine == "armv7l":
        kernel = " under a 64-bit kernel" if facts["machine"] in ("aarch64", "arm64") else ""
        yield Finding("bits", WARNING, f"a 32-bit system{kernel}: tflite-runtime is the only runtime with wheels, and only up to Python 3.11", "install Raspberry Pi OS (64-bit): same board, all runtimes, faster")
    else:
        yield Finding("bits", OK, f"64-bit {machine}" + (f", {facts['os_title']}" if facts["os_title"] else "") + (f", glibc {facts['glibc']}" if facts["glibc"] else ""))


def _pages(facts: Facts) -> Iterator[Finding]:
    size = facts["page_size"]
    smallest = min(runtime["alignment"] for runtime in device_data()["runtimes"].values())
    if size is not None and size > smallest:
        yield Finding("page-size", PROBLEM, f"the kernel's pages have {size >> 10} KiB, the libraries in the wheels are aligned to {smallest >> 10} KiB and will not load", "boot a kernel with 4 or 16 KiB pages")
    elif size is not None:
        more = "; software made for 4 KiB only does not run here, the runtimes' wheels do" if size > 4096 else ""
        yield Finding("page-size", OK, f"pages of {size >> 10} KiB{more}", "kernel=kernel8.img in /boot/firmware/config.txt gives 4 KiB pages" if size > 4096 else None)


def _android(android: Mapping[str, Any]) -> Iterator[Finding]:
    name = " ".join(filter(None, (android["manufacturer"], android["model"], android["soc"]))) or "Android"
    if android["abi"] == "arm64-v8a" or android["abi"] == "x86_64":
        yield Finding("android", OK, f"{name}, {android['abi']}, API level {android['sdk']}")
    else:
        yield Finding("bits", WARNING, f"{name} is a 32-bit device ({android['abi']})", "give the 32-bit benchmark_model (android_arm) with --runner")


def python_findings(facts: Facts) -> Iterator[Finding]:
    """Which Pythons there are and whether a virtual environment can be made."""
    if not facts["python"]:
        if facts["android"]:
            yield Finding("python", WARNING, "no Python there, as on every phone: only Google's benchmark_model (--runner PATH) and the browser can run models", "or measure in its browser: edgepress device serve")
        else:
            yield Finding("python", PROBLEM, "no Python 3 was found there", "sudo apt install python3 python3-venv")
        return
    usable = usable_pythons(facts)
    if not usable:
        listed = ", ".join(f"{p['version']} ({p['path']})" for p in facts["python"])
        yield Finding("python", PROBLEM, f"no Python there can be used: {listed}; accepted: CPython {PYTHONS[0]} to {PYTHONS[-1]}", "install the newest Raspberry Pi OS (64-bit)")
        return
    yield Finding("python", OK, ", ".join(f"Python {p['version']} ({p['path']})" for p in usable[:4]))
    if not usable[0]["venv"] and not usable[0]["ensurepip"]:
        yield Finding("python", PROBLEM, f"{usable[0]['path']} cannot make virtual environments: Debian ships that part on its own", "sudo apt install python3-venv")
    if usable[0]["externally_managed"]:
        yield Finding("managed", OK, "its Python belongs to the system and refuses `pip install`: everything goes into a virtual environment, as below")


def place_findings(facts: Facts) -> Iterator[Finding]:
    """The folder that edgepress would use there."""
    place = facts["place"]
    if place["writable"] is False:
        yield Finding("permission", PROBLEM, f"{place['path']} cannot be written by this user", "connect as the user who owns it, or make the folder and chown it to that user")
    if place["noexec"]:
        yield Finding("permission", PROBLEM, f"{place['path']} is on a file system mounted noexec: nothing there can be executed", "use a home folder on another file system, or mount it without noexec")
    if facts["free_bytes"] is not None:
        yield Finding("space", OK, f"{facts['free_bytes'] / 2**30:.1f} GiB free" + (f", {facts['memory_bytes'] / 2**30:.1f} GiB memory" if facts["memory_bytes"] else ""))


def state_findings(facts: Facts) -> Iterator[Finding]:
    """What would spoil a measurement at this moment: power, heat, clock, load, battery."""
    found = [*_power(facts), *([] if facts["emulated"] else _speed(facts)), *_battery(facts["android"] or {})]
    yield from (replace(finding, subject=STATE) for finding in found)


def _power(facts: Facts) -> Iterator[Finding]:
    state = facts["throttled"]
    if state is not None and state["now"]:
        fix = "use the official power supply and a short cable" if "under-voltage" in state["now"] else "cool it (heat sink, fan), wait, and look again: edgepress device probe"
        yield Finding("throttled", PROBLEM, f"it is slowed down at this moment: {', '.join(state['now'])}", fix, sources=field_sources("throttled"))
    elif state is not None and state["since_start"]:
        yield Finding("throttled", WARNING, f"it was slowed down since it was started: {', '.join(state['since_start'])}", "measure with a better power supply or more cooling; a restart clears this")
    elif facts["vcgencmd_error"]:
        yield Finding("throttled", WARNING, f"vcgencmd does not answer this user ({facts['vcgencmd_error'][:80]}): whether it is throttled cannot be seen", "sudo usermod -aG video $USER, then log in again")
    elif state is not None:
        yield Finding("throttled", OK, "not throttled, no under-voltage since it was started")
    if facts["temperature_c"] is not None:
        hot = facts["temperature_c"] >= HOT_C
        yield Finding("temperature", WARNING if hot else OK, f"{facts['temperature_c']:.0f} °C" + (": a longer run will be throttled" if hot else ""), "cool it before measuring" if hot else None)


def _speed(facts: Facts) -> Iterator[Finding]:
    if facts["governor"]:
        steady = facts["governor"] in ("performance", "schedutil", "ondemand")
        yield Finding("governor", OK if steady else WARNING, f"governor {facts['governor']}" + ("" if steady else " keeps the clock low"),
                      None if steady else "echo ondemand | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    clock = facts["clock_mhz"]
    if clock["limit"] and clock["max"] and clock["limit"] < clock["max"]:
        yield Finding("clock", WARNING, f"the clock is limited to {clock['limit']:.0f} of {clock['max']:.0f} MHz", "see arm_freq in /boot/firmware/config.txt")
    if facts["load_average"] is not None and facts["cpus"] and facts["load_average"] > BUSY * facts["cpus"]:
        yield Finding("load", WARNING, f"it is busy (load {facts['load_average']:.1f} on {facts['cpus']} cores): latencies would be too long", "end other programs before measuring")


def _battery(android: Mapping[str, Any]) -> Iterator[Finding]:
    battery, status = android.get("battery"), android.get("thermal_status")
    if status:
        yield Finding("throttled", PROBLEM, f"its thermal status is {status} (0 none, 6 shutdown): it is slowing down", "let it cool, out of its case and off the charger", sources=field_sources("throttled"))
    if battery and battery["level_percent"] is not None:
        low = battery["level_percent"] < LOW_BATTERY_PERCENT
        yield Finding("battery", WARNING if low else OK, f"battery {battery['level_percent']} %" + (f", {battery['temperature_c']:.0f} °C" if battery["temperature_c"] is not None else ""),
                      "charge it: phones slow down below 20 %" if low else None)


def wheel_machine(facts: Facts) -> str:
    """The machine of the wheels that a device's Python takes: armv7l on a 32-bit system, whatever the kernel says."""
    machine = facts["machine"] or "unknown"
    return "armv7l" if facts["bits"] == 32 and machine in ("aarch64", "arm64", "armv8l", "armv7l") else {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)


def usable_pythons(facts: Facts) -> List[Mapping[str, Any]]:
    """Pythons that wheels exist for at all, the system's before virtual environments."""
    good = [p for p in facts["python"] if p["implementation"] == "CPython" and not p["free_threaded"] and minor_version(p) in PYTHONS]
    return sorted(good, key=lambda p: p["venv"])


def minor_version(python: Mapping[str, Any]) -> str:
    """"3.11" of a Python's facts."""
    return ".".join(python["version"].split(".")[:2])


def field_sources(code: str) -> Tuple[str, ...]:
    """Issues in which people met a failure of the field."""
    return tuple(next(entry["sources"] for entry in device_data()["field"] if entry["code"] == code))
