"""An address as a QR code for terminals, by the library segno."""
from __future__ import annotations

import importlib.util
import io

from edgepress.errors import MissingDependencyError


def qr_text(address: str) -> str:
    """The code in half blocks, dark on light whatever the terminal's colors are; scannable from the screen.

    Raises:
        MissingDependencyError: segno is not installed.
    """
    if importlib.util.find_spec("segno") is None:
        raise MissingDependencyError("segno", extra="web", why="a QR code")
    import segno

    out = io.StringIO()
    segno.make_qr(address, error="l").terminal(out, border=2, compact=True)
    return out.getvalue()
