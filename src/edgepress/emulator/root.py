"""Build the file system of the emulated device once, and keep it. No package script runs, no root is needed."""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Iterator, Optional

from edgepress.emulator import bytecode, packages
from edgepress.emulator.standins import STANDINS
from edgepress.errors import UnsupportedError
from edgepress.progress import report_progress

VERSION = 2  # raised when this module would build something else from the same ingredients
SUITE = "trixie"  # what Raspberry Pi OS is made of today
ARCHITECTURE = "arm64"
PYTHON = "3.13"
PACKAGES = ("base-files", "python3", "python3-venv", "libgomp1", "libstdc++6", "openssh-server", "adbd", "openssl", "bash", "dash", "coreutils", "findutils", "grep", "sed", "mawk", "tar", "gzip",
            "util-linux", "procps", "libc-bin", "hostname")
# The host's own versions, so that answers can be compared byte by byte.
WHEELS = ("ai-edge-litert==2.3.0", "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0")
_RECORD = "built.json"  # beside the root: what it was made of
SITE = "usr/lib/python3/dist-packages"
_FOLDERS = ("proc", "dev", "sys", "tmp", "run", "root", "mnt", "home/pi", "etc/ssh", "etc/ssl/certs", "data/local/tmp", "system/bin", "var/tmp", "usr/bin", SITE)
_FILES = {
    "etc/passwd": "root:*:0:0:root:/root:/bin/bash\npi:*:1000:1000:pi:/home/pi:/bin/bash\nsshd:*:100:65534::/run/sshd:/usr/sbin/nologin\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\npi:x:1000:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\npi:*:19000:0:99999:7:::\n",  # "*": no password, but not locked, else sshd refuses keys too
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    "etc/hosts": "127.0.0.1 localhost emulated-pi\n::1 localhost\n",
    "etc/hostname": "emulated-pi\n",
}


def emulator_home() -> Path:
    """Where emulated roots are kept: $EDGEPRESS_HOME/emulator, ~/.local/share/edgepress/emulator by default."""
    home = os.environ.get("EDGEPRESS_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share" / "edgepress") / "emulator"


def root_key() -> str:
    """Short digest of everything the root is made from."""
    ingredients = [VERSION, SUITE, ARCHITECTURE, PYTHON, PACKAGES, WHEELS, STANDINS, _FOLDERS, _FILES]
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]


def build_root(home: Optional[Path] = None, *, rebuild: bool = False) -> Path:
    """The emulated device's file system, the same for all profiles: built from nothing where it is not there yet, never changed afterwards.

    Args:
        home: where it is kept; `emulator_home()` by default.
        rebuild: fetch everything anew (the versions of packages that the archive has today).

    Raises:
        UnsupportedError, JobError: it cannot be built here; nothing is kept.
    """
    home = Path(os.path.abspath(emulator_home() if home is None else home))
    folder = home / f"root-{root_key()}"
    with only_builder(home):
        if rebuild or not folder.exists():
            _build(home, folder)
    return folder / "root"


@contextlib.contextmanager
def only_builder(home: Path) -> Iterator[None]:
    """One builder at a time; the others wait and find it done."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UnsupportedError(f"{error.filename or home} cannot be written ({error.strerror})", "make room there (0.6 GB), or set EDGEPRESS_HOME to another folder of yours") from error


def hold_root(root: Path) -> IO[bytes]:
    """A file whose open descriptor, here or in a child, keeps this root from being removed."""
    held = (root.parent / _RECORD).open("rb")
    fcntl.flock(held, fcntl.LOCK_SH)
    return held


def _sweep(home: Path) -> None:
    """Remove what killed builders and replaced roots left, but not what a running device stands on."""
    for left in home.glob(".part-*"):
        with contextlib.ExitStack() as stack:
            if (left / _RECORD).exists():
                try:
                    fcntl.flock(stack.enter_context((left / _RECORD).open("rb")), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
            shutil.rmtree(left, ignore_errors=True)


def _build(home: Path, folder: Path) -> None:
    started = time.monotonic()
    _sweep(home)
    part = home / f".part-{os.getpid()}-{time.time_ns()}"
    try:
        _fill(part)
        if folder.exists():
            os.rename(folder, part.with_name(f"{part.name}-old"))
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _sweep(home)
    report_progress(f"built the emulated device in {time.monotonic() - started:.0f} s: {folder}")


def _fill(part: Path) -> None:
    """Fetch and unpack, all sources at the same time."""
    root = part / "root"
    root.mkdir(parents=True)
    report_progress(f"fetching Debian {SUITE} ({ARCHITECTURE}) and wheels for Python {PYTHON}")
    with ThreadPoolExecutor(max_workers=2) as pool:
        site = pool.submit(_fill_site, part / "wheels", part / "site")
        python = pool.submit(bytecode.fetch_python, PYTHON, suite=SUITE, work=part / "python")
        debs = packages.download_packages(PACKAGES, suite=SUITE, architecture=ARCHITECTURE, work=part / "apt")
        packages.unpack_packages(debs, root)
        wheels = site.result()
    _finish(root, part / "site")
    bytecode.compile_modules(root, (f"usr/lib/python{PYTHON}", SITE), version=PYTHON, python=python.result())
    (part / _RECORD).write_text(json.dumps({"suite": SUITE, "packages": [p.name for p in debs], "wheels": [w.name for w in wheels]}, indent=1), encoding="utf-8")
    for name in ("apt", "wheels", "python"):
        shutil.rmtree(part / name)


def _fill_site(wheels: Path, site: Path) -> list:
    wheels.mkdir(parents=True)
    found = packages.download_wheels(WHEELS, python=PYTHON, folder=wheels)
    packages.unpack_wheels(found, site)
    return found


def _finish(root: Path, site: Path) -> None:
    """What package scripts would have set up."""
    for name in _FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for entry in site.iterdir():
        os.rename(entry, root / SITE / entry.name)
    site.rmdir()
    for name, text in _FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    for name, text in STANDINS.items():
        (root / name).write_text(text, encoding="utf-8")
        (root / name).chmod(0o755)
    from pip._vendor import certifi  # of this Python: pip there opens some certificates even to install from a folder

    shutil.copyfile(certifi.where(), root / "etc/ssl/certs/ca-certificates.crt")
    for name, to in (("usr/bin/awk", "mawk"), ("usr/bin/sh", "dash")):
        if not os.path.lexists(root / name):
            (root / name).symlink_to(to)
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("home/pi", 0o700), ("data/local/tmp", 0o777)):
        (root / name).chmod(mode)
