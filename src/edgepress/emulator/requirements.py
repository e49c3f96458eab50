"""What this machine must have to play another one, and the exact command that brings what is missing."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import List, Optional, Sequence

from edgepress.errors import UnsupportedError

QEMU = "qemu-aarch64-static"
QEMU_SYSTEM = "qemu-system-aarch64"
# LiteRT 2.3 and onnxruntime >= 1.30 crash under QEMU 7.2 (Debian 12's own) and run under 10.0.
QEMU_VERSION = (10, 0)
# From this version on a user namespace has a binfmt_misc of its own.
KERNEL_VERSION = (6, 7)
_COMMANDS = {"unshare": "util-linux", "nsenter": "util-linux", "mount": "mount", "ip": "iproute2", "dpkg-deb": "dpkg", "tar": "tar", "ssh-keygen": "openssh-client",
             "ssh": "openssh-client", "adb": "adb", "apt-get": "apt"}
_PACKAGES = {**_COMMANDS, QEMU: "qemu-user-static", QEMU_SYSTEM: "qemu-system-arm"}
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_USABLE = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc",
           "sh", "-c", "mount -t tmpfs none /mnt && mkdir /mnt/b && mount -t binfmt_misc none /mnt/b"]


def find_command(name: str) -> str:
    """Path of a command of this machine, /usr/sbin included.

    Raises:
        UnsupportedError: it is not installed.
    """
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise _absent([name])
    return path


def _absent(names: Sequence[str]) -> UnsupportedError:
    packages = dict.fromkeys(_PACKAGES.get(name, name) for name in names)
    return UnsupportedError(f"emulating a device needs {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not installed here", f"install with: {_install(*packages)}")


def require(*, network_services: bool = True) -> None:
    """Check everything that starting needs.

    Raises:
        UnsupportedError: another processor, QEMU is missing or too old, a command is missing, or the kernel has no usable namespaces.
    """
    if os.uname().machine != "x86_64":  # on arm64 the private registration would catch QEMU itself
        raise UnsupportedError(f"this machine is {os.uname().machine}; devices are emulated on x86_64 only", "on a 64-bit ARM machine run the file itself: it needs no emulation")
    missing = [name for name in (QEMU, *_COMMANDS) if shutil.which(name, path=_PATH) is None and (network_services or name != "adb")]
    if missing:
        raise _absent(missing)
    _require_qemu(QEMU)
    _require_namespaces()


def reason() -> Optional[str]:
    """Why no device can be emulated here, with the fix; None where one can."""
    try:
        require()
    except UnsupportedError as error:
        return str(error)
    return None


def qemu_version(path: str) -> List[int]:
    """Version of a QEMU program as numbers; empty where it does not say."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return [int(number) for number in found.groups()] if found else []


def require_counting() -> str:
    """Path of the QEMU that counts instructions.

    Raises:
        UnsupportedError: it is missing or too old.
    """
    return _require_qemu(QEMU_SYSTEM)


def _require_qemu(name: str) -> str:
    path = find_command(name)
    version = qemu_version(path)
    if tuple(version) < QEMU_VERSION:
        written = ".".join(map(str, version)) or "of an unknown version"
        raise UnsupportedError(f"{path} is {written}: LiteRT and onnxruntime crash under it; accepted: {'.'.join(map(str, QEMU_VERSION))} or newer",
                               f"install with: {_install(_PACKAGES[name])}")
    return path


def _require_namespaces() -> None:
    release = os.uname().release
    numbers = tuple(int(n) for n in re.findall(r"\d+", release)[:2])
    if numbers < KERNEL_VERSION:
        raise UnsupportedError(f"Linux {release} has no binfmt_misc of its own per user namespace; accepted: {'.'.join(map(str, KERNEL_VERSION))} or newer", "boot a newer kernel")
    done = subprocess.run(_USABLE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnsupportedError(f"this kernel lets {_who()} make no private namespaces ({done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode})", _namespace_fix())


def _namespace_fix() -> str:
    """The switch that forbids it here, as a command."""
    switches = (("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"),
                ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
                ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"))
    for path, value, fix in switches:
        if Path(path).exists() and Path(path).read_text(encoding="ascii").strip() == value:
            return f"allow it with: {fix}"
    if not Path("/proc/config.gz").exists() and Path("/.dockerenv").exists():
        return "start the container with: --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    return "allow user namespaces on this machine (in a container: --security-opt seccomp=unconfined --security-opt systempaths=unconfined) and load binfmt_misc: sudo modprobe binfmt_misc"


def _who() -> str:
    return "root" if os.geteuid() == 0 else "an ordinary user"


def _install(*packages: str) -> str:
    """The command that installs Debian packages here: Debian 12 has a QEMU that is new enough in its backports only."""
    release = Path("/etc/os-release").read_text(encoding="utf-8") if Path("/etc/os-release").exists() else ""
    if "VERSION_CODENAME=bookworm" in release and any(package.startswith("qemu") for package in packages):
        return f"sudo apt-get install -t bookworm-backports {' '.join(packages)}  (with bookworm-backports in the apt sources)"
    return f"sudo apt-get install {' '.join(packages)}"
