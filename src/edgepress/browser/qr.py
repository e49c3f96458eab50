"""An address as a QR code for terminals, by the library segno."""
from __future__ import annotations

import importlib.util
import io
import sys

from edgepress.errors import MissingDependencyError

WHITE_ON_BLACK, PLAIN = "\x1b[97;40m", "\x1b[0m"


def qr_text(address: str) -> str:
    """The code in half blocks; on a terminal, in black and white whatever its colors are.

    Raises:
        MissingDependencyError: segno is not installed.
    """
    if importlib.util.find_spec("segno") is None:
        raise MissingDependencyError("segno", extra="web", why="a QR code")
    import segno

    out = io.StringIO()
    segno.make_qr(address, error="l").terminal(out, border=2, compact=True)
    text = out.getvalue()
    return "\n".join(f"{WHITE_ON_BLACK}{line}{PLAIN}" for line in text.splitlines()) if sys.stderr.isatty() else text
