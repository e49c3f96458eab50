"""Serving from a terminal: the address on stdout, the QR code and what comes in on stderr."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Optional

from edgepress.browser.qr import qr_text
from edgepress.browser.serving import Serving, exposure, serving
from edgepress.errors import MissingDependencyError
from edgepress.measurement import Measurement
from edgepress.measurement_table import table
from edgepress.progress import drawn_progress


def serve_here(source: Path, *, host: str, port: int, https: bool, out: Optional[Path], once: bool) -> List[Measurement]:
    """Serve until Ctrl-C (or the first result); the measurements that came in.

    Raises:
        As `serving`.
    """
    with drawn_progress(), serving(source, out=out, host=host, port=port, https=https, once=once, tell=_tell) as page:
        _greet(page, host, https)
        try:
            page.finished.wait()
        except KeyboardInterrupt:
            pass
    count = len(page.results.measurements)
    _say(f"{count} measurement{'s' if count != 1 else ''} came in" + (f": {page.file}" if count else "; nothing was written"))
    return page.results.measurements


def _greet(page: Serving, host: str, https: bool) -> None:
    try:
        _say(qr_text(page.urls[0]))
    except MissingDependencyError as error:
        _say(str(error))
    for url in page.urls:
        print(url, flush=True)
    _say(exposure(host, https))
    if page.fingerprint:
        _say(f"The browser will warn of this certificate, which nobody vouches for. Its SHA-256 fingerprint: {page.fingerprint}")
    _say("Ctrl-C ends it; then the address is worth nothing any more.")


def _tell(found: List[Measurement]) -> None:
    _say(table(found))
    if any(one.measured_on == "emulated" for one in found):
        _say("note: a headless browser measured this; its records say emulated and are no figures of a phone")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
