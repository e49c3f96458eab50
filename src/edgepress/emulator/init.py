"""First process of an emulated device: makes its file system and network in namespaces of its own, runs its daemons, ends with whoever started it.

Started as `python init.py` in fresh user, mount, pid, network, host-name and ipc namespaces. Its settings come as a line of JSON on stdin, then one request a line; answers go to stdout, a line each.
Standard library only; imports nothing of edgepress.
"""
from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

SSH_PORT, ADB_PORT = 22022, 25555
_START_SECONDS = 60
# How the kernel knows a 64-bit ARM program. Flags: P the program keeps its own argv[0], O and C setuid as usual, F the interpreter is opened now, outside the root.
_MAGIC = (rb":edgepress:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
          rb":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:%s:POCF")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_READ_ONLY_RECURSIVE = (ctypes.c_uint64 * 4)(1, 0, 0, 0)  # struct mount_attr, attr_set = MOUNT_ATTR_RDONLY


class Device:
    """The device of one settings dict: see `running.start`."""

    def __init__(self, settings: Dict[str, Any]) -> None:
        self.settings = settings
        self.state = Path(settings["state"])
        self.root = self.state / "root"
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "QEMU_CPU": settings["cpu"], "HOME": "/root"}
        self.pids: Dict[str, int] = {}
        self.starters: Dict[str, Callable[[], None]] = {"sshd": self.start_sshd, "adbd": self.start_adbd, "adb server": self.start_adb_server}

    # -- file system and network -------------------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Everything but the daemons. All changes go to memory and vanish with the namespaces."""
        _command("mount", "--make-rprivate", "/")
        _command("mount", "-t", "tmpfs", "-o", "mode=0755", "edgepress", str(self.state))
        for name in ("upper", "work", "root", "binfmt", "ssh", "home", "log"):
            (self.state / name).mkdir()
        self._register_qemu()
        options = f"lowerdir={_escape(self.settings['root'])},upperdir={self.state}/upper,workdir={self.state}/work,userxattr"
        _command("mount", "-t", "overlay", "-o", options, "overlay", str(self.root))
        self._mount_kernel_folders()
        (self.root / "etc/edgepress-emulated").write_text(self.settings["profile"] + "\n", encoding="ascii")
        _command(self.settings["ip"], "link", "set", "lo", "up")
        socket.sethostname("emulated-pi")

    def _register_qemu(self) -> None:
        _command("mount", "-t", "binfmt_misc", "binfmt_misc", f"{self.state}/binfmt")
        (self.state / "binfmt/register").write_bytes(_MAGIC % os.fsencode(self.settings["qemu"]))

    def _mount_kernel_folders(self) -> None:
        _command("mount", "--rbind", "/proc", f"{self.root}/proc")
        _read_only(f"{self.root}/proc/sys", bind=True)
        _mount_sys(f"{self.root}/sys")
        for name in ("dev", "tmp", "run"):
            _command("mount", "-t", "tmpfs", "-o", f"mode={'1777' if name == 'tmp' else '0755'}", name, f"{self.root}/{name}")
        for name in _DEVICES:
            (self.root / "dev" / name).touch()
            _command("mount", "--bind", f"/dev/{name}", f"{self.root}/dev/{name}")
        for name in ("pts", "shm"):
            (self.root / "dev" / name).mkdir()
        _command("mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620", "devpts", f"{self.root}/dev/pts")
        for name, to in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
            (self.root / "dev" / name).symlink_to(to)
        for name in ("run/sshd", "run/edgepress-standin"):
            (self.root / name).mkdir()

    # -- daemons -----------------------------------------------------------------------------------------------------------------------
    def start_sshd(self) -> None:
        """OpenSSH, as the user `pi`: a namespace within, because a namespace of one user knows no groups to switch to."""
        command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", f"--root={self.root}", "--wd=/", "/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/edgepress.conf"]
        self.pids["sshd"] = self._spawn("sshd", command, self.environment)
        self._wait_for(SSH_PORT, "sshd")

    def start_adbd(self) -> None:
        """Android's daemon. It asks nobody for a key, so it may listen in this private network only."""
        path = "/system/bin:" + self.environment["PATH"]
        self.pids["adbd"] = self._spawn("adbd", ["chroot", str(self.root), "/usr/sbin/adbd"], {**self.environment, "PATH": path, "ADBD_PORT": str(ADB_PORT), "HOME": "/data/local/tmp"})
        self._wait_for(ADB_PORT, "adbd")
        if "adb server" in self.pids:
            self.adb("disconnect")
            self.connect_adb()

    def start_adb_server(self) -> None:
        """This machine's adb server, in the device's network; clients reach it through a socket file."""
        (self.state / "adb.sock").unlink(missing_ok=True)
        self.pids["adb server"] = self._spawn("adb", [*self._adb(), "nodaemon", "server"], self._adb_environment())
        _until(lambda: _opens(socket.AF_UNIX, f"{self.state}/adb.sock"), "the adb server", lambda: self._alive("adb server"), self.state / "log/adb")
        self.connect_adb()

    def connect_adb(self) -> None:
        """Let the server know the device, and wait until it is usable."""
        self.adb("connect", f"127.0.0.1:{ADB_PORT}")
        self.adb("-s", f"127.0.0.1:{ADB_PORT}", "wait-for-device")

    def adb(self, *arguments: str) -> None:
        """Run this machine's adb client."""
        subprocess.run([*self._adb(), *arguments], env=self._adb_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_START_SECONDS, check=False)

    def _adb(self) -> List[str]:
        return [self.settings["adb"], "-L", f"localfilesystem:{self.state}/adb.sock"]

    def _adb_environment(self) -> Dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": f"{self.state}/home", "TMPDIR": f"{self.state}/log", "ADB_MDNS": "0"}

    def _spawn(self, name: str, command: List[str], environment: Dict[str, str]) -> int:
        with (self.state / "log" / name).open("ab") as log:
            child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        child.returncode = 0  # reaped by `serve`, not by Popen
        return child.pid

    def _alive(self, name: str) -> bool:
        try:
            os.kill(self.pids[name], 0)
        except ProcessLookupError:
            return False
        return os.waitpid(self.pids[name], os.WNOHANG)[0] == 0

    def _wait_for(self, port: int, name: str) -> None:
        _until(lambda: _opens(socket.AF_INET, ("127.0.0.1", port)), name, lambda: self._alive(name), self.state / "log" / name)

    # -- requests ----------------------------------------------------------------------------------------------------------------------
    def kill(self, what: str) -> None:
        """Kill a daemon and its sessions with SIGKILL; commands that it started go on, as they do on a real device."""
        words = {"sshd": (b"/sshd", b"/sshd-session", b"/sshd-auth"), "adbd": (b"/adbd",), "adb server": (b"fork-server", b"nodaemon")}[what]
        for pid, arguments in _processes():
            if any(argument.endswith(words) for argument in arguments[:6]):
                _kill(pid)
        self.pids.pop(what, None)

    def restart(self, what: str) -> None:
        """Kill a daemon and start it again."""
        self.kill(what)
        self.starters[what]()

    def reboot(self) -> None:
        """Everything that runs there dies at once, /tmp and /run are empty afterwards, files stay. The adb server is this machine's and lives on."""
        keep = {os.getpid(), self.pids.get("adb server")}
        for pid, arguments in _processes():
            if pid not in keep and arguments:
                _kill(pid)
        daemons = [name for name in ("sshd", "adbd") if self.pids.pop(name, None)]
        for name in ("tmp", "run"):
            subprocess.run(["find", f"{self.root}/{name}", "-mindepth", "1", "-delete"], check=False)
        for name in ("run/sshd", "run/edgepress-standin"):
            (self.root / name).mkdir()
        for name in daemons:
            self.starters[name]()

    def serve(self) -> None:
        """Answer requests until stdin ends."""
        requests = {"kill": self.kill, "restart": self.restart, "reboot": self.reboot}
        while True:
            ready, _, _ = select.select([sys.stdin], [], [], 1.0)
            _reap()
            if not ready:
                continue
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            _answer(lambda: requests[request["do"]](*request["with"]))


def _processes() -> List[Any]:
    """(pid, arguments) of every process here."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((int(folder.name), (folder / "cmdline").read_bytes().split(b"\0")[:-1]))
            except OSError:
                continue  # it has just ended
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    for _ in range(100):  # until it has let go of its port
        _reap()
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.02)


def _reap() -> None:
    """Collect processes that ended: the first process of a namespace inherits every orphan."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _mount_sys(path: str) -> None:
    """Without /sys LiteRT does not find its processors and leaves XNNPACK out. A fresh read-only one; this machine's own, made read-only, where the kernel refuses that."""
    if subprocess.run(["mount", "-t", "sysfs", "-o", "ro,nosuid,nodev,noexec", "sysfs", path], stderr=subprocess.DEVNULL, check=False).returncode:
        _command("mount", "--rbind", "/sys", path)
        _read_only(path, bind=False)


def _read_only(path: str, *, bind: bool) -> None:
    if bind:
        _command("mount", "--rbind", path, path)
    libc = ctypes.CDLL(None, use_errno=True)
    at_fdcwd, at_recursive, mount_setattr = -100, 0x8000, 442
    if libc.syscall(mount_setattr, at_fdcwd, path.encode(), at_recursive, _READ_ONLY_RECURSIVE, ctypes.sizeof(_READ_ONLY_RECURSIVE)):
        raise RuntimeError(f"{path} cannot be made read-only: {os.strerror(ctypes.get_errno())}")


def _escape(path: str) -> str:
    """A path as overlayfs options take it."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _opens(family: int, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        return probe.connect_ex(address) == 0


def _until(ready: Callable[[], bool], name: str, alive: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while not ready():
        if not alive() or time.monotonic() > end:
            text = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{name} did not come up: {text}")
        time.sleep(0.05)


def _command(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def _answer(work: Optional[Callable[[], None]]) -> bool:
    """Do something and write one line about how it went."""
    try:
        work()
        error = None
    except Exception as failure:  # whatever it is, the process that started us must read it
        error = f"{type(failure).__name__}: {failure}"
    sys.stdout.write(json.dumps({"error": error}) + "\n")
    sys.stdout.flush()
    return error is None


def main() -> None:
    """Read the settings, start the device, serve."""
    device = Device(json.loads(sys.stdin.readline()))
    if not _answer(device.prepare):
        return
    device.serve()


if __name__ == "__main__":
    main()
