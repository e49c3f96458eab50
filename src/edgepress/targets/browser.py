"""A browser as a target: it comes to us. Commands cannot be sent there, so `edgepress device serve` hands it a page that measures and reports back."""
from __future__ import annotations

from edgepress.errors import UnsupportedError
from edgepress.targets.base import Connection

NAME = "browser"


def connect(address: str) -> Connection:
    """Refuse, with the command that does it.

    Raises:
        UnsupportedError: always.
    """
    raise UnsupportedError(f"{address} cannot be told to run a command: a browser only runs the page that it opened",
                           "edgepress device serve BUNDLE prints an address and a QR code; the page that it opens measures and hands its results back")
