"""A bundle as one zip file, and back: the same folder gives the same bytes, and what comes from elsewhere is unpacked with suspicion."""
from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from edgepress import bundle_files
from edgepress.artifact import SUFFIXES, fsync_folder, replace_folder, write_atomic
from edgepress.errors import ArtifactError, EdgepressError
from edgepress.extract import extract
from edgepress.signing import sign_folder, verify_folder
from edgepress.worker_pack import add_entry

SUFFIX = ".zip"
FOLDER = "bundle"  # inside the stage's artifact, whose artifact.json names this machine and stays there


def write_zip(folder: Path, out: Path) -> None:
    """Write every file of a folder into the zip `out`: sorted, stored (versions of zlib differ), without dates. It appears whole or not at all."""
    write_atomic(out, zip_bytes(folder))


def zip_bytes(folder: Path) -> bytes:
    """The bytes that `write_zip` writes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            add_entry(archive, path.relative_to(folder).as_posix(), path.read_bytes())
    return data.getvalue()


@contextlib.contextmanager
def opened_bundle(bundle: Path) -> Iterator[Path]:
    """The folder of a bundle, a folder itself or a zip, whose every file is as its manifest says.

    Raises:
        ArtifactError: no bundle, a damaged one, or an archive that is hostile.
    """
    with tempfile.TemporaryDirectory(prefix="edgepress-bundle-") as temporary:
        folder = bundle
        if bundle.suffix.lower() in SUFFIXES:
            raise ArtifactError(f"{bundle} is a model file; accepted: the folder or the .zip that `edgepress bundle` writes", "`edgepress bundle RUN -o bundle/` packs the model of a run")
        if bundle.is_file():
            folder = Path(temporary) / "bundle"
            extract(bundle, folder)
        if not (folder / bundle_files.MANIFEST).is_file():
            raise ArtifactError(f"{bundle} {'is no bundle: it has no ' + bundle_files.MANIFEST if bundle.exists() else 'does not exist'}; accepted: the folder or the .zip that `edgepress bundle` writes",
                                "make one with `edgepress bundle RUN -o bundle/`")
        problems = bundle_files.check_files(folder)
        if problems:
            raise ArtifactError(f"{bundle} is not as it was packed: {problems[0]}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""), "pack or copy it again; nothing in it was run")
        yield folder


def verify_bundle(bundle: Path, *, key: Optional[Path]) -> Dict[str, Any]:
    """Check a bundle: each byte against its manifest, and with `key` its signature. {"bundle", "files", "signed", "signed_by"}.

    A zip must also be byte for byte what `edgepress bundle` writes: what stands between the files of an archive is covered by no signature.

    Raises:
        ArtifactError: anything is not as it was packed, or not as it was signed.
    """
    with opened_bundle(bundle) as folder:
        if bundle.is_file() and bundle.read_bytes() != zip_bytes(folder):
            raise ArtifactError(f"{bundle} was not written by edgepress as it is: its files are whole, but other bytes of the archive were changed", "unpack it and verify the folder, or get it again")
        signed_by = verify_folder(folder, key) if key else None
        return {"bundle": str(bundle), "files": len(bundle_files.read_manifest(folder)["files"]), "signed": (folder / "model.sig").is_file(), "signed_by": signed_by}


def export_bundle(folder: Path, out: Path, *, key: Optional[Path]) -> None:
    """Put a bundle where the user wants it, a folder or (where the name ends in .zip) one file, signed with `key`. A bundle that lies there is replaced.

    Raises:
        ArtifactError: something else lies there, or it cannot be written.
    """
    is_zip = out.suffix.lower() == SUFFIX
    check_place(out)
    part = out.parent / f".{out.name}.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        inner = part / (out.stem if is_zip else out.name)  # the folder's name is part of what is signed
        shutil.copytree(folder, inner)
        if key:
            sign_folder(inner, key)
        if is_zip:
            write_zip(inner, out)
        else:
            _sync(inner)
            replace_folder(inner, out)
    except OSError as error:
        raise ArtifactError(f"{out} cannot be made: {error.strerror} ({error.filename})", "choose another -o") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_place(out: Path) -> None:
    """Refuse to replace what is no whole bundle.

    Raises:
        ArtifactError: something else lies at `out`.
    """
    is_zip = out.suffix.lower() == SUFFIX
    if not os.path.lexists(out) or (out.is_dir() and not is_zip and not any(out.iterdir())):
        return
    try:
        if out.is_symlink() or out.is_file() != is_zip:
            raise ArtifactError("it is something else")
        with opened_bundle(out):
            return
    except EdgepressError as error:
        raise ArtifactError(f"{out} exists and is not a whole bundle; accepted: a new name, or a bundle to replace", "choose another -o, or remove it") from error


def _sync(folder: Path) -> None:
    places: List[Path] = [folder]
    for path in folder.rglob("*"):
        if path.is_dir():
            places.append(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    for place in places:
        fsync_folder(place)
