"""Targets over ssh, by the OpenSSH client: the user's configuration, agent and jump hosts; strict host keys; one connection that all commands share."""
from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from edgepress.errors import DeviceError, UnsupportedError
from edgepress.remote import RemoteConnection, open_remote
from edgepress.targets.local import home_folder

NAME = "ssh"
HOME_THERE = "~/.edgepress"
CONFIG_VARIABLE = "EDGEPRESS_SSH_CONFIG"
CONNECT_SECONDS = 10
# Nothing is asked, nothing is forwarded, no terminal; a dead network is noticed after four silent seconds.
_OPTIONS = ("BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "ConnectionAttempts=1", "ServerAliveInterval=1", "ServerAliveCountMax=3", "ClearAllForwardings=yes", "PermitLocalCommand=no",
            "RemoteCommand=none", "EscapeChar=none", "UpdateHostKeys=no", "LogLevel=ERROR")
_ADDRESS = re.compile(r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%a-z]+\])(?::(?P<port>[0-9]{1,5}))?/?")


@dataclass(frozen=True)
class Place:
    """Where an address points, as the client takes it."""

    host: str
    user: Optional[str]
    port: Optional[int]

    def words(self) -> List[str]:
        """The client's arguments for it, the host last."""
        return [*(["-l", self.user] if self.user else []), *(["-p", str(self.port)] if self.port else []), self.host]


def parse(address: str) -> Place:
    """The parts of ssh://[user@]host[:port].

    Raises:
        UnsupportedError: it is not such an address.
    """
    match = _ADDRESS.fullmatch(address)
    port = int(match["port"]) if match and match["port"] else None
    if not match or (port is not None and not 0 < port < 65536):
        raise UnsupportedError(f"{address!r} is not an address of a device; accepted: ssh://[user@]host[:port]", "for example ssh://pi@raspberrypi.local; a path or a password does not belong into it")
    return Place(match["host"].strip("[]"), match["user"], port)


def client(place: Place, *, known_hosts: str, strict: str = "yes") -> List[str]:
    """The start of every command line of ours, without the host."""
    config = os.environ.get(CONFIG_VARIABLE)
    options = [*_OPTIONS, f"StrictHostKeyChecking={strict}", f"UserKnownHostsFile={known_hosts}"]
    return ["ssh", *(["-F", config] if config else []), "-T", "-a", "-x", *(word for option in options for word in ("-o", option))]


def own_known_hosts() -> Path:
    """The keys that `edgepress device add` pinned."""
    return home_folder() / "known_hosts"


def known_hosts(place: Place) -> str:
    """Our file of host keys, then the user's: what the client takes as UserKnownHostsFile."""
    return f'"{own_known_hosts()}" {settings(place).get("userknownhostsfile", "")}'.strip()


def settings(place: Place) -> Dict[str, str]:
    """What the user's configuration says about a host, as `ssh -G` prints it.

    Raises:
        DeviceError: there is no client, or it refuses its configuration.
    """
    config = os.environ.get(CONFIG_VARIABLE)
    try:
        done = subprocess.run(["ssh", *(["-F", config] if config else []), "-G", *place.words()], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False)
    except OSError as error:
        raise DeviceError("the ssh client is not installed here", "install it with: apt install openssh-client") from error
    if done.returncode != 0:
        raise DeviceError(f"ssh refuses its configuration: {done.stderr.strip()[-300:]}", f"mend {config or '~/.ssh/config'}")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


class SshTransport:
    """Commands over one shared connection: the first command opens it, and it ends with that command."""

    home = HOME_THERE

    def __init__(self, address: str) -> None:
        self.address, self._place = address, parse(address)
        start = client(self._place, known_hosts=known_hosts(self._place))
        self._folder = tempfile.mkdtemp(prefix="ep-", dir=_short_folder())  # a socket's path has 100 bytes; only we may enter
        self._client = [*start, "-o", "ControlMaster=auto", "-o", "ControlPersist=no", "-S", f"{self._folder}/s"]

    def argv(self, script: str) -> List[str]:
        """See `base.Transport`. Whatever shell the user has there hands the script to `sh`."""
        return [*self._client, *self._place.words(), f"exec sh -c {shlex.quote(script)}"]

    def explain(self, exit_code: int, stderr: str) -> Optional[DeviceError]:
        """See `base.Transport`."""
        return explain(self.address, self._place, stderr)

    def close(self) -> None:
        """Remove the socket's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def connect(address: str) -> RemoteConnection:
    """Open the target."""
    return open_remote(SshTransport(address))


def explain(address: str, place: Place, stderr: str) -> Optional[DeviceError]:
    """What the client's last words mean, in three parts."""
    offending = re.search(r"Offending .* key in (.+):\d+", stderr)
    if offending and offending[1].strip() != str(own_known_hosts()):  # a key that the user's own ssh knows: ours to name, not to remove
        return DeviceError(_CHANGED.format(address=address), f"if it was installed anew: ssh-keygen -f '{offending[1].strip()}' -R '{place.host}', then edgepress device add {address}, and compare the fingerprint")
    for words, problem, fix in _MEANINGS:
        if re.search(words, stderr):
            login = f"{place.user}@{place.host}" if place.user else place.host
            return DeviceError(problem.format(address=address, host=place.host), fix.format(address=address, host=place.host, login=login))
    return None


def _short_folder() -> str:
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    return folder if folder and len(folder) < 40 and os.access(folder, os.W_OK) else "/tmp"


_CHANGED = "{address} shows another host key than the known one: the device was installed anew, or somebody else answers in its place; nothing was sent"
_MEANINGS: Tuple[Tuple[str, str, str], ...] = (
    ("HOST IDENTIFICATION HAS CHANGED",
     _CHANGED,
     "if it was installed anew: edgepress device forget {address}, then edgepress device add {address}, and compare the fingerprint with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device"),
    ("Host key verification failed|host key is known for",
     "{address} is not known here: nobody has looked at its host key yet", "register it with: edgepress device add {address}"),
    ("Permission denied", "{address} lets none of your keys in", "put a key there with: ssh-copy-id {login}; where it has a passphrase, load it first: ssh-add. Nothing asks for a password"),
    ("Could not resolve hostname", "there is no host {host}", "give its address in the network, or look at its name there: hostname"),
    ("Connection refused", "{host} is there, but no ssh server answers", "on the device: sudo systemctl enable --now ssh"),
    ("timed out|No route to host|[Nn]etwork is unreachable", "{host} does not answer", "look whether it is switched on and in the same network: ping {host}"),
    ("not found|No such file or directory.*sh", "{address} has no POSIX shell that we can use", "give an account with a shell"),
)
