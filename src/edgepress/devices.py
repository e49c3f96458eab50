"""The user's devices by name, and the lease that keeps two processes of this machine off one device."""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from edgepress.artifact import write_json
from edgepress.errors import DeviceError, UnsupportedError, nearest
from edgepress.targets import TARGETS, connect
from edgepress.targets.local import home_folder

LOCAL = "local"
Ask = Callable[[str], bool]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Device:
    """A registered device. `host_key` is the fingerprint a person accepted, None where the user's own ssh knew it already or there is none."""

    name: str
    address: str
    measured_on: str
    host_key: Optional[str]
    added: str


def add_device(address: str, name: Optional[str] = None, *, ask: Optional[Ask] = None, accept_host_key: Optional[str] = None) -> Device:
    """Connect to a device once and remember it.

    Args:
        name: how it will be called; made from the address by default.
        ask: shown the fingerprint of an unknown host key; whether to accept it.
        accept_host_key: the fingerprint to accept without asking, "SHA256:…".

    Raises:
        DeviceError: unreachable, its host key is not accepted, or the name is another device's.
        UnsupportedError: no such kind of address or name.
    """
    if address.partition("://")[0] not in TARGETS or "://" not in address:
        raise UnsupportedError(f"{address!r} is not an address; {nearest(address.partition('://')[0], TARGETS)}", "for example ssh://pi@raspberrypi.local or adb://SERIAL")
    name = name or _name_of(address)
    if not _NAME.fullmatch(name) or name == LOCAL:
        raise UnsupportedError(f"{name!r} is not a name for a device; accepted: letters, digits, . _ - and not {LOCAL!r}", "give one with --name")
    _check_free(name, address)
    fingerprint = _accept_key(address, ask, accept_host_key) if address.startswith("ssh://") else None
    with lease(address):
        connection = connect(address)
        connection.close()
    device = Device(name, address, connection.measured_on, fingerprint, time.strftime("%Y-%m-%d %H:%M:%S"))
    with _registry() as devices:
        devices[name] = {key: value for key, value in asdict(device).items() if key != "name"}
    return device


def list_devices() -> List[Device]:
    """Every registered device, by name."""
    return [Device(name, **facts) for name, facts in sorted(_read().items())]


def forget_device(target: str) -> Device:
    """Remove a device, by name or address, and the host key that was pinned for it.

    Raises:
        DeviceError: there is none.
    """
    from edgepress import host_keys

    with _registry() as devices:
        name = next((name for name, facts in devices.items() if target in (name, facts["address"])), None)
        if name is None and target.startswith("ssh://") and host_keys.forget(target):  # pinned, and never registered
            return Device(target, target, "real", None, "")
        if name is None:
            raise DeviceError(f"there is no device {target!r}; {nearest(target, devices) if devices else 'none is registered'}", "`edgepress device list` shows them")
        device = Device(name, **devices.pop(name))
    if device.address.startswith("ssh://"):
        host_keys.forget(device.address)
    return device


def resolve(target: str) -> str:
    """The address of a target: a registered name's, or the address itself.

    Raises:
        UnsupportedError: no such name.
    """
    if target == LOCAL or "://" in target:
        return target
    devices = _read()
    if target not in devices:
        raise UnsupportedError(f"there is no device {target!r}; {nearest(target, [*devices, LOCAL])}", "register it with: edgepress device add ssh://USER@HOST --name NAME; or give its address")
    return str(devices[target]["address"])


@contextlib.contextmanager
def lease(target: str) -> Iterator[None]:
    """Hold a device: one process of this machine at a time. It ends with the process, however that ends. Other machines are kept off by the lock on the device itself.

    Raises:
        DeviceError: somebody else holds it; says who.
    """
    address = resolve(target)
    if address == LOCAL or address.startswith("emu://"):  # each connection to an emulated device is a device of its own
        yield
        return
    file = _folder() / "leases" / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a+", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.seek(0)
            raise DeviceError(f"{target} is in use by {held.read(200).strip() or 'another process'}", "wait until it is done; only one at a time can measure there") from error
        held.truncate(0)
        held.write(f"process {os.getpid()} of this machine, since {time.strftime('%H:%M:%S')}")
        held.flush()
        yield


def _accept_key(address: str, ask: Optional[Ask], accepted: Optional[str]) -> Optional[str]:
    """The fingerprint of a host key once it is pinned; None where it was known."""
    from edgepress import host_keys

    known = host_keys.is_known(address)
    if known and accepted is None:
        return None
    key = host_keys.offered_key(address)
    if accepted is not None and key.fingerprint != accepted:
        raise DeviceError(f"{address} shows the host key {key.fingerprint}, not the accepted {accepted}", "compare it with the device: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    if accepted is None and not (ask and ask(key.fingerprint)):
        raise DeviceError(f"the host key of {address} was not accepted: {key.fingerprint}",
                          f"compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device; then: edgepress device add {address} --accept-host-key {key.fingerprint}")
    if not known:
        host_keys.pin(key)
    return key.fingerprint


def _check_free(name: str, address: str) -> None:
    other = _read().get(name)
    if other and other["address"] != address:
        raise DeviceError(f"{name} is the name of {other['address']} already", "give another one with --name, or remove that one: edgepress device forget " + name)


def _name_of(address: str) -> str:
    place = address.partition("://")[2].rpartition("@")[2].rstrip("/")
    host = place.partition(":")[0] if address.startswith("ssh://") else place
    is_number = host.replace(".", "").replace(":", "").isdecimal()
    return re.sub(r"[^A-Za-z0-9_-]+", "-", host if is_number else host.partition(".")[0]).strip("-") or "device"


def _folder() -> Path:
    folder = home_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnsupportedError(f"{folder} cannot be made ({error.strerror})", "set EDGEPRESS_HOME to a folder that can be written") from error
    return folder


def _read() -> Dict[str, Dict[str, Any]]:
    file = home_folder() / "devices.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): {key: facts[key] for key in ("address", "measured_on", "host_key", "added")} for name, facts in found["devices"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeviceError(f"{file} cannot be read ({error!r}); accepted: the devices that `edgepress device add` wrote", f"mend it, or move it away and add the devices again: mv {file} {file}.bad") from error


@contextlib.contextmanager
def _registry() -> Iterator[Dict[str, Dict[str, Any]]]:
    """The devices to change; written at the end, if nothing went wrong. One process at a time."""
    folder = _folder()
    with open(folder / "devices.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        devices = _read()
        yield devices
        write_json(folder / "devices.json", {"schema": 1, "devices": devices})
