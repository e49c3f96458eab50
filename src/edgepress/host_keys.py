"""Host keys of ssh devices: look at the key a device offers, pin it once a person has compared it, forget it."""
from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

from edgepress.errors import DeviceError
from edgepress.targets.ssh import CONNECT_SECONDS, Place, client, explain, known_hosts, own_known_hosts, parse, settings


@dataclass(frozen=True)
class HostKey:
    """A key as known_hosts holds it, and as people compare it: "SHA256:…"."""

    line: str
    fingerprint: str


def is_known(address: str) -> bool:
    """Whether the key a device offers is pinned, or known to the user's own ssh.

    Raises:
        DeviceError: unreachable, or it offers another key than the known one.
    """
    place = parse(address)
    stderr = _knock(place, known_hosts=known_hosts(place), strict="yes")
    error = explain(address, place, stderr)
    if error is None or "Permission denied" in stderr:  # we came as far as logging in, which we did not try
        return True
    if "Host key verification failed" in stderr and "HAS CHANGED" not in stderr:
        return False
    raise error


def offered_key(address: str) -> HostKey:
    """The key that a device offers now; nothing is pinned by looking.

    Raises:
        DeviceError: unreachable.
    """
    place = parse(address)
    with tempfile.TemporaryDirectory(prefix="ep-") as folder:
        file = Path(folder) / "offered"
        stderr = _knock(place, known_hosts=str(file), strict="accept-new", more=("GlobalKnownHostsFile=/dev/null", "HashKnownHosts=no"))
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line] if file.exists() else []
        if not lines:
            raise explain(address, place, stderr) or DeviceError(f"{address} offers no host key ({stderr.strip()[-300:]})", "look whether an ssh server runs there")
        shown = subprocess.run(["ssh-keygen", "-lf", str(file)], capture_output=True, text=True, errors="replace", check=False).stdout.split()
    if len(shown) < 2:
        raise DeviceError(f"{address} offers a host key that ssh-keygen cannot read", "look whether an ssh server runs there")
    return HostKey(lines[0], shown[1])


def pin(key: HostKey) -> None:
    """Accept a key from now on, and no other one for its host."""
    file = own_known_hosts()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as known:
        known.write(key.line + "\n")


def forget(address: str) -> bool:
    """Remove the pinned key of a device; whether there was one. The user's own known_hosts stays as it is."""
    place, file = parse(address), own_known_hosts()
    if not file.exists():
        return False
    before = file.read_bytes()
    for name in _names(place):
        subprocess.run(["ssh-keygen", "-R", name, "-f", str(file)], capture_output=True, check=False)
    Path(f"{file}.old").unlink(missing_ok=True)
    return file.read_bytes() != before


def _names(place: Place) -> List[str]:
    """What known_hosts may call a place."""
    said = settings(place)
    alias, host, port = said.get("hostkeyalias"), said.get("hostname", place.host), said.get("port", "22")
    return [alias] if alias and alias != "none" else [host if port == "22" else f"[{host}]:{port}"]


def _knock(place: Place, *, known_hosts: str, strict: str, more: Tuple[str, ...] = ()) -> str:
    """What the client says when it comes to the door with no key of its own."""
    options = [word for option in ("PreferredAuthentications=none", *more) for word in ("-o", option)]
    command = [*client(place, known_hosts=known_hosts, strict=strict), *options, *place.words(), "true"]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=3 * CONNECT_SECONDS, check=False).stderr
    except subprocess.TimeoutExpired:
        return "Connection timed out"
    except OSError as error:
        raise DeviceError("the ssh client is not installed here", "install it with: apt install openssh-client") from error
