"""What a Raspberry Pi's firmware says about throttling and power. Device-safe: standard library, Python 3.9. None where there is no such firmware."""
from __future__ import annotations

import re
import subprocess
import threading
import time
from typing import Any, Dict, List, Optional, Sequence

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
NOW = {0: "under-voltage", 1: "the clock is capped", 2: "throttled", 3: "soft temperature limit"}
SINCE_BOOT = 16  # the same bits, 16 higher, stay set until the next start
TIMEOUT_SECONDS = 5
# "  3V3_SYS_A current(1)=0.05270000A" (Pi 5 firmware) and "VDD_CORE_V=0.8750V"
_RAIL = re.compile(r"^\s*(\w+)_([AV])\s*(?:(?:current|volt)\w*\(\d+\))?\s*=\s*([0-9.]+)\s*[AV]\s*$")
SCOPE = "the sum of the PMIC's rails (volts times amperes): without its own losses, and without what USB and HATs draw from 5 V"


def _vcgencmd(*words: str) -> Optional[str]:
    try:
        done = subprocess.run(["vcgencmd", *words], capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def throttled() -> Optional[int]:
    """The bits of `vcgencmd get_throttled`, None where it cannot be read."""
    text = _vcgencmd("get_throttled")
    found = re.search(r"throttled=(0x[0-9a-fA-F]+)", text or "")
    return int(found.group(1), 16) if found else None


def throttle_words(bits: Optional[int]) -> List[str]:
    """What the bits say about this moment."""
    return [words for bit, words in NOW.items() if bits is not None and bits >> bit & 1]


def throttled_between(before: Optional[int], after: Optional[int]) -> List[str]:
    """What happened between two readings: what is so now at either end, and what is set since boot at the end and was not before."""
    if before is None or after is None:
        return []
    told = (before | after) & 0xF | ((after & ~before) >> SINCE_BOOT) & 0xF
    return throttle_words(told)


def parse_rails(text: str) -> Dict[str, float]:
    """Watts of each rail of `vcgencmd pmic_read_adc` that has both a current and a voltage."""
    values: Dict[str, Dict[str, float]] = {}
    for line in text.splitlines():
        found = _RAIL.match(line)
        if found:
            values.setdefault(found.group(1), {})[found.group(2)] = float(found.group(3))
    return {name: pair["A"] * pair["V"] for name, pair in values.items() if len(pair) == 2}


def watts() -> Optional[float]:
    """Power of this moment (see SCOPE), None where the board has no readable PMIC (all before the Pi 5)."""
    rails = parse_rails(_vcgencmd("pmic_read_adc") or "")
    return sum(rails.values()) if rails else None


class PowerMeter:
    """Reads the power every `interval_seconds` in a thread while the body of `with` runs; `samples` are watts."""

    def __init__(self, *, interval_seconds: float = 0.2) -> None:
        self.interval_seconds = interval_seconds
        self.samples: List[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        while not self._stop.is_set():
            value = watts()
            if value is not None:
                self.samples.append(round(value, 4))
            self._stop.wait(self.interval_seconds)

    def __enter__(self) -> PowerMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def idle_samples(seconds: float) -> List[float]:
    """Watts while this process sleeps."""
    with PowerMeter() as meter:
        time.sleep(seconds)
    return meter.samples


def energy_facts(idle: Sequence[float], busy: Sequence[float], *, runs: int, seconds: float) -> Dict[str, Any]:
    """Joules per inference with the idle power subtracted, and the raw watts it comes from."""
    idle_watts, busy_watts = (sum(values) / len(values) for values in (idle, busy))
    return {"idle_watts": list(idle), "busy_watts": list(busy), "runs": runs, "seconds": round(seconds, 4), "scope": SCOPE,
            "joules_per_inference": (busy_watts - idle_watts) * seconds / runs, "method": "(mean power while inferring − mean power at rest) × seconds / inferences"}
