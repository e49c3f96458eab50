"""Releases of a deployed bundle on the device itself: staged beside the old one, proven, made current in one rename, undone. Device-safe.

    apps/<name>/releases/<sha of manifest.json>/   the bundle, unpacked
    apps/<name>/current -> releases/<sha>          replaced in one rename
    apps/<name>/history.json                       releases in the order in which they became current
    apps/<name>/pythons/<sha of manifest.json>     path of the Python that has the runtime of that release
    apps/<name>/run                                `run PHOTO…`: the current release in its Python

Killed at any point, `current` is the old release or the new one, never something between, and what is half-made is removed by the next deploy.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from edgepress import bundle_files
from edgepress.artifact import digest_file, write_atomic
from edgepress.errors import ArtifactError, EdgepressError, GateError, UnsupportedError, nearest
from edgepress.extract import extract

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RELEASE = re.compile(r"[0-9a-f]{64}")
PROGRAMS = ("run.py", "predict.py")  # of a bundle, the first one it has
HISTORY, CURRENT, LAUNCHER, INCOMING, PYTHONS = "history.json", "current", "run", ".incoming", "pythons"
TIMEOUT_SECONDS = 300


def check_name(name: str) -> str:
    """The name of an app, where it is one.

    Raises:
        ArtifactError: it could not be a folder everywhere.
    """
    if not NAME.fullmatch(name):
        raise ArtifactError(f"the app name {name!r} cannot be a folder everywhere; accepted: small letters, digits, dot, - and _, 64 at most", "choose another --name")
    return name


def run_action(job: Mapping[str, Any], folder: Path) -> Dict[str, Any]:
    """What a release job of the worker does; `folder` is the job's own."""
    action = job["action"]
    if action not in ACTIONS:
        raise ArtifactError(f"release action {action!r} does not exist; {nearest(str(action), ACTIONS)}")
    apps = Path(os.path.expanduser(job["apps"]))
    app = apps / check_name(job["name"])
    if action in ("stage", "activate"):
        app.mkdir(parents=True, exist_ok=True)
    elif not app.is_dir():
        names = sorted(p.name for p in apps.iterdir()) if apps.is_dir() else []
        raise ArtifactError(f"no app {app.name!r} is deployed here; " + (nearest(app.name, names) if names else "none is"), "deploy a bundle first: edgepress deploy")
    with _locked(app):
        return ACTIONS[action](app, job, folder)


@contextlib.contextmanager
def _locked(app: Path) -> Iterator[None]:
    """Only one deploy of an app at a time; the lock ends with the process."""
    import fcntl

    with open(app / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ArtifactError(f"another deploy of {app.name} is going on here", "wait for it to end") from error
        yield


def stage(app: Path, job: Mapping[str, Any], folder: Path) -> Dict[str, Any]:
    """Unpack an archive, prove each byte, run the self-test, and only then give it its place among the releases; `current` stays as it is.

    Raises:
        ArtifactError: not the release that was meant, a damaged file, a signature that is missing or wrong.
        GateError: its model does not answer here as it did when it was packed.
    """
    release = str(job["release"])
    if not RELEASE.fullmatch(release):
        raise ArtifactError(f"release {release!r} is no sha256", "deploy again")
    _clean(app)
    place = app / "releases" / release
    made = not (place.is_dir() and not _problems(place, release))
    incoming = app / INCOMING
    if made:
        extract(folder / job["archive"], incoming / release)
        problems = _problems(incoming / release, release)
        if problems:
            raise ArtifactError(f"what arrived is not the bundle that was sent: {problems[0]}", "deploy again")
    source = incoming / release if made else place
    try:
        signed = _check_signature(source, folder / job["key"]) if job.get("key") else None
        tested = _selftest(source, job)
        if made:
            _settle(source, place, app)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return {"release": release, "folder": str(place), "current": _current(app), "reused": not made, "signed": signed, **tested}


def _problems(folder: Path, release: str) -> List[str]:
    """Why a folder is not this release, byte for byte."""
    try:
        if digest_file(folder / bundle_files.MANIFEST) != release:
            return [f"{bundle_files.MANIFEST} is another one"]
        return bundle_files.check_files(folder)
    except (OSError, EdgepressError) as error:
        return [str(error)]


def _check_signature(folder: Path, key: Path) -> str:
    """Digest of the key that signed the folder.

    Raises:
        ArtifactError: not signed, or not by this key, or not these bytes.
    """
    from edgepress.verify import NotVerified, verify

    try:
        return str(verify(str(folder), str(key))["key"])
    except NotVerified as error:
        raise ArtifactError(f"the bundle is not verified on the device: {error}", "nothing in it was run; get it again from its maker") from error


def _selftest(folder: Path, job: Mapping[str, Any]) -> Dict[str, Any]:
    """The golden photos through the model, in this Python and the runtime that was chosen; then through those beside it whose runtime this Python has."""
    manifest = bundle_files.read_manifest(folder)
    results: Dict[str, Dict[str, Any]] = {}
    unchecked: Dict[str, str] = {}
    for model in (manifest["model"], *(entry["file"] for entry in manifest.get("models", ()) if entry["file"] != manifest["model"])):
        try:
            problems, results[model] = bundle_files.check_golden(folder, runtime=None if results else job.get("runtime"), threads=1, model=model)
        except UnsupportedError as error:
            if not results:
                raise
            unchecked[model] = f"{sys.executable}: {error.message}"
            continue
        if problems:
            raise GateError(f"the self-test failed on the device: {model}: {problems[0]}", "the old release stays current; `edgepress device parity` shows each photo")
    main = results[manifest["model"]]
    return {"runtime": main["runtime"], "photos": main["rows"], "unchecked": unchecked}


def _settle(source: Path, place: Path, app: Path) -> None:
    """Move a proven release to its place; its bytes are on the disk before its name is."""
    place.parent.mkdir(exist_ok=True)
    if (source / PROGRAMS[0]).exists():
        os.chmod(source / PROGRAMS[0], 0o755)
    os.sync()
    if place.exists():  # there, but damaged
        os.rename(place, app / INCOMING / "damaged")
    os.rename(source, place)


def activate(app: Path, job: Mapping[str, Any], folder: Path) -> Dict[str, Any]:
    """Make a staged release the current one, run it once as users will, and go back to the old one where that fails.

    Raises:
        GateError: it does not run; the old release is current again.
    """
    release, before = str(job["release"]), _current(app)
    place = app / "releases" / release
    if not RELEASE.fullmatch(release) or not place.is_dir():
        raise ArtifactError(f"release {release[:12]} is not staged on the device", "deploy again")
    history = _history(app)
    kept = history[:history.index(before) + 1] if before in history else [before] if before else []
    write_atomic(app / HISTORY, json.dumps((kept if kept and kept[-1] == release else kept + [release])).encode())
    _write_launcher(app, release)
    _point(app, release)
    problem = _try(app)
    if problem:
        _undo(app, before, kept, release)
        raise GateError(f"release {release[:12]} does not run on the device: {problem}", f"release {before[:12]} is current again" if before else "nothing is current, as before")
    removed = _prune(app, keep=int(job.get("keep") or 3))
    return {"release": release, "previous": before if before != release else None, "current": _current(app), "launcher": str(app / LAUNCHER), "removed": removed}


def _undo(app: Path, before: Optional[str], history: List[str], release: str) -> None:
    """As it was before a release that does not run."""
    if before:
        _point(app, before)
    else:
        os.unlink(app / CURRENT)
    write_atomic(app / HISTORY, json.dumps(history).encode())
    if release not in history:
        shutil.rmtree(app / "releases" / release, ignore_errors=True)


def _write_launcher(app: Path, release: str) -> None:
    """The launcher, the same for all releases, and beside it which Python this one wants: each runtime may have an environment of its own."""
    (app / PYTHONS).mkdir(exist_ok=True)
    write_atomic(app / PYTHONS / release, f"{sys.executable}\n".encode())
    program = "\n".join(f'[ -f "$app/current/{name}" ] && exec "$python" "$app/current/{name}" "$@"' for name in PROGRAMS)
    text = (f'#!/bin/sh\n# Runs the current release: {LAUNCHER} PHOTO…\napp=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)\n'
            f'now=$(readlink "$app/current")\n{{ read -r python < "$app/{PYTHONS}/${{now##*/}}"; }} 2>/dev/null || python={shlex.quote(sys.executable)}\n'
            f'{program}\necho "nothing is deployed in $app" >&2\nexit 1\n')
    write_atomic(app / LAUNCHER, text.encode())
    os.chmod(app / LAUNCHER, 0o755)


def _point(app: Path, release: str) -> None:
    """Replace `current` in one rename."""
    fresh = app / f".{CURRENT}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    os.symlink(os.path.join("releases", release), fresh)
    os.replace(fresh, app / CURRENT)
    folder = os.open(app, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _try(app: Path) -> Optional[str]:
    """Why the current release does not answer one of its own photos, or None."""
    photo = next(iter(sorted((app / CURRENT / "golden").iterdir())), None)
    command = ["sh", str(app / LAUNCHER), str(photo)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"it did not answer one photo within {TIMEOUT_SECONDS} seconds"
    return None if done.returncode == 0 else f"{LAUNCHER} {photo} ended with exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}"


def roll_back(app: Path, job: Mapping[str, Any], folder: Path) -> Dict[str, Any]:
    """Make the release current that was so before this one.

    Raises:
        ArtifactError: there is none, or it is damaged.
        GateError: it does not run any more; the one that was current is current again.
    """
    now, history = _current(app), _history(app)
    older = [release for release in history[:history.index(now)] if (app / "releases" / release).is_dir()] if now in history else []
    if not older:
        raise ArtifactError(f"{app.name} has no release before {now[:12] if now else 'the first one'}", "deploy another bundle")
    problems = _problems(app / "releases" / older[-1], older[-1])
    if problems:
        raise ArtifactError(f"release {older[-1][:12]} is damaged: {problems[0]}", "deploy its bundle again")
    _point(app, older[-1])
    problem = _try(app)
    if problem and now:
        _point(app, now)
        raise GateError(f"release {older[-1][:12]} does not run any more: {problem}", f"release {now[:12]} is current again")
    return {"release": older[-1], "previous": now, "current": _current(app), "launcher": str(app / LAUNCHER)}


def discard(app: Path, job: Mapping[str, Any], folder: Path) -> Dict[str, Any]:
    """Remove a staged release that is not current."""
    release = str(job["release"])
    if RELEASE.fullmatch(release) and release != _current(app) and release not in _history(app):
        shutil.rmtree(app / "releases" / release, ignore_errors=True)
    return {"current": _current(app)}


def show(app: Path, job: Mapping[str, Any], folder: Path) -> Dict[str, Any]:
    """What is deployed."""
    releases = sorted(p.name for p in (app / "releases").iterdir() if RELEASE.fullmatch(p.name)) if (app / "releases").is_dir() else []
    return {"current": _current(app), "history": _history(app), "releases": releases, "launcher": str(app / LAUNCHER)}


def _current(app: Path) -> Optional[str]:
    try:
        release = os.path.basename(os.readlink(app / CURRENT))
    except OSError:
        return None
    return release if (app / "releases" / release).is_dir() else None


def _history(app: Path) -> List[str]:
    try:
        found = json.loads((app / HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(release) for release in found] if isinstance(found, list) else []


def _prune(app: Path, *, keep: int) -> List[str]:
    """Remove all but the last `keep` releases; the current one and the one before it always stay."""
    history = _history(app)
    stay = set(history[-max(2, keep):]) | {_current(app)}
    gone = [path for path in sorted((app / "releases").iterdir()) if path.name not in stay]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(app / PYTHONS / path.name)
    write_atomic(app / HISTORY, json.dumps([release for release in history if release in stay]).encode())
    return [path.name for path in gone]


def _clean(app: Path) -> None:
    """Remove what a killed deploy left."""
    shutil.rmtree(app / INCOMING, ignore_errors=True)
    for path in (app / f".{CURRENT}.new", *app.glob(".*.part-*")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


ACTIONS: Mapping[str, Callable[[Path, Mapping[str, Any], Path], Dict[str, Any]]] = {
    "stage": stage, "activate": activate, "rollback": roll_back, "discard": discard, "show": show}
