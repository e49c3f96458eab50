"""Fetch what an emulated root is made of: signed Debian packages for another architecture through apt, wheels through pip. Installs nothing."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, Optional, Sequence

from edgepress.emulator.requirements import find_command
from edgepress.errors import JobError, UnsupportedError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES = Path("/etc/apt")
MIRROR_VARIABLE = "EDGEPRESS_DEBIAN_MIRROR"
# pip's --platform implies no older tag, so all are listed.
_PLATFORMS = ("manylinux_2_34_aarch64", "manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
_NOT_NEEDED = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*", "./usr/share/lintian/*", "./usr/lib/systemd/*")


def mirror() -> str:
    """URI of the Debian archive that this machine's own apt uses.

    Raises:
        UnsupportedError: it uses none, or Debian's keys are not here.
    """
    if not KEYRING.exists():
        raise UnsupportedError(f"the keys of the Debian archive ({KEYRING}) are not here, so its packages cannot be verified", "install them with: sudo apt-get install debian-archive-keyring")
    given = os.environ.get(MIRROR_VARIABLE)
    if given:
        return given
    listed = _run([find_command("apt-get"), "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"]).splitlines()
    found = [line.split("|")[2] for line in listed if line.startswith("Debian|Debian|")] or _written_archives(SOURCES)
    if not found:
        raise UnsupportedError("the apt sources of this machine name no Debian archive", f"name one: export {MIRROR_VARIABLE}=http://…/debian")
    return found[0]


def _written_archives(folder: Path) -> List[str]:
    """Archives in apt's own files, of which apt says nothing before its first update: those that are named debian, not debian-security."""
    files = [path for path in (folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))) if path.suffix in (".list", ".sources") and path.is_file()]
    lines = [line for path in files for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if re.match(r"deb\s|URIs:", line)]
    return [uri for line in lines for uri in re.findall(r"\b[a-z+]+:/\S+/debian/?(?=\s|$)", line)]


def download_packages(names: Sequence[str], *, suite: str, architecture: str, work: Path) -> List[Path]:
    """The .deb files of packages and of all they depend on; apt has verified their signatures.

    Raises:
        JobError: apt failed; holds its messages.
    """
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING} arch={architecture}] {mirror()} {suite} main\n", encoding="utf-8")
    options = {"APT::Architecture": architecture, "APT::Architectures": architecture, "Dir::State": work, "Dir::State::status": work / "status", "Dir::State::lists": work / "lists",
               "Dir::Cache": work / "cache", "Dir::Etc::sourcelist": work / "sources.list", "Dir::Etc::sourceparts": "/dev/null", "Dir::Etc::preferences": "/dev/null",
               "Dir::Etc::preferencesparts": "/dev/null", "APT::Install-Recommends": "false", "APT::Get::AllowUnauthenticated": "false", "Debug::NoLocking": "1", "APT::Sandbox::User": "",
               "Acquire::Languages": "none", "Acquire::PDiffs": "false", "Acquire::Retries": "3", "APT::Update::Error-Mode": "any", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false", "APT::Keep-Downloaded-Packages": "true",
               "Binary::apt-get::APT::Keep-Downloaded-Packages": "true"}
    apt = [find_command("apt-get"), "-qq", "-y", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]
    _run([*apt, "update"])
    _run([*apt, "--download-only", "install", *names])
    return sorted((work / "cache" / "archives").glob("*.deb"))


def unpack_packages(packages: Sequence[Path], root: Path, *, only: Optional[str] = None) -> None:
    """Unpack .deb files (or what matches `only`) below `root` without running their scripts, documentation left out."""
    for folder in ("bin", "sbin", "lib"):
        (root / "usr" / folder).mkdir(parents=True, exist_ok=True)
        if not (root / folder).is_symlink():
            (root / folder).symlink_to(f"usr/{folder}")
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(lambda package: _unpack(package, root, only), packages))


def _unpack(package: Path, root: Path, only: Optional[str]) -> None:
    chosen = ["--wildcards", only] if only else []
    excluded = [f"--exclude={pattern}" for pattern in _NOT_NEEDED]
    with subprocess.Popen([find_command("dpkg-deb"), "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive:
        _run([find_command("tar"), "-C", str(root), *excluded, "-x", "--keep-directory-symlink", "--no-same-owner", "--no-same-permissions", *chosen], stdin=archive.stdout)
    if archive.returncode:
        raise JobError(f"{package.name} cannot be unpacked", hint="it is damaged; try again")


def download_wheels(requirements: Sequence[str], *, python: str, folder: Path, dependencies: bool = True) -> List[Path]:
    """Wheels for aarch64 Linux and a Python version (and what they depend on), from the package index that pip is set up with.

    Raises:
        JobError: pip failed; holds its messages.
    """
    platforms = [part for platform in _PLATFORMS for part in ("--platform", platform)]
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", *platforms, "--python-version", python, "--implementation", "cp",
          "--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none", *([] if dependencies else ["--no-deps"]), "--dest", str(folder), *requirements])
    return sorted(folder.glob("*.whl"))


def unpack_wheels(wheels: Sequence[Path], folder: Path) -> None:
    """Unpack wheels where Python imports from (their scripts and headers are not needed)."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def _run(command: Sequence[str], *, stdin: object = subprocess.DEVNULL) -> str:
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise JobError(f"{os.path.basename(command[0])} failed while the emulated device was built", command=[str(part) for part in command], exit_code=done.returncode, stdout=done.stdout,
                       stderr=done.stderr, hint="mend that (are the Debian archive and the package index reachable?) and run it again; nothing was kept")
    return done.stdout
