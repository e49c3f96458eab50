"""Put a bundle or run on a page, serve it, and collect what browsers measure, until told to stop."""
from __future__ import annotations

import contextlib
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from edgepress.artifact import is_artifact
from edgepress.browser import packages
from edgepress.browser.content import write_content
from edgepress.browser.results import Results
from edgepress.browser.server import PageServer, own_addresses
from edgepress.browser.tls import self_signed
from edgepress.bundle_files import MANIFEST
from edgepress.errors import ArtifactError
from edgepress.measurement import FILE, Measurement, read_measurements
from edgepress.report_data import is_run

Tell = Callable[[List[Measurement]], None]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Serving:
    """A page that is being served."""

    urls: List[str]
    file: Path
    results: Results
    fingerprint: Optional[str]  # of the certificate made for it
    finished: threading.Event  # set after the first result where only one is wanted


@contextlib.contextmanager
def serving(source: Path, *, out: Optional[Path] = None, host: str = "127.0.0.1", port: int = 0, https: bool = False, once: bool = False,
            tell: Tell = lambda found: None) -> Iterator[Serving]:
    """Serve a bundle or run while the block runs.

    Args:
        out: folder for measurements.json; default: `<source>-browser` beside it. What is there already is kept.
        tell: called with the measurements of each result that came in.
        once: set `finished` after the first result.

    Raises:
        UnsupportedError: the browsers' runtimes are not installed; says the command.
        ArtifactError: neither a bundle nor a run.
        DeviceError: the address or port cannot be had.
    """
    file = _result_file(source, out)
    shipped = packages.installed_files()
    with tempfile.TemporaryDirectory(prefix="edgepress-serve-") as folder:
        page = Path(folder)
        app = write_content(source, page, served=True)
        results, finished = Results(app, file), threading.Event()
        tls, fingerprint = self_signed(own_addresses()) if https else (None, None)

        def accept(data: Any) -> Mapping[str, Any]:
            found = results.accept(data)
            tell(found)
            if once:
                finished.set()
            return {"saved": len(found), "file": file.name}

        server = PageServer(_listed(page, shipped), accept, host="127.0.0.1" if host == "localhost" else host, port=port, tls=tls)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield Serving(server.urls(), file, results, fingerprint, finished)
        finally:
            server.shutdown()
            server.server_close()


def _result_file(source: Path, out: Optional[Path]) -> Path:
    """Where results go; refused before anything starts where the file there is no list of measurements."""
    source = source.resolve()
    folder = out if out is not None else source.with_name(f"{source.name}-browser")
    if folder.exists() and (not folder.is_dir() or is_artifact(folder) or (folder / MANIFEST).exists() or is_run(folder)):
        raise ArtifactError(f"{folder} is a bundle, a run, an artifact or no folder, so no measurements go there", "give another folder with -o")
    if (folder / FILE).exists():
        read_measurements(folder / FILE)
    return folder / FILE


def _listed(page: Path, shipped: Mapping[str, Path]) -> Dict[str, Path]:
    """Every path that is served and its file."""
    own = {path.relative_to(page).as_posix(): path for path in page.rglob("*") if path.is_file()}
    return {**own, **{f"packages/{name}": path for name, path in shipped.items()}}


def exposure(host: str, https: bool) -> str:
    """What serving at this address means, in words."""
    if host in LOOPBACK:
        return "Only this computer can open it. For a phone on the same network: --host 0.0.0.0"
    plain = "" if https else " Over plain http others on the network can read along, and phones lend no camera or threads: --https gives both."
    where = "any of this computer's addresses" if host in ("0.0.0.0", "::") else f"this computer at {host}"
    return f"Everyone who reaches {where} and has this link can load the model, its labels and the photos shown there, and hand in results; nothing else of this computer.{plain}"
