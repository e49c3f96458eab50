"""What a phone says about its cores, its heat and its battery: /sys, `dumpsys thermalservice`, `dumpsys battery`, `getprop`. None where it does not say."""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from edgepress.errors import DeviceError, JobError, UnsupportedError, nearest
from edgepress.targets.base import Connection

TIMEOUT_SECONDS = 30
THROTTLING = 2  # Android's THERMAL_STATUS_MODERATE: from here on clocks are lowered (developer.android.com/reference/android/os/PowerManager)
_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_CORES = ('for c in /sys/devices/system/cpu/cpu[0-9]*; do f=; read -r f < "$c/cpufreq/cpuinfo_max_freq"; [ -n "$f" ] || read -r f < "$c/cpu_capacity"; '
          'echo "${c##*/cpu} ${f:-0}"; done 2>/dev/null')
_PROPERTIES = {"model": "ro.product.model", "soc": "ro.soc.model", "abi": "ro.product.cpu.abi", "sdk": "ro.build.version.sdk", "release": "ro.build.version.release"}


@dataclass(frozen=True)
class Cores:
    """Some of a device's cores: big, little, middle, or all of them (then `mask` is None and nothing is pinned)."""

    name: str
    cpus: Tuple[int, ...]

    @property
    def mask(self) -> Optional[str]:
        """What `taskset` takes: a hexadecimal number with one bit a core."""
        return None if self.name == "all" else f"{sum(1 << cpu for cpu in self.cpus):x}"


def ask(connection: Connection, *command: str) -> str:
    """What a command prints there; empty where it does not exist or fails."""
    try:
        done = connection.run(list(command), environment={}, timeout_seconds=TIMEOUT_SECONDS)
    except JobError:  # it could not be started: not an Android
        return ""
    return done.stdout if done.exit_code == 0 else ""


def list_cores(connection: Connection) -> List[Cores]:
    """All cores, then, where they differ, the kinds by their highest frequency: little, middle, big."""
    return parse_cores(ask(connection, "sh", "-c", _CORES))


def parse_cores(text: str) -> List[Cores]:
    """As `list_cores`, from lines of "number frequency"."""
    pairs = sorted({(int(cpu), int(frequency)) for cpu, frequency in re.findall(r"^(\d{1,4}) (\d{1,12})$", text, re.MULTILINE)})
    cores = [Cores("all", tuple(cpu for cpu, _ in pairs))]
    speeds = sorted({frequency for _, frequency in pairs})
    if len(speeds) < 2:
        return cores
    names = ["little", *(["middle"] if len(speeds) == 3 else [f"middle{n}" for n in range(1, len(speeds) - 1)]), "big"]
    return cores + [Cores(name, tuple(cpu for cpu, frequency in pairs if frequency == speed)) for name, speed in zip(names, speeds)]


def choose_cores(known: List[Cores], name: str) -> Cores:
    """The cores of a name.

    Raises:
        UnsupportedError: this device has no such kind of core.
    """
    for cores in known:
        if cores.name == name:
            return cores
    why = "its cores are all of one kind" if len(known) == 1 else "it has other kinds"
    raise UnsupportedError(f"cores {name!r} do not exist on this device ({why}); {nearest(name, [c.name for c in known])}", "leave the choice of cores out")


def device_properties(connection: Connection) -> Dict[str, Any]:
    """Model, chip, ABI and Android version."""
    return {key: ask(connection, "getprop", name).strip()[:100] or None for key, name in _PROPERTIES.items()}


def state(connection: Connection) -> Dict[str, Any]:
    """Battery and heat of this moment; see `parse_battery` and `parse_thermal`."""
    return {"battery": parse_battery(ask(connection, "dumpsys", "battery")), "thermal": parse_thermal(ask(connection, "dumpsys", "thermalservice"))}


def parse_battery(text: str) -> Optional[Dict[str, Any]]:
    """Charge (0–100), degrees, and whether it is charging, from `dumpsys battery`."""
    level, tenths = (re.search(rf"^\s*{key}: (-?\d{{1,4}})\s*$", text, re.MULTILINE) for key in ("level", "temperature"))
    if not level:
        return None
    powered = re.findall(r"^\s*(AC|USB|Wireless|Dock) powered: true\s*$", text, re.MULTILINE)
    return {"charge_percent": int(level[1]), "temperature_c": int(tenths[1]) / 10 if tenths else None, "powered_by": powered[0].lower() if powered else None}


def parse_thermal(text: str) -> Optional[Dict[str, Any]]:
    """Status (0 none … 6 shutdown) and the temperatures by sensor, from `dumpsys thermalservice`: the current ones, else the cached."""
    status = re.search(r"Thermal Status: ([0-6])\b", text)
    if not status:
        return None
    current = text.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0] or text
    found = re.findall(r"Temperature\{mValue=(-?[\d.]{1,12}), mType=-?\d+, mName=([^,}]{1,40}),", current)
    degrees = {name: round(float(value), 1) for value, name in found if _is_number(value) and -50 < float(value) < 150}  # other values mean "no sensor"
    return {"status": int(status[1]), "status_name": _STATUSES[int(status[1])], "temperatures_c": degrees}


def is_throttled(now: Dict[str, Any]) -> bool:
    """Whether the phone says that it lowers its clocks."""
    return bool(now["thermal"]) and now["thermal"]["status"] >= THROTTLING


def hottest_c(now: Dict[str, Any]) -> Optional[float]:
    """The hottest sensor, or the battery where there is none."""
    degrees = list((now["thermal"] or {}).get("temperatures_c", {}).values())
    return max(degrees) if degrees else (now["battery"] or {}).get("temperature_c")


def machine_of(header: bytes) -> Optional[str]:
    """What an ELF program is built for, as `uname -m` says it; None for a script or another format."""
    if header[:4] != b"\x7fELF" or len(header) < 20:
        return None
    return {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64"}.get(int.from_bytes(header[18:20], "little"), "unknown")


def check_machine(header: bytes, connection: Connection, *, file: str) -> None:
    """Check that a program is built for the device.

    Raises:
        DeviceError: it is not.
    """
    built, machine = machine_of(header), ask(connection, "uname", "-m").strip()
    fits = {"aarch64": ("aarch64", "armv7l"), "armv8l": ("armv7l",), "x86_64": ("x86_64", "i686")}.get(machine, (machine,))
    if built is not None and machine and built not in fits:
        raise DeviceError(f"{file} is built for {built}, the device is {machine}", f"give the benchmark_model built for {machine}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
