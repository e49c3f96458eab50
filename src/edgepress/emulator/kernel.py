"""Fetch Debian's arm64 kernel for virtual machines once, and keep it."""
from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from edgepress.emulator import packages
from edgepress.emulator.root import ARCHITECTURE, SUITE, only_builder
from edgepress.errors import JobError
from edgepress.progress import report_progress

# Debian's smallest kernel: what a virtual machine needs is built in.
PACKAGE = "linux-image-cloud-arm64"


def fetch_kernel(home: Path) -> Path:
    """The kernel's image; fetched from the Debian archive where it is not there yet.

    Raises:
        JobError: apt failed; nothing is kept.
    """
    image = Path(os.path.abspath(home)) / f"kernel-{SUITE}" / "vmlinuz"
    with only_builder(home):
        if not image.exists():
            _fetch(image)
    return image


def _fetch(image: Path) -> None:
    report_progress(f"fetching the Linux kernel of Debian {SUITE} ({ARCHITECTURE})")
    part = image.parent.with_name(f".part-kernel-{os.getpid()}")
    try:
        found = packages.download_packages([PACKAGE], suite=SUITE, architecture=ARCHITECTURE, work=part / "apt")
        kernels = [path for path in found if re.match(r"linux-image-\d", path.name)]
        if len(kernels) != 1:
            raise JobError(f"Debian's package {PACKAGE} brings no kernel ({', '.join(path.name for path in found)})")
        packages.unpack_packages(kernels, part / "root", only="./boot/*")
        (part / "out").mkdir()
        os.rename(next((part / "root" / "boot").glob("vmlinuz-*")), part / "out" / "vmlinuz")
        shutil.rmtree(image.parent, ignore_errors=True)
        os.rename(part / "out", image.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
