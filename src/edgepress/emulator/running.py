"""Start an emulated device and hold it: it lives in private namespaces, keeps its changes in memory, and ends with this process."""
from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Dict, List, Optional, Sequence

from edgepress.emulator import connector, init
from edgepress.emulator.profiles import find_profile
from edgepress.emulator.requirements import QEMU, find_command, require
from edgepress.emulator.root import build_root, hold_root
from edgepress.errors import DeviceError, JobError, UnsupportedError
from edgepress.targets.base import Completed

SSH_HOST = "emulated-pi"
SSH_ADDRESS = f"ssh://pi@{SSH_HOST}"
ADB_ADDRESS = f"adb://127.0.0.1:{init.ADB_PORT}"
DAEMONS = ("sshd", "adbd", "adb server")
# Where a file system in memory can be mounted in the private namespace: any standard folder that nothing we use lies below.
_MOUNT_POINTS = ("/mnt", "/srv", "/media")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/home/pi", "USER": "pi", "LANG": "C.UTF-8"}


@dataclass
class Emulated:
    """A running emulated device. `root` is its file system as seen from here, `pid` its first process."""

    profile: str
    pid: int
    root: Path
    state: Path  # as the device's namespaces see it; `files` is the same folder from here
    _process: subprocess.Popen
    _lock: threading.Lock = field(default_factory=threading.Lock)
    ssh_address: str = SSH_ADDRESS
    adb_address: str = ADB_ADDRESS

    @property
    def files(self) -> Path:
        """Folder with the ssh settings, the adb socket and the daemons' logs, seen from here."""
        return Path(f"/proc/{self.pid}/root{self.state}")

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`."""
        return self.files / "ssh" / "config"

    @property
    def adb_socket(self) -> str:
        """For ADB_SERVER_SOCKET."""
        return f"localfilesystem:{self.files}/adb.sock"

    @property
    def environment(self) -> Dict[str, str]:
        """Variables with which edgepress, and adb, reach it."""
        return {"EDGEPRESS_SSH_CONFIG": str(self.ssh_config), "ADB_SERVER_SOCKET": self.adb_socket}

    def serve(self, command: Sequence[str]) -> int:
        """Run a command of this machine that reaches it; returns its exit code.

        Raises:
            UnsupportedError: there is no such command.
        """
        try:
            return subprocess.run(command, env={**os.environ, **self.environment}, check=False).returncode
        except OSError as error:
            raise UnsupportedError(f"{command[0]} cannot be started: {error.strerror}", "give a command of this machine after --") from error

    def wait(self) -> None:
        """Sleep until it ends."""
        self._process.wait()

    def shell(self, command: str, *, timeout_seconds: float = 120, stdin: Optional[bytes] = None) -> Completed:
        """Run a line of shell there as the user `pi`, without any daemon in between.

        Raises:
            DeviceError: the device has ended.
            JobError: it did not end in time, and was stopped.
        """
        if not self.is_running:
            raise DeviceError("the emulated device has ended", "start it anew")
        with subprocess.Popen(self.command(["/bin/bash", "-c", command]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(stdin or b"", timeout=timeout_seconds)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise JobError(f"the command did not end within {timeout_seconds:g} s on the emulated device and was stopped", command=[command], hint="raise the timeout") from error
        return Completed(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    def command(self, arguments: Sequence[str]) -> List[str]:
        """The command of this machine that runs `arguments` there as the user `pi`, with the environment of a fresh login."""
        environment = [f"{name}={value}" for name, value in {**_ENVIRONMENT, "QEMU_CPU": find_profile(self.profile).cpu}.items()]
        inside = [find_command("unshare"), "--user", "--map-user=1000", "--map-group=1000", f"--root={self.state}/root", "--wd=/home/pi"]
        return [find_command("env"), "-i", *environment, *self._enter("--mount", "--pid", "--uts", "--ipc"), *inside, *arguments]

    @property
    def is_running(self) -> bool:
        """Whether its first process lives."""
        return self._process.poll() is None

    def kill(self, what: str) -> None:
        """Kill "sshd", "adbd" or "adb server" and its sessions with SIGKILL. Commands it started go on."""
        self._request("kill", what)

    def restart(self, what: str) -> None:
        """Kill a daemon and start it again; returns when it answers."""
        self._request("restart", what)

    def reboot(self) -> None:
        """All that runs there dies, /tmp and /run are emptied, the daemons start again."""
        self._request("reboot")

    def close(self) -> None:
        """End it. Nothing of it stays: no process, no mount, no file."""
        for stream in (self._process.stdin, self._process.stdout):
            stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stderr.close()

    def __enter__(self) -> Emulated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _enter(self, *namespaces: str) -> List[str]:
        return [find_command("nsenter"), f"--target={self.pid}", "--user", "--net", "--preserve-credentials", *namespaces, "--"]

    def _request(self, do: str, *arguments: str) -> None:
        with self._lock:
            _ask(self._process, {"do": do, "with": arguments})

    def _write_ssh_settings(self) -> None:
        """A host key, a user key, and the settings of both sides."""
        folder = self.files / "ssh"
        keygen = find_command("ssh-keygen")
        for name in ("id", "host_key"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True, stdin=subprocess.DEVNULL)
        there = self.root / "etc" / "ssh"
        (there / "host_key").touch(mode=0o600)
        (there / "host_key").write_bytes((folder / "host_key").read_bytes())
        (there / "authorized_keys").write_bytes((folder / "id.pub").read_bytes())
        (there / "edgepress.conf").write_text(_SSHD.format(port=init.SSH_PORT, cpu=find_profile(self.profile).cpu), encoding="ascii")
        host_key = " ".join((folder / "host_key.pub").read_text(encoding="ascii").split()[:2])
        (folder / "known_hosts").write_text(f"{SSH_HOST} {host_key}\n", encoding="ascii")
        proxy = shlex.join([*self._enter(), sys.executable, "-I", "-S", connector.__file__, str(init.SSH_PORT)])
        (folder / "config").write_text(_SSH.format(host=SSH_HOST, folder=folder, proxy=proxy.replace("%", "%%")), encoding="utf-8")


_SSHD = """Port {port}
ListenAddress 127.0.0.1
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UseDNS no
MaxStartups 100
MaxSessions 100
SetEnv QEMU_CPU={cpu}
Subsystem sftp internal-sftp
"""
_SSH = """Host {host}
    HostKeyAlias {host}
    User pi
    IdentityFile {folder}/id
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    ProxyCommand {proxy}
"""


def introduce(device: Emulated) -> str:
    """What a person who has just started a device needs to know."""
    profile = find_profile(device.profile)
    exports = "\n".join(f"  export {name}={shlex.quote(value)}" for name, value in device.environment.items())
    return f"""An emulated {profile.board} ({profile.cpu}) is running. Ctrl-C ends it; nothing of it stays. In another terminal:
{exports}
  edgepress device check {device.ssh_address}
  edgepress device check {device.adb_address}
  ssh -F "$EDGEPRESS_SSH_CONFIG" {SSH_HOST}
Answers are those of the real arm64 programs; times are not those of a Raspberry Pi."""


def start(profile: str, *, daemons: Sequence[str] = DAEMONS, home: Optional[Path] = None) -> Emulated:
    """Start an emulated device; its file system is built first where that is not there yet. Close it, or use it as a context manager.

    Args:
        profile: rpi3, rpi4 or rpi5.
        daemons: which of sshd, adbd and this machine's adb server run in it; none are needed for `shell`.
        home: where built file systems are kept; `emulator_home()` by default.

    Raises:
        UnsupportedError: no such profile, or this machine cannot emulate; says what to install or switch on.
        DeviceError: it did not come up.
    """
    cpu = find_profile(profile).cpu
    require(network_services=bool(daemons))
    root = build_root(home)
    state = _mount_point(root)
    settings = {"profile": profile, "cpu": cpu, "root": str(root), "state": str(state), "qemu": os.path.realpath(find_command(QEMU)), "ip": find_command("ip"),
                "adb": find_command("adb") if daemons else ""}
    with hold_root(root) as held:
        process = subprocess.Popen([find_command("unshare"), "--user", "--map-root-user", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc",
                                    sys.executable, "-I", "-S", init.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                                   pass_fds=[held.fileno()])
    try:
        _ask(process, settings)
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()[0])
        device = Emulated(profile, pid, Path(f"/proc/{pid}/root{state}/root"), state, process)
        if "sshd" in daemons:
            device._write_ssh_settings()
        for daemon in daemons:
            device.restart(daemon)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return device


def _mount_point(root: Path) -> Path:
    used = [os.path.realpath(path) for path in (root, sys.prefix, sys.base_prefix, __file__)]
    for candidate in _MOUNT_POINTS:
        if os.path.isdir(candidate) and not any(path.startswith(candidate + "/") for path in used):
            return Path(candidate)
    raise DeviceError(f"there is no folder to mount the emulated device on; accepted: one of {', '.join(_MOUNT_POINTS)} that neither edgepress nor EDGEPRESS_HOME lies below",
                      "create one of these folders, or set EDGEPRESS_HOME to another place")


def _ask(process: subprocess.Popen, request: dict) -> None:
    """Send a request to the device's first process and wait for its answer."""
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except (OSError, ValueError):
        line = ""
    if not line:
        process.kill()
        said = _rest(process.stderr)
        raise DeviceError("the emulated device has ended" + (f": {said}" if said else ""), "start it anew")
    error = json.loads(line)["error"]
    if error:
        raise DeviceError(f"the emulated device could not {request.get('do', 'start')}: {error}", "see device/emulator/README.md for what this machine must allow")


def _rest(stream: IO[str]) -> str:
    return "" if stream.closed else stream.read()[-2000:].strip()
