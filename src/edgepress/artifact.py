"""Artifacts: finished folders, their digests, and the one way a stage is run (cache, resume, atomic publish)."""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple, Union

from edgepress.errors import ArtifactError, ModelError

if TYPE_CHECKING:
    from edgepress.stages import Stage

RECORD = "artifact.json"
SCHEMA = 1
SUFFIXES: Mapping[str, str] = {".tflite": "tflite", ".onnx": "onnx", ".keras": "keras", ".h5": "keras"}
Inputs = Mapping[str, Union[Path, Sequence[Path], None]]


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest_stream(file)


def _digest_stream(file: Any) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """sha256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write all of `data` under `path`, or leave what was there: a hidden neighbour, fsync, rename, fsync of the folder."""
    part = path.with_name(f".{path.name}.{threading.get_ident()}.part-{os.getpid()}")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of a JSON document that people can read; file names that are not UTF-8 are escaped."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def is_artifact(path: Path) -> bool:
    """Whether `path` is a finished artifact."""
    return (path / RECORD).is_file()


def read_record(folder: Path, *, verify: bool = False) -> Dict[str, Any]:
    """The `artifact.json` of a finished artifact; checks that its files are there with their sizes and, to `verify`, their sha256.

    Raises:
        ArtifactError: no record, a damaged record, another schema, or a file that is missing or not as it was written.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} is not a finished artifact: it has no {RECORD}", "run the stage that makes it again") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / RECORD} cannot be read ({error})", "delete the folder and run the stage again") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ArtifactError(f"{folder / RECORD} is not of schema {SCHEMA}", "make it again with this version of edgepress")
    for name, facts in record.get("files", {}).items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != facts["size_bytes"]:
            raise ArtifactError(f"{file} is missing or is not the {facts['size_bytes']} bytes that were written",
                                f"delete {folder} and run the {record.get('stage')} stage again")
        if verify and digest_file(file) != facts["sha256"]:
            raise ArtifactError(f"{file} is not what was written: its bytes changed", f"delete {folder} and run the {record.get('stage')} stage again")
    return record


def model_file(path: Path, *, formats: Tuple[str, ...] = ("tflite", "onnx", "keras")) -> Path:
    """The model file `path` means: itself, or the only file of one of `formats` in a folder.

    Raises:
        ModelError: no such file, none in the folder, or several to choose from.
    """
    if path.is_file():
        if SUFFIXES.get(path.suffix.lower()) not in formats:
            raise ModelError(f"{path} is not a {' or '.join(formats)} file; accepted: names that end in "
                             + ", ".join(s for s, f in SUFFIXES.items() if f in formats))
        return _whole(path, path.parent.parent if path.parent.name == "models" else path.parent)
    if not path.is_dir():
        raise ModelError(f"{path} does not exist", "give a model file, or a folder that holds one")
    bundled = _bundle_manifest(path)
    if bundled:
        return model_file(_whole(path / bundled["model"], path), formats=formats)
    found = sorted(p for p in path.iterdir() if SUFFIXES.get(p.suffix.lower()) in formats)
    if not found:
        raise ModelError(f"{path} holds no {' or '.join(formats)} file", "give the model file itself")
    if len(found) > 1:
        raise ModelError(f"{path} holds {len(found)} model files ({', '.join(p.name for p in found)})", "name the one you mean")
    return found[0]


def _bundle_manifest(folder: Path) -> Optional[Dict[str, Any]]:
    """The manifest of a bundle's folder; None where the folder is none."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("model"), str) and isinstance(manifest.get("files"), dict) else None


def _whole(file: Path, folder: Path) -> Path:
    """`file`, unless `folder` is a bundle that does not list these very bytes: nothing loads those."""
    manifest = _bundle_manifest(folder)
    if manifest is not None:
        name = os.path.relpath(file, folder).replace(os.sep, "/")
        listed = None if name.startswith("..") else manifest["files"].get(name)
        if not isinstance(listed, dict) or not file.is_file() or digest_file(file) != listed.get("sha256"):
            raise ModelError(f"{file} is not the file that was packed into this bundle: its sha256 is not in the manifest", "nothing was loaded; pack or copy the bundle again")
    return file


def artifact_digest(folder: Path) -> str:
    """Digest of an artifact by what it was made from: its stage and key."""
    record = read_record(folder)
    return digest_json([record["stage"], record["key"]])


def digest_path(path: Path) -> str:
    """Digest of a file by its bytes, of an artifact by its key.

    Raises:
        ArtifactError: a folder that is not an artifact, or nothing there.
    """
    if path.is_file():
        return digest_file(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist", "check the path")
    return artifact_digest(path)


@functools.lru_cache(maxsize=None)
def installed_version(distribution: str) -> Optional[str]:
    """Version of an installed distribution, or None."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def stage_key(stage: Stage, *, digests: Mapping[str, Any], config: Any, versions: Mapping[str, Any]) -> str:
    """Key of a stage's result: hash of stage, version, config, input digests and the versions of what it needs."""
    return digest_json([stage.name, stage.version, dataclasses.asdict(config), digests, versions])


def run_stage(stage: Stage, *, inputs: Inputs, config: Any, out: Optional[Path] = None, work: Optional[Path] = None,
              digest: Callable[[Path], str] = digest_path, context: Any = None, call: Optional[Callable[..., None]] = None, again: bool = False) -> Path:
    """Run `stage` unless its result is there already; publish the result in one rename.

    Args:
        out: the folder to make. An older artifact of the same stage there is replaced, anything else is an error.
        work: instead of `out`: the run folder in which `<stage>-<key>` is made or found.
        digest: digest of one input path.
        context: a JSON value for whatever else the result depends on (see context.py).
        again: run it even if its result is there.
        call: runs the stage function (default: in this process); receives (stage, out folder, inputs, config).

    Returns:
        The finished artifact's folder.

    Raises:
        ArtifactError: `out` is taken by something else, or cannot be written.
    """
    digests = {role: [digest(p) for p in value] if isinstance(value, (list, tuple)) else digest(value)
               for role, value in inputs.items() if value is not None}
    versions = {name: installed_version(name) for name in stage.needs}
    key = stage_key(stage, digests={**digests, "context": context} if context is not None else digests, config=config, versions=versions)
    if out is None:
        if work is None:
            raise ValueError("run_stage needs out or work")
        out = work / f"{stage.name}-{key[:12]}"
    out = Path(os.path.abspath(out))
    if _is_current(out, stage, key) and not again:
        _sweep(out.parent)  # whoever made it may have died between its last rename and its tidying up
        return out
    started = time.time()
    with _workspace(out) as workspace:
        (call or call_here)(stage, workspace, inputs, config)
        record = {"schema": SCHEMA, "stage": stage.name, "stage_version": stage.version, "key": key, "config": dataclasses.asdict(config),
                  "inputs": digests, "input_paths": {role: [os.path.abspath(p) for p in v] if isinstance(v, (list, tuple)) else os.path.abspath(v) for role, v in inputs.items() if v is not None},
                  "versions": versions, "command": " ".join(sys.argv), "started": started, "seconds": round(time.time() - started, 3)}
        _publish(workspace, out, record)
    return out


def call_here(stage: Stage, out: Path, inputs: Inputs, config: Any) -> None:
    """Run the stage's function in this process."""
    stage.function()(out, config=config, **inputs)


def _is_current(out: Path, stage: Stage, key: str) -> bool:
    """Whether `out` already is this result; False where it may be (re)made; an error where it must not be touched."""
    if not os.path.lexists(out):
        return False
    if not out.is_dir():
        raise ArtifactError(f"{out} exists and is a file; accepted: a folder to make", "choose another -o")
    if not is_artifact(out):
        if any(out.iterdir()):
            raise ArtifactError(f"{out} exists, is not empty and was not made by edgepress", "choose another -o, or empty the folder")
        return False
    try:
        record = read_record(out, verify=True)
    except ArtifactError:
        return False  # damaged: make it again
    if record["stage"] != stage.name:
        raise ArtifactError(f"{out} already holds the result of the {record['stage']} stage", "choose another -o")
    return record["key"] == key


@contextlib.contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """A hidden empty folder beside `out`, removed if the stage fails; leftovers of dead processes are swept first."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out.parent)
        _sweep(out.parent / ".cache")
        workspace = out.parent / f".{out.name}.{threading.get_ident()}.part-{os.getpid()}"
        shutil.rmtree(workspace, ignore_errors=True)  # a killed process may have had our number
        workspace.mkdir()
    except OSError as error:
        raise ArtifactError(f"{out} cannot be made: {error.strerror} ({error.filename})", "choose a folder that can be written with -o") from error
    try:
        yield workspace
    except OSError as error:
        mended = disk_error(error, out)
        if mended is error:
            raise
        raise mended from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def disk_error(error: OSError, out: Path) -> BaseException:
    """A full, read-only or broken disk in the user's words; any other OSError is a bug of the stage and stays as it is."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ArtifactError(f"the disk is full: {out} was not made, nothing was left half-written", "free some space and run the same command again")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ArtifactError(f"{error.filename or out} cannot be written ({error.strerror})", "choose a folder that can be written with -o")
    if error.errno == errno.EIO:
        return ArtifactError(f"the disk reports an input/output error: {out} was not made, nothing was left half-written", "check the disk and run the same command again")
    return error


def _sweep(folder: Path) -> None:
    """Remove hidden work of processes that are gone (they were killed)."""
    for path in folder.glob(".*.part-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not _alive(int(pid)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # in a folder that is only read, it stays
                    path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to somebody else
    return True


def _publish(workspace: Path, out: Path, record: Dict[str, Any]) -> None:
    """fsync every file, write the record last, and rename the folder into place."""
    files = {}
    for path in sorted(p for p in workspace.rglob("*") if p.is_file()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(workspace).as_posix()] = {"sha256": digest_file(path), "size_bytes": path.stat().st_size}
    for folder in (p for p in workspace.rglob("*") if p.is_dir()):
        fsync_folder(folder)
    write_json(workspace / RECORD, {**record, "files": files})
    replace_folder(workspace, out)


def replace_folder(new: Path, out: Path) -> None:
    """Rename `new` to `out`, durably; what was there steps aside first, so that `out` is always whole or absent."""
    old = out.parent / f".{out.name}.old.part-{os.getpid()}"
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(new, out)
    except OSError:
        if old.exists():
            os.rename(old, out)
        raise
    fsync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
