"""The target table: scheme → module. A target is a place where a command can run; see `base.Target`."""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Mapping

from edgepress.errors import UnsupportedError, nearest

if TYPE_CHECKING:
    from edgepress.targets.base import Connection

TARGETS: Mapping[str, str] = {"local": "edgepress.targets.local", "ssh": "edgepress.targets.ssh", "adb": "edgepress.targets.adb", "emu": "edgepress.targets.emu",
                             "browser": "edgepress.targets.browser"}


def connect(target: str) -> Connection:
    """Open a target: "local", or scheme://address.

    Raises:
        UnsupportedError: there is no such kind of target.
        DeviceError: it is unreachable, refused us, or is in use by somebody else.
    """
    scheme = target.partition("://")[0]
    if scheme not in TARGETS:
        raise UnsupportedError(f"target {target!r} does not exist; {nearest(scheme, TARGETS)}", "for example ssh://pi@raspberrypi.local, adb://SERIAL, or a name that `edgepress device add` gave")
    return importlib.import_module(TARGETS[scheme]).connect(target)
