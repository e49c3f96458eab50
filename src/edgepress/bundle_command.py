"""`edgepress bundle`: make (or find) the bundle of a run, and put it where the user wants it."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional

from edgepress import bundle_files
from edgepress.bundle_archive import FOLDER, check_place, export_bundle
from edgepress.recipe import BundleConfig
from edgepress.signing import public_key_of
from edgepress.single import run_single
from edgepress.stages import STAGES


def pack(run: Path, out: Path, *, config: BundleConfig, key: Optional[Path], again: bool = False) -> Dict[str, Any]:
    """Make the bundle of a run at `out`, a folder or a .zip, signed where there is a key; its manifest. What was made before is found in the run's folder.

    Raises:
        ArtifactError: something else lies at `out`, before anything is made; and what the bundle stage raises.
    """
    check_place(out)
    if key:
        public_key_of(key)
    made = run_single(STAGES["bundle"], {"run": run}, config, out=None, again=again) / FOLDER
    export_bundle(made, out, key=key)
    return bundle_files.read_manifest(made)
