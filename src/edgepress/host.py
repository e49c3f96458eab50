"""What machine this is and how busy it is: the facts without which a measurement means nothing. Reads /proc and /sys where they exist."""
from __future__ import annotations

import glob
import os
import platform
import sys
import time
from typing import Any, Dict, List, NamedTuple, Optional

# Instruction-set extensions that decide which kernels a runtime picks.
TELLING_FLAGS = frozenset((
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_tile",
    "neon", "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "bf16", "sve", "sve2", "sme", "vfpv4"))


class Ticks(NamedTuple):
    """Processor time of the whole machine since it started, and of this process, in seconds."""

    busy: float
    stolen: float
    total: float
    own: float


def host_facts() -> Dict[str, Any]:
    """Facts that do not change while a job runs."""
    cpu = _cpu_facts()
    return {"machine": platform.machine(), "system": platform.system(), "release": platform.release(), "python": platform.python_version(),
            "bits": 64 if sys.maxsize > 2**32 else 32, "cpu": cpu["model"], "cpu_flags": cpu["flags"], "cpus": usable_cpus(),
            "memory_bytes": _memory_bytes(), "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "board": _read("/proc/device-tree/model")}


def state_facts() -> Dict[str, Any]:
    """Facts of this moment: load average of one minute, hottest sensor, clock of the first core; None where unreadable."""
    clock = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return {"load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None, "temperature_c": temperature_c(),
            "clock_mhz": int(clock) / 1000 if clock and clock.isdigit() else None}


def usable_cpus() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def temperature_c() -> Optional[float]:
    """Hottest thermal zone, or None."""
    degrees: List[float] = []
    for zone in glob.glob("/sys/class/thermal/thermal_zone*/temp"):
        text = _read(zone)
        if text and text.lstrip("-").isdigit():
            degrees.append(int(text) / 1000)
    return max(degrees) if degrees else None


def ticks() -> Optional[Ticks]:
    """Processor time so far; None where /proc/stat cannot be read."""
    text = _read("/proc/stat")
    fields = text.splitlines()[0].split() if text else []
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, idle, waiting, interrupt, soft, stolen = (int(f) / os.sysconf("SC_CLK_TCK") for f in fields[1:9])
    busy = user + nice + system + interrupt + soft
    return Ticks(busy=busy, stolen=stolen, total=busy + idle + waiting + stolen, own=time.process_time())


def interference(before: Optional[Ticks], after: Optional[Ticks]) -> Dict[str, Optional[float]]:
    """Shares (0–1) of all processor time between two readings that went to other processes and to other virtual machines."""
    usage = Usage()
    usage.add(before, after)
    return usage.shares()


class Usage:
    """Whose processor time it was while we measured, summed over blocks."""

    def __init__(self) -> None:
        self._total = self._others = self._stolen = 0.0

    def add(self, before: Optional[Ticks], after: Optional[Ticks]) -> None:
        """Count what happened between two readings."""
        if before is not None and after is not None and after.total > before.total:
            self._total += after.total - before.total
            self._others += (after.busy - before.busy) - (after.own - before.own)
            self._stolen += after.stolen - before.stolen

    def shares(self) -> Dict[str, Optional[float]]:
        """Shares (0–1) of all processor time that went to other processes and to other virtual machines; None where nothing is known."""
        if not self._total:
            return {"others_share": None, "stolen_share": None}
        return {"others_share": round(min(max(self._others / self._total, 0.0), 1.0), 4), "stolen_share": round(self._stolen / self._total, 4)}


def anonymous_bytes() -> Optional[int]:
    """Resident memory of this process that no file backs (RssAnon): the runtime's tensors and unpacked weights, not the mapped file; None where unreadable."""
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return None


def peak_rss_bytes() -> Optional[int]:
    """Largest resident memory of this process so far (VmHWM; getrusage elsewhere), None where neither exists."""
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_facts() -> Dict[str, Any]:
    model, flags = platform.processor() or "unknown", set()
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("model name", "Model"):
            model = value
        elif key in ("flags", "Features"):
            flags.update(value.split())
    return {"model": model, "flags": sorted(flags & TELLING_FLAGS)}


def _memory_bytes() -> Optional[int]:
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: str) -> Optional[str]:
    """Text of a small file without trailing blanks and NULs (device-tree files end in one), None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip().rstrip("\0")
    except OSError:
        return None
