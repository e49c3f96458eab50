"""Which locked wheels fit a device, and the commands that install them there without a network."""
from __future__ import annotations

import shlex
from typing import Any, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from edgepress.device_findings import PROBLEM, Facts, Finding, minor_version, usable_pythons, wheel_machine
from edgepress.device_profiles import device_data, fits, known_failures
from edgepress.errors import UnsupportedError
from edgepress.locks import DISTRIBUTIONS, PYTHONS, REQUIREMENTS, Lock, lock_text, locked, read_lock

ANDROID_PLACE = "/data/local/tmp/edgepress"  # the only folder of a phone where adb may write and execute

def choose_lock(facts: Facts, runtime: str) -> Tuple[Optional[Mapping[str, Any]], Optional[Lock]]:
    """The first Python of the device that the runtime's locked wheels fit, and their lock; (None, None) where there is none."""
    machine = wheel_machine(facts)
    for python in usable_pythons(facts):
        if (runtime, minor_version(python), machine) in locked():
            lock = read_lock(runtime, minor_version(python), machine)
            if facts["glibc"] is None or fits(facts["glibc"], f">={lock.glibc[0]}.{lock.glibc[1]}"):
                return python, lock
    return None, None


def lock_for(facts: Facts, runtime: str) -> Lock:
    """The lock of a runtime for a device.

    Raises:
        UnsupportedError: no such runtime, or no wheels for any Python there.
    """
    lock = choose_lock(facts, runtime)[1] if runtime in DISTRIBUTIONS else None
    if lock is None:
        pythons = [minor_version(python) for python in usable_pythons(facts)]
        if not pythons:
            raise UnsupportedError(f"no Python there can take the wheels of {runtime}; accepted: CPython {PYTHONS[0]} to {PYTHONS[-1]}", "edgepress device check says what there is")
        lock_text(runtime, pythons[0], wheel_machine(facts))  # says what there is
        raise UnsupportedError(f"the wheels of {runtime} need a newer C library than glibc {facts['glibc']}", "install a newer Raspberry Pi OS")
    return lock


def installable(facts: Facts, findings: Sequence[Finding]) -> List[str]:
    """Runtimes that were looked at, are not installed, and of which the locked version works there; the preferred one first."""
    broken = {finding.subject for finding in findings if finding.level == PROBLEM}
    there = {finding.subject for finding in findings if finding.code == "installed"} - broken
    hopeless = {finding.subject for finding in findings if finding.level == PROBLEM and finding.code in ("format", "space", "memory")}
    locks = {runtime: choose_lock(facts, runtime)[1] for runtime in DISTRIBUTIONS if runtime in {finding.subject for finding in findings} - there - hopeless}
    return [runtime for runtime, lock in locks.items() if lock and not list(known_failures(runtime, lock.version, facts=facts, machine=wheel_machine(facts), numpy=locked_numpy(facts, lock)))]


def locked_numpy(facts: Facts, lock: Lock) -> Optional[str]:
    """The NumPy that the runtime meets after an installation with its lock: the locked one, or that of the system."""
    pinned = [pin.version for pin in lock.pins if pin.name == "numpy"]
    return pinned[0] if pinned else facts["numpy"] or _system_numpy(facts)


# --- one runtime

def install_commands(facts: Facts, runtime: str, *, target: str, address: Optional[str]) -> List[Tuple[str, str]]:
    """(where, command) of everything that installs a runtime there without a network: "here" or "there". Empty where no locked wheels fit, and for emu://, which forgets everything.

    Args:
        target: what `device wheels` is to be given: a name, or options with a profile.
        address: of the device; None for one that does not exist yet.
    """
    python, lock = choose_lock(facts, runtime)
    if python is None or lock is None or (address or "").startswith("emu:"):
        return []
    home = f"{facts['place']['path'] or '~/.edgepress'}/runtimes/{runtime}"
    home = home if home.startswith("~") else shlex.quote(home)
    wheels, copy = _copy_commands(address)
    commands = [("here", f"edgepress device wheels {target} --runtime {runtime} -o wheels"), *copy]
    if lock.system:
        commands.append(("there", f"sudo apt install {' '.join(lock.system)}"))
    return [*commands, ("there", f"{shlex.quote(python['path'])} -m venv {'--system-site-packages ' if lock.system else ''}{home}"),
            ("there", f"{home}/bin/python -m pip install --no-index --find-links {wheels} --require-hashes -r {wheels}/{REQUIREMENTS}")]


def _copy_commands(address: Optional[str]) -> Tuple[str, List[Tuple[str, str]]]:
    """The folder of the wheels on the device, and the command that brings it there."""
    if address == "local":
        return "wheels", []
    parts = urlsplit(address or "ssh://pi@raspberrypi.local")
    if parts.scheme == "adb":
        return f"{ANDROID_PLACE}/wheels", [("here", f"adb -s {shlex.quote(parts.netloc)} push wheels {ANDROID_PLACE}/")]
    host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname or parts.netloc
    return "wheels", [("here", f"scp {f'-P {parts.port} ' if parts.port else ''}-r wheels {shlex.quote(host)}:")]


def _system_numpy(facts: Facts) -> Optional[str]:
    """The NumPy that apt would install on this system."""
    return next((system["numpy"] for system in device_data()["systems"].values() if system["os_version"] == facts["os_version"]), None)
