"""The target table: scheme → module. A target is a place where a command can run; see `base.Target`."""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Mapping

from edgepress.errors import UnsupportedError, nearest

if TYPE_CHECKING:
    from edgepress.targets.base import Connection

TARGETS: Mapping[str, str] = {"local": "edgepress.targets.local"}


def connect(target: str) -> Connection:
    """Open a target: "local", or scheme://address.

    Raises:
        UnsupportedError: there is no such kind of target.
    """
    scheme = target.partition("://")[0]
    if scheme not in TARGETS:
        raise UnsupportedError(f"target {target!r} does not exist; {nearest(scheme, TARGETS)}", "use local")
    return importlib.import_module(TARGETS[scheme]).connect(target)
